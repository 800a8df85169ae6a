//! Numbers that are the same in every run, so that a failure can be repeated.
#![forbid(unsafe_code)]

/// A sequence, by its seed (xorshift).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        // Any number but 0.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.number() % limit
    }

    /// An index into a list of so many, which is not empty.
    pub fn index(&mut self, len: usize) -> usize {
        let len = u64::try_from(len).expect("a length fits");
        usize::try_from(self.below(len)).expect("it is below a usize")
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let byte = |_| self.number().to_le_bytes()[0];
        (0..count).map(byte).collect()
    }
}
