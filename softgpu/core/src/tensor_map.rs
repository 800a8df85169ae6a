//! Tensor maps: what a program has made of a tensor's shape, and copies of its boxes go by.
//!
//! A map is 128 bytes that the program hands to kernels as it likes, so that what a kernel finds may be
//! anything. It begins with a mark and is taken only if making it anew from what it says gives the same bytes.
//! The layout is ours: that of a GPU is not published.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};

/// Devices of this compute capability and later ones have them.
pub const CAPABILITY: (u32, u32) = (9, 0);
/// Bytes of a map.
pub const BYTES: usize = 128;
/// What its address is a multiple of.
pub const ALIGNMENT: u64 = 64;
/// Most dimensions of a tensor.
pub const MOST_RANK: usize = 5;

const WORDS: usize = BYTES / 8;
const MARK: u64 = u64::from_le_bytes(*b"softTMA1");
/// Extents are at most this.
const MOST_EXTENT: u64 = 1 << 32;
/// Strides are less than this.
const STRIDE_END: u64 = 1 << 40;

/// Types of elements, by CUDA's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Element {
    U8,
    U16,
    U32,
    S32,
    U64,
    S64,
    F16,
    F32,
    F64,
    Bf16,
    F32Ftz,
    Tf32,
    Tf32Ftz,
    /// Several elements in a byte, or three in four.
    Packed,
}

impl Element {
    const ALL: [Self; 16] = [
        Self::U8,
        Self::U16,
        Self::U32,
        Self::S32,
        Self::U64,
        Self::S64,
        Self::F16,
        Self::F32,
        Self::F64,
        Self::Bf16,
        Self::F32Ftz,
        Self::Tf32,
        Self::Tf32Ftz,
        Self::Packed,
        Self::Packed,
        Self::Packed,
    ];

    fn of(number: u32) -> Result<Self> {
        let index = usize::try_from(number).ok();
        let found = index.and_then(|index| Self::ALL.get(index));
        found.copied().ok_or(Error::InvalidValue)
    }

    /// Bytes of one; of packed ones 1, for want of a better number.
    #[must_use]
    pub const fn bytes(self) -> u8 {
        match self {
            Self::U8 | Self::Packed => 1,
            Self::U16 | Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::S32 | Self::F32 | Self::F32Ftz | Self::Tf32 | Self::Tf32Ftz => 4,
            Self::U64 | Self::S64 | Self::F64 => 8,
        }
    }

    const fn is_float(self) -> bool {
        matches!(
            self,
            Self::F16
                | Self::F32
                | Self::F64
                | Self::Bf16
                | Self::F32Ftz
                | Self::Tf32
                | Self::Tf32Ftz
        )
    }
}

/// How the pieces of 16 bytes of a box change places in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Swizzle {
    None,
    B32,
    B64,
    B128,
}

impl Swizzle {
    /// Where what belongs at an offset of shared memory lies.
    #[must_use]
    pub const fn place(self, offset: u64) -> u64 {
        // The number of the row of 128 bytes is laid over that of the piece.
        let bits = match self {
            Self::None => 0,
            Self::B32 => 0b001,
            Self::B64 => 0b011,
            Self::B128 => 0b111,
        };
        offset ^ (offset >> 3 & bits << 4)
    }
}

/// What programs say of a tensor, whatever is to be copied of it: each number as CUDA has it.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct Shape<'a> {
    pub element: u32,
    pub address: u64,
    /// One for each dimension, the innermost first.
    pub extents: &'a [u64],
    /// One fewer: the innermost has none.
    pub strides: &'a [u64],
    pub steps: &'a [u32],
    pub interleave: u32,
    pub swizzle: u32,
    pub promotion: u32,
    pub fill: u32,
}

/// Interleaved layouts.
const INTERLEAVE_32B: u32 = 2;
/// Swizzles by larger pieces.
const SWIZZLES_OF_PIECES: std::ops::RangeInclusive<u32> = 4..=6;

