//! Texture and surface instructions.
#![forbid(unsafe_code)]

/// What a texture or surface instruction takes its texels from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Geometry {
    D1,
    D2,
    D3,
    /// Layers of rows.
    A1,
    /// Layers of planes.
    A2,
    Cube,
    /// Layers of cubes.
    ACube,
}

impl Geometry {
    /// Coordinates of a texel, the layer included.
    #[must_use]
    pub const fn coordinates(self) -> usize {
        match self {
            Self::D1 => 1,
            Self::D2 | Self::A1 => 2,
            Self::D3 | Self::A2 | Self::Cube => 3,
            Self::ACube => 4,
        }
    }

    /// Whether the first coordinate is a layer.
    #[must_use]
    pub const fn layered(self) -> bool {
        matches!(self, Self::A1 | Self::A2 | Self::ACube)
    }
}

/// A fetch from a texture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetch {
    /// What it fetches from.
    pub geometry: Geometry,
    /// Coordinates are integers.
    pub integer: bool,
    /// The component of four neighbours (`tld4`), rather than four components.
    pub gather: Option<u8>,
}

/// What `txq` and `suq` ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ImageProperty {
    Width,
    Height,
    Depth,
    ChannelType,
    ChannelOrder,
    NormalizedCoordinates,
    ArraySize,
    LevelCount,
    SampleCount,
    ForceUnnormalized,
    FilterMode,
    AddressMode(u8),
    MemoryLayout,
}

/// What a surface access does outside the surface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outside {
    /// The kernel ends.
    Trap,
    /// The nearest place inside is accessed.
    Clamp,
    /// Loads yield zero, stores are dropped.
    Zero,
}

/// An access to a surface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SurfaceAccess {
    /// What it accesses.
    pub geometry: Geometry,
    /// Outside of it.
    pub outside: Outside,
    /// Bytes of an access, all elements together; 0 for a formatted one, which has a texel's.
    pub bytes: u8,
    /// Elements.
    pub count: u8,
}

/// Read-modify-write operations on surfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SurfaceOp {
    Add,
    MinS,
    MinU,
    MaxS,
    MaxU,
    And,
    Or,
}
