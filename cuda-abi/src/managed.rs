//! Managed memory as the API describes it: what a program advised, and where it prefetched to, page by page.
//!
//! Both sides keep managed memory where host and devices reach it alike, so advice moves nothing. It is kept
//! because programs ask for it back.

use std::collections::BTreeMap;

use crate::types::{CUmem_advise, CUmem_range_attribute, CUmemLocationType, CUresult};

/// Advice is kept for whole pages.
const PAGE: u64 = 4096;

/// Ordinal that stands for the host where a device is asked for: `CU_DEVICE_CPU`.
pub const HOST: i32 = -1;
/// Ordinal that stands for no one place: `CU_DEVICE_INVALID`.
pub const NOWHERE: i32 = -2;

/// A place that advice names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// The host's memory.
    Host,
    /// That of the host's NUMA node with this number.
    Node(i32),
    /// A device's.
    Device(i32),
}

impl Location {
    /// As the older functions name it.
    const fn ordinal(self) -> i32 {
        match self {
            Self::Host => HOST,
            // There is no ordinal for it.
            Self::Node(_) => NOWHERE,
            Self::Device(device) => device,
        }
    }

    const fn kind(self) -> CUmemLocationType {
        match self {
            Self::Host => CUmemLocationType::CU_MEM_LOCATION_TYPE_HOST,
            Self::Node(_) => CUmemLocationType::CU_MEM_LOCATION_TYPE_HOST_NUMA,
            Self::Device(_) => CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
        }
    }

    const fn id(self) -> i32 {
        match self {
            Self::Host => 0,
            Self::Node(id) | Self::Device(id) => id,
        }
    }
}

/// What is known of one piece.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Advice {
    read_mostly: bool,
    preferred: Option<Location>,
    accessed_by: Vec<i32>,
    prefetched: Option<Location>,
}

/// What is known of one managed allocation.
#[derive(Clone, Debug)]
pub struct Managed {
    /// First address of each piece, and what is known of it; the first piece begins with the allocation.
    pieces: BTreeMap<u64, Advice>,
    end: u64,
}

impl Managed {
    /// An allocation of which nothing was said.
    #[must_use]
    pub fn new(start: u64, bytes: u64) -> Self {
        Self {
            pieces: BTreeMap::from([(start, Advice::default())]),
            end: start.saturating_add(bytes),
        }
    }

    /// Its first address.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.pieces.keys().next().copied().unwrap_or(self.end)
    }

    /// Takes advice about a range.
    ///
    /// # Errors
    /// `INVALID_VALUE` for advice that there is not; `INVALID_DEVICE` where it needs another place.
    pub fn advise(
        &mut self,
        start: u64,
        bytes: u64,
        advice: CUmem_advise,
        place: Option<Location>,
    ) -> Result<(), CUresult> {
        use CUmem_advise as A;
        let wrong_place = CUresult::CUDA_ERROR_INVALID_DEVICE;
        let change: Box<dyn Fn(&mut Advice)> = match advice {
            A::CU_MEM_ADVISE_SET_READ_MOSTLY => Box::new(|piece| piece.read_mostly = true),
            A::CU_MEM_ADVISE_UNSET_READ_MOSTLY => Box::new(|piece| piece.read_mostly = false),
            A::CU_MEM_ADVISE_SET_PREFERRED_LOCATION => {
                let place = place.ok_or(wrong_place)?;
                Box::new(move |piece| piece.preferred = Some(place))
            }
            A::CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION => Box::new(|piece| piece.preferred = None),
            A::CU_MEM_ADVISE_SET_ACCESSED_BY => {
                let ordinal = accessor(place).ok_or(wrong_place)?;
                Box::new(move |piece| {
                    if let Err(at) = piece.accessed_by.binary_search(&ordinal) {
                        piece.accessed_by.insert(at, ordinal);
                    }
                })
            }
            A::CU_MEM_ADVISE_UNSET_ACCESSED_BY => {
                let ordinal = accessor(place).ok_or(wrong_place)?;
                Box::new(move |piece| piece.accessed_by.retain(|one| *one != ordinal))
            }
            _ => return Err(CUresult::CUDA_ERROR_INVALID_VALUE),
        };
        self.change(start, bytes, change);
        Ok(())
    }

    /// Takes note of a prefetch.
    pub fn prefetch(&mut self, start: u64, bytes: u64, place: Location) {
        self.change(start, bytes, |piece| piece.prefetched = Some(place));
    }

    /// An attribute of a range, as the words that the caller's place of `words` words gets.
    ///
    /// # Errors
    /// `INVALID_VALUE` for an attribute that there is not, or a place of the wrong size.
    pub fn attribute(
        &self,
        start: u64,
        bytes: u64,
        attribute: CUmem_range_attribute,
        words: usize,
    ) -> Result<Vec<i32>, CUresult> {
        use CUmem_range_attribute as A;
        let end = start.saturating_add(bytes);
        let first = self.pieces.range(..=start).next_back();
        let pieces: Vec<&Advice> = first
            .into_iter()
            .chain(self.pieces.range(start.saturating_add(1)..end))
            .map(|(_, advice)| advice)
            .collect();
        let place = |of: fn(&Advice) -> Option<Location>| same(&pieces, of).flatten();
        let kind = |place: Option<Location>| {
            let kind = place.map_or(
                CUmemLocationType::CU_MEM_LOCATION_TYPE_INVALID,
                Location::kind,
            );
            i32::try_from(kind.0).unwrap_or(0)
        };
        let preferred = |piece: &Advice| piece.preferred;
        let prefetched = |piece: &Advice| piece.prefetched;
        let value = match attribute {
            A::CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY => {
                pieces.iter().all(|piece| piece.read_mostly).into()
            }
            A::CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION => {
                place(preferred).map_or(NOWHERE, Location::ordinal)
            }
            A::CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION => {
                place(prefetched).map_or(NOWHERE, Location::ordinal)
            }
            A::CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_TYPE => kind(place(preferred)),
            A::CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_TYPE => kind(place(prefetched)),
            A::CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_ID => {
                place(preferred).map_or(0, Location::id)
            }
            A::CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_ID => {
                place(prefetched).map_or(0, Location::id)
            }
            A::CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY if words > 0 => {
                // Those that all pages were advised for; what is left of the place says nowhere.
                let mut common = pieces
                    .first()
                    .map_or(Vec::new(), |piece| piece.accessed_by.clone());
                common.retain(|one| pieces.iter().all(|piece| piece.accessed_by.contains(one)));
                common.resize(words, NOWHERE);
                return Ok(common);
            }
            _ => return Err(CUresult::CUDA_ERROR_INVALID_VALUE),
        };
        if words == 1 {
            Ok(vec![value])
        } else {
            Err(CUresult::CUDA_ERROR_INVALID_VALUE)
        }
    }

    /// Changes the pages that a range touches.
    fn change(&mut self, start: u64, bytes: u64, change: impl Fn(&mut Advice)) {
        let start = (start / PAGE * PAGE).max(self.start());
        let end = start
            .max(start.saturating_add(bytes))
            .checked_next_multiple_of(PAGE)
            .map_or(self.end, |end| end.min(self.end));
        self.cut(start);
        self.cut(end);
        for (_, advice) in self.pieces.range_mut(start..end) {
            change(advice);
        }
    }

    /// Makes a piece begin at an address.
    fn cut(&mut self, at: u64) {
        if at >= self.end {
            return;
        }
        if let Some((_, before)) = self.pieces.range(..=at).next_back() {
            let copy = before.clone();
            self.pieces.entry(at).or_insert(copy);
        }
    }
}

