//! The window: where host memory that both sides share has the same address (D13).
//!
//! At attach both sides try to reserve the candidates, say which they got as a bit mask, and the
//! supervisor picks one that both have. The arena is mapped at its start. Device ranges are
//! mirrored in the client by reserving the same addresses, so that no mapping of the tenant's can
//! alias them.

#[cfg(not(loom))]
mod arena;
#[cfg(not(loom))]
mod fork;
#[cfg(not(loom))]
mod reserve;

#[cfg(not(loom))]
pub use arena::Arena;
#[cfg(not(loom))]
pub use fork::ForkPage;
#[cfg(not(loom))]
pub use reserve::{Mirror, Reservation, ReserveError, reserve_candidates};

/// Size of a window: the most an arena can have.
pub const WINDOW_BYTES: u64 = 1 << 40;

/// Bases of the candidates, best first: a row of 1 TiB steps down from 112 TiB, below what Linux gives
/// out top-down, above heaps and fixed executables, and clear of the shadow memory of sanitizers.
pub const CANDIDATES: [u64; 8] = {
    let mut bases = [0; 8];
    let mut base = 0x7000_0000_0000;
    let mut i = 0;
    while i < bases.len() {
        bases[i] = base;
        base -= WINDOW_BYTES;
        i += 1;
    }
    bases
};

/// The best candidate in all masks, if they have one in common. Unknown bits are ignored.
pub fn common_candidate(masks: &[u32]) -> Option<usize> {
    let known = (1 << CANDIDATES.len()) - 1;
    let common = masks.iter().fold(known, |common, mask| common & mask);
    (common != 0).then(|| common.trailing_zeros().try_into().unwrap_or(usize::MAX))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_disjoint_windows_in_user_space() {
        for pair in CANDIDATES.windows(2) {
            assert_eq!(pair[0] - pair[1], WINDOW_BYTES);
        }
        assert!(CANDIDATES.iter().all(|base| base + WINDOW_BYTES < 1 << 47));
    }

    #[test]
    fn the_lowest_common_bit_wins_and_none_is_none() {
        assert_eq!(common_candidate(&[0b1110, 0b1100]), Some(2));
        assert_eq!(common_candidate(&[0b1, 0b10]), None);
        assert_eq!(common_candidate(&[u32::MAX << 8, u32::MAX]), None);
        assert_eq!(common_candidate(&[u32::MAX]), Some(0));
    }
}