impl Shape<'_> {
    /// What CUDA documents of every map; `inner` is the innermost extent of a box.
    fn check(&self, inner: u32) -> Result<Element> {
        let element = Element::of(self.element)?;
        let rank = self.extents.len();
        // Of the packed types one is aligned to 8 bytes.
        let wide = element == Element::Packed && self.element != 13;
        let unit = if self.interleave == INTERLEAVE_32B || wide {
            32
        } else {
            16
        };
        let multiple = match (element, wide) {
            (Element::Packed, true) => 128,
            (Element::Packed, false) => 2,
            _ => 1,
        };
        let bytes = u64::from(inner) * u64::from(element.bytes());
        let span = match self.swizzle {
            0 => u64::MAX,
            1 => 32,
            2 => 64,
            _ => 128,
        };
        let valid = (1..=MOST_RANK).contains(&rank)
            && self.strides.len() + 1 == rank
            && self.steps.len() == rank
            // Null too: programs that replace the address before they copy begin with that.
            && self.address.is_multiple_of(unit)
            && self.extents.iter().all(|n| (1..=MOST_EXTENT).contains(n))
            && self.extents.first().is_some_and(|n| n % multiple == 0)
            && self
                .strides
                .iter()
                .all(|n| n.is_multiple_of(unit) && *n < STRIDE_END)
            && self.steps.iter().all(|n| (1..=8).contains(n))
            && self.interleave <= INTERLEAVE_32B
            && (self.interleave == 0 || rank >= 3)
            && (self.interleave != INTERLEAVE_32B || self.swizzle == 1)
            && (self.interleave != 0 || bytes <= span || element == Element::Packed)
            && self.swizzle <= *SWIZZLES_OF_PIECES.end()
            && self.promotion <= 3
            && (self.fill == 0 || self.fill == 1 && element.is_float());
        valid.then_some(element).ok_or(Error::InvalidValue)
    }

    /// The swizzle of a valid shape of which copies are implemented.
    fn supported(&self, element: Element) -> Result<Swizzle> {
        // Copies round what is TF32 in shared memory; how is not documented.
        let known = !matches!(
            element,
            Element::Packed | Element::F32Ftz | Element::Tf32 | Element::Tf32Ftz
        );
        match self.swizzle {
            _ if !known || self.interleave != 0 || self.fill != 0 => Err(Error::NotSupported),
            0 => Ok(Swizzle::None),
            1 => Ok(Swizzle::B32),
            2 => Ok(Swizzle::B64),
            3 => Ok(Swizzle::B128),
            _ => Err(Error::NotSupported),
        }
    }
}

/// What decides which pixels a map in im2col mode stands for.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct Pixels<'a> {
    pub lower: &'a [i32],
    pub upper: &'a [i32],
    pub channels: u32,
    pub count: u32,
}

/// Whether CUDA would make a map in im2col mode of this.
///
/// # Errors
/// [`Error::InvalidValue`] if not.
pub fn check_pixels(shape: &Shape<'_>, pixels: &Pixels<'_>) -> Result<()> {
    shape.check(pixels.channels)?;
    let bits = match shape.extents.len() {
        3 => 16,
        4 => 8,
        5 => 5,
        _ => return Err(Error::InvalidValue),
    };
    let range = -(1 << (bits - 1))..1 << (bits - 1);
    let corners = pixels.lower.iter().chain(pixels.upper);
    let valid = corners.clone().count() == 2 * (shape.extents.len() - 2)
        && corners.clone().all(|n| range.contains(n))
        && (1..=256).contains(&pixels.channels)
        && (1..=1024).contains(&pixels.count);
    valid.then_some(()).ok_or(Error::InvalidValue)
}

/// A tensor in global memory, and the box of it that one copy moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorMap {
    /// Its first element.
    pub address: u64,
    /// Number of dimensions. Beyond it, extents, boxes and steps are 1 and strides 0.
    pub rank: usize,
    /// Elements along each dimension, the innermost first.
    pub extents: [u64; MOST_RANK],
    /// Bytes from one element to the next along each dimension.
    pub strides: [u64; MOST_RANK],
    /// Elements of a box along each dimension: 1 to 256.
    pub boxes: [u32; MOST_RANK],
    /// Of so many elements of a box, one is moved: 1 to 8.
    pub steps: [u32; MOST_RANK],
    /// Type of the elements; not a packed one.
    pub element: Element,
    /// How boxes lie in shared memory.
    pub swizzle: Swizzle,
}

impl TensorMap {
    /// A map for copies of boxes.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for what CUDA does not allow, [`Error::NotSupported`] for what the software GPU
    /// does not copy.
    pub fn tiled(shape: &Shape<'_>, boxes: &[u32]) -> Result<Self> {
        let inner = boxes.first().copied().unwrap_or(0);
        let element = shape.check(inner)?;
        let rank = shape.extents.len();
        let row = inner * u32::from(element.bytes());
        let whole = match element {
            Element::Packed => inner == 128 || shape.element == 13,
            _ => shape.interleave != 0 || row.is_multiple_of(16),
        };
        if boxes.len() != rank || !boxes.iter().all(|n| (1..=256).contains(n)) || !whole {
            return Err(Error::InvalidValue);
        }
        let swizzle = shape.supported(element)?;
        let full = match swizzle {
            Swizzle::None => row,
            Swizzle::B32 => 32,
            Swizzle::B64 => 64,
            Swizzle::B128 => 128,
        };
        if row != full {
            // How such rows would be padded is not documented.
            return Err(Error::NotSupported);
        }
        let mut map = Self {
            address: shape.address,
            rank,
            extents: [1; MOST_RANK],
            strides: [0; MOST_RANK],
            boxes: [1; MOST_RANK],
            steps: [1; MOST_RANK],
            element,
            swizzle,
        };
        map.extents[..rank].copy_from_slice(shape.extents);
        map.strides[0] = element.bytes().into();
        map.strides[1..rank].copy_from_slice(shape.strides);
        map.boxes[..rank].copy_from_slice(boxes);
        // That of the innermost dimension counts in interleaved layouts alone.
        map.steps[1..rank].copy_from_slice(&shape.steps[1..]);
        Ok(map)
    }