/// Who may access, as `CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY` tells it.
fn accessor(place: Option<Location>) -> Option<i32> {
    match place? {
        Location::Node(_) => None,
        place => Some(place.ordinal()),
    }
}

/// What all pieces agree on.
fn same<T: PartialEq>(pieces: &[&Advice], of: impl Fn(&Advice) -> T) -> Option<T> {
    let (first, rest) = pieces.split_first()?;
    let value = of(first);
    rest.iter().all(|piece| of(piece) == value).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use CUmem_advise as Advise;
    use CUmem_range_attribute as Attribute;

    const START: u64 = 16 * PAGE;

    fn ask(managed: &Managed, start: u64, bytes: u64, attribute: Attribute) -> i32 {
        managed.attribute(start, bytes, attribute, 1).unwrap()[0]
    }

    #[test]
    fn advice_holds_for_the_pages_it_was_given_for() {
        let mut managed = Managed::new(START, 4 * PAGE);
        let read_mostly = Attribute::CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY;
        let set = Advise::CU_MEM_ADVISE_SET_READ_MOSTLY;
        managed.advise(START + PAGE + 5, 10, set, None).unwrap();
        assert_eq!(ask(&managed, START + PAGE, PAGE, read_mostly), 1);
        assert_eq!(ask(&managed, START, PAGE, read_mostly), 0);
        assert_eq!(ask(&managed, START + PAGE, PAGE + 1, read_mostly), 0);
        managed.advise(START, 4 * PAGE, set, None).unwrap();
        assert_eq!(ask(&managed, START, 4 * PAGE, read_mostly), 1);
        let unset = Advise::CU_MEM_ADVISE_UNSET_READ_MOSTLY;
        managed.advise(START + 3 * PAGE, 1, unset, None).unwrap();
        assert_eq!(ask(&managed, START, 3 * PAGE, read_mostly), 1);
        assert_eq!(ask(&managed, START, 4 * PAGE, read_mostly), 0);
    }

    #[test]
    fn places_are_told_where_all_pages_have_the_same() {
        let mut managed = Managed::new(START, 2 * PAGE);
        let preferred = Attribute::CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION;
        let kind = Attribute::CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_TYPE;
        assert_eq!(ask(&managed, START, PAGE, preferred), NOWHERE);
        let set = Advise::CU_MEM_ADVISE_SET_PREFERRED_LOCATION;
        assert!(managed.advise(START, PAGE, set, None).is_err());
        managed
            .advise(START, PAGE, set, Some(Location::Device(1)))
            .unwrap();
        assert_eq!(ask(&managed, START, PAGE, preferred), 1);
        assert_eq!(ask(&managed, START, PAGE, kind), 1);
        assert_eq!(ask(&managed, START, 2 * PAGE, preferred), NOWHERE);
        managed.prefetch(START, 2 * PAGE, Location::Host);
        let last = Attribute::CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION;
        assert_eq!(ask(&managed, START, 2 * PAGE, last), HOST);
    }

    #[test]
    fn accessors_are_those_of_all_pages_and_then_nowhere() {
        let mut managed = Managed::new(START, 2 * PAGE);
        let set = Advise::CU_MEM_ADVISE_SET_ACCESSED_BY;
        managed
            .advise(START, 2 * PAGE, set, Some(Location::Host))
            .unwrap();
        managed
            .advise(START, PAGE, set, Some(Location::Device(0)))
            .unwrap();
        let by = Attribute::CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY;
        assert_eq!(
            managed.attribute(START, PAGE, by, 3),
            Ok(vec![HOST, 0, NOWHERE])
        );
        assert_eq!(
            managed.attribute(START, 2 * PAGE, by, 2),
            Ok(vec![HOST, NOWHERE])
        );
        assert!(managed.attribute(START, PAGE, by, 0).is_err());
        assert!(managed.attribute(START, PAGE, Attribute(99), 1).is_err());
    }
}