    /// The map in bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; BYTES] {
        let mut words = [0; WORDS];
        words[0] = MARK;
        words[1] = self.address;
        words[2..7].copy_from_slice(&self.extents);
        words[7..11].copy_from_slice(&self.strides[1..]);
        let packed = |values: [u32; MOST_RANK]| {
            let bytes = values.iter().rev();
            bytes.fold(0, |word, value| word << 8 | u64::from(value - 1))
        };
        let element = Element::ALL.iter().position(|known| *known == self.element);
        words[11] = packed(self.boxes);
        words[12] = packed(self.steps);
        words[13] = self.rank as u64;
        words[14] = element.unwrap_or_default() as u64;
        words[15] = self.swizzle as u64;
        let mut bytes = [0; BYTES];
        for (place, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *place = word.to_le_bytes();
        }
        bytes
    }

    /// The map that these bytes are, if they are one.
    #[must_use]
    pub fn decode(bytes: &[u8; BYTES]) -> Option<Self> {
        let mut words = [0; WORDS];
        for (word, place) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*place);
        }
        let number = |word: u64| u32::try_from(word).ok();
        let unpacked = |word: u64| {
            let [a, b, c, d, e, ..] = word.to_le_bytes();
            [a, b, c, d, e].map(|byte| u32::from(byte) + 1)
        };
        let rank = usize::try_from(words[13]).ok()?;
        if !(1..=MOST_RANK).contains(&rank) {
            return None;
        }
        let shape = Shape {
            element: number(words[14])?,
            address: words[1],
            extents: &words[2..2 + rank],
            strides: &words[7..6 + rank],
            steps: &unpacked(words[12])[..rank],
            interleave: 0,
            swizzle: number(words[15])?,
            promotion: 0,
            fill: 0,
        };
        let map = Self::tiled(&shape, &unpacked(words[11])[..rank]).ok()?;
        // Nothing else may be said in them: neither another mark, nor dimensions that there are not.
        (map.encode() == *bytes).then_some(map)
    }

    /// The same map of a tensor elsewhere.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for an address that is not aligned.
    pub fn at(self, address: u64) -> Result<Self> {
        let valid = address.is_multiple_of(16);
        valid
            .then_some(Self { address, ..self })
            .ok_or(Error::InvalidValue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTENTS: [u64; 5] = [64, 20, 7, 3, 1 << 32];
    const STRIDES: [u64; 4] = [256, 8192, 65536, 1 << 39];
    const BOXES: [u32; 5] = [32, 4, 256, 1, 2];
    const STEPS: [u32; 5] = [1, 2, 1, 8, 1];

    fn shape(rank: usize) -> Shape<'static> {
        Shape {
            element: 7,
            address: 0x7000_0010,
            extents: &EXTENTS[..rank],
            strides: &STRIDES[..rank - 1],
            steps: &STEPS[..rank],
            interleave: 0,
            swizzle: 3,
            promotion: 2,
            fill: 0,
        }
    }

    #[test]
    fn maps_of_every_rank_are_what_they_were_made_of() {
        for rank in 1..=MOST_RANK {
            let map = TensorMap::tiled(&shape(rank), &BOXES[..rank]).unwrap();
            let bytes = map.encode();
            assert_eq!(TensorMap::decode(&bytes), Some(map));
            let moved = TensorMap::decode(&map.at(0x9000).unwrap().encode()).unwrap();
            assert_eq!(moved.at(map.address), Ok(map));
        }
    }

    #[test]
    fn bytes_that_are_no_map_are_none() {
        let bytes = TensorMap::tiled(&shape(2), &BOXES[..2]).unwrap().encode();
        assert_eq!(TensorMap::decode(&[0; BYTES]), None);
        assert_eq!(TensorMap::decode(&[0xff; BYTES]), None);
        for at in 0..BYTES {
            for bit in 0..8 {
                let mut other = bytes;
                other[at] ^= 1 << bit;
                // Some bits make another map; none makes what cannot be made.
                if let Some(map) = TensorMap::decode(&other) {
                    assert_eq!(map.encode(), other);
                    assert!(at >= 8, "another mark");
                }
            }
        }
    }

    #[test]
    fn what_cuda_does_not_allow_is_invalid_and_what_we_do_not_copy_is_not_supported() {
        let tiled = |change: &dyn Fn(&mut Shape<'static>)| {
            let mut shape = shape(3);
            change(&mut shape);
            TensorMap::tiled(&shape, &BOXES[..3]).err()
        };
        assert_eq!(tiled(&|_| {}), None);
        let invalid: [&dyn Fn(&mut Shape<'static>); 15] = [
            &|s| s.element = 16,
            &|s| s.address += 8,
            &|s| s.extents = &[64, 0, 7],
            &|s| s.extents = &[64, 20, (1 << 32) + 1],
            &|s| s.extents = &[],
            &|s| s.strides = &[256, 8200],
            &|s| s.strides = &[256, 1 << 40],
            &|s| s.strides = &[256],
            &|s| s.steps = &[1, 0, 1],
            &|s| s.steps = &[1, 9, 1],
            &|s| s.interleave = 3,
            &|s| s.interleave = 2,
            &|s| s.swizzle = 7,
            &|s| s.promotion = 4,
            &|s| s.fill = 2,
        ];
        for (number, change) in invalid.iter().enumerate() {
            assert_eq!(tiled(change), Some(Error::InvalidValue), "{number}");
        }
        // NaN is for floating-point types, and rows are at most as long as the swizzle.
        assert_eq!(
            tiled(&|s| (s.element, s.fill) = (2, 1)),
            Some(Error::InvalidValue)
        );
        assert_eq!(tiled(&|s| s.swizzle = 2), Some(Error::InvalidValue));
        // Null is as good as any other address; so is an extent that no memory has.
        assert_eq!(tiled(&|s| s.address = 0), None);
        assert_eq!(tiled(&|s| s.extents = &[64, 1 << 32, 1 << 32]), None);
        let unsupported: [&dyn Fn(&mut Shape<'static>); 6] = [
            &|s| s.fill = 1,
            &|s| s.interleave = 1,
            &|s| s.swizzle = 4,
            &|s| s.element = 10,
            &|s| s.element = 11,
            // Half a row of the swizzle.
            &|s| s.element = 6,
        ];
        for change in unsupported {
            assert_eq!(tiled(change), Some(Error::NotSupported));
        }
        for boxes in [[32, 0, 1], [32, 257, 1], [31, 1, 1]] {
            let made = TensorMap::tiled(&shape(3), &boxes);
            assert_eq!(made.err(), Some(Error::InvalidValue), "{boxes:?}");
        }
    }

    #[test]
    fn im2col_maps_follow_the_documented_limits() {
        let check = |rank, lower: &[i32], upper: &[i32], channels, count| {
            let pixels = Pixels {
                lower,
                upper,
                channels,
                count,
            };
            let plain = Shape {
                swizzle: 0,
                ..shape(rank)
            };
            check_pixels(&plain, &pixels).is_ok()
        };
        assert!(check(3, &[-32768], &[32767], 256, 1024));
        assert!(check(4, &[-128, 0], &[127, 0], 1, 1));
        assert!(check(5, &[-16, 0, 0], &[15, 0, 0], 64, 64));
        assert!(!check(2, &[], &[], 64, 64));
        assert!(!check(3, &[-32769], &[0], 64, 64));
        assert!(!check(4, &[0, 0], &[128, 0], 64, 64));
        assert!(!check(5, &[0, 0, 0], &[16, 0, 0], 64, 64));
        assert!(!check(3, &[0], &[0], 257, 64) && !check(3, &[0], &[0], 0, 64));
        assert!(!check(3, &[0], &[0], 64, 1025) && !check(3, &[0], &[0], 64, 0));
        assert!(!check(4, &[0], &[0], 64, 64));
    }

    #[test]
    fn swizzles_change_pieces_of_a_row_by_its_number() {
        assert_eq!(Swizzle::None.place(0x3f7), 0x3f7);
        assert_eq!(Swizzle::B128.place(0x80), 0x90);
        assert_eq!(Swizzle::B128.place(0x3f4), 0x384);
        assert_eq!(Swizzle::B64.place(0x180), 0x1b0);
        assert_eq!(Swizzle::B64.place(0x200), 0x200);
        assert_eq!(Swizzle::B32.place(0x80), 0x90);
        assert_eq!(Swizzle::B32.place(0x100), 0x100);
    }
}
