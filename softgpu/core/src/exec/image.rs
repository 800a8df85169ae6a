//! Textures and surfaces: what an object is, and how texels are fetched, filtered and written.
//!
//! Texels lie in rows and planes of device memory, in the order of their coordinates. Filtering follows
//! the CUDA programming guide: coordinates are moved by half a texel, and weights have eight bits of
//! fraction. Filtering of a cube stays inside a face.
#![forbid(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "texel values and coordinates are converted as the formats say"
)]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::AddressSpace;
use super::access::{Checked, Span};
use super::fault::FaultKind;
use super::memory::{LaneFault, lanes};
use super::warp::Frame;
use crate::ptx::ir::*;

/// What a channel of a texel holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Channel {
    U8,
    U16,
    U32,
    S8,
    S16,
    S32,
    F16,
    F32,
}

impl Channel {
    /// Its size.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::U8 | Self::S8 => 1,
            Self::U16 | Self::S16 | Self::F16 => 2,
            Self::U32 | Self::S32 | Self::F32 => 4,
        }
    }

    /// Whether it holds integers.
    #[must_use]
    pub const fn is_integer(self) -> bool {
        !matches!(self, Self::F16 | Self::F32)
    }
}

/// How a texel lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// Each channel.
    pub channel: Channel,
    /// Channels: 1, 2 or 4.
    pub count: u32,
}

impl Format {
    /// Bytes of a texel.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.channel.bytes() * self.count as u64
    }
}

/// Planes of rows of texels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Address of the first texel.
    pub base: u64,
    /// Texels of a row.
    pub width: u32,
    /// Rows of a plane.
    pub height: u32,
    /// Planes: the depth, or layers, or faces.
    pub planes: u32,
    /// Bytes from a row to the next.
    pub pitch: u64,
    /// Bytes from a plane to the next.
    pub slice: u64,
}

/// What happens to coordinates outside the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Address {
    Wrap,
    Clamp,
    Mirror,
    Border,
}

/// How a texture is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    /// By axis.
    pub address: [Address; 3],
    /// Neighbours are mixed, rather than the nearest taken.
    pub linear: bool,
    /// Neighbouring levels are mixed.
    pub mip_linear: bool,
    /// Coordinates run from 0 to 1.
    pub normalized: bool,
    /// Integers are read as fractions of their largest value.
    pub fraction: bool,
    /// Channels hold sRGB values, to be made linear.
    pub srgb: bool,
    /// Texels outside, where the mode is [`Address::Border`].
    pub border: [f32; 4],
    /// Added to the level of detail.
    pub bias: f32,
    /// Bounds of the level of detail.
    pub levels: (f32, f32),
}

/// A texture or a surface.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Its texels.
    pub format: Format,
    /// Dimensions of a layer: 1, 2 or 3.
    pub dimensions: u32,
    /// Layers; 0 for one that is not layered.
    pub layers: u32,
    /// Its planes are the faces of cubes.
    pub cube: bool,
    /// At least one; what is linear memory has a single row.
    pub levels: Vec<Level>,
    /// It is linear memory, outside of which everything is zero.
    pub linear_memory: bool,
    /// How it is read; none for a surface.
    pub sampler: Option<Sampler>,
}

/// An image in use by a warp: the object, and the memory of the level used last.
struct Reader<'a> {
    space: &'a dyn AddressSpace,
    object: u64,
    image: Arc<Image>,
    span: (u64, Span),
}

type FaultResult<T> = Result<T, FaultKind>;

impl<'a> Reader<'a> {
    fn new(space: &'a dyn AddressSpace, object: u64) -> FaultResult<Self> {
        let image = space
            .image(object)
            .ok_or(FaultKind::InvalidImage { object })?;
        Ok(Self {
            space,
            object,
            image,
            span: (0, Span::EMPTY),
        })
    }

    fn place(&mut self, base: u64, address: u64, bytes: u64, write: bool) -> FaultResult<Checked> {
        if self.span.0 != base {
            self.span = (
                base,
                Span::of_image(self.space, base).unwrap_or(Span::EMPTY),
            );
        }
        let illegal = FaultKind::IllegalAddress { address, write };
        self.span.1.place(address, bytes, write).ok_or(illegal)
    }

    /// One channel, extended to 32 bits; floating-point ones as f32.
    fn channel(&mut self, base: u64, address: u64) -> FaultResult<u32> {
        let channel = self.image.format.channel;
        let place = self.place(base, address, channel.bytes(), false)?;
        Ok(match channel {
            Channel::U8 => place.load8().into(),
            Channel::S8 => i32::from(place.load8() as i8) as u32,
            Channel::U16 => place.load16().into(),
            Channel::S16 => i32::from(place.load16() as i16) as u32,
            Channel::F16 => half::f16::from_bits(place.load16()).to_f32().to_bits(),
            Channel::U32 | Channel::S32 | Channel::F32 => place.load32(),
        })
    }

    /// A texel as its channels are; what it has not is 0, and 1 for the last.
    fn texel(&mut self, level: usize, at: [u32; 3]) -> FaultResult<[u32; 4]> {
        let place = self.image.levels[level.min(self.image.levels.len() - 1)];
        let format = self.image.format;
        let address = place.base
            + u64::from(at[2]) * place.slice
            + u64::from(at[1]) * place.pitch
            + u64::from(at[0]) * format.bytes();
        let floating = self.sampler().fraction || !format.channel.is_integer();
        let mut texel = [0, 0, 0, if floating { 1f32.to_bits() } else { 1 }];
        for (slot, index) in texel.iter_mut().zip(0..u64::from(format.count)) {
            let bits = self.channel(place.base, address + index * format.channel.bytes())?;
            *slot = if self.sampler().fraction {
                fraction(format.channel, bits).to_bits()
            } else {
                bits
            };
        }
        if self.sampler().srgb && floating {
            for slot in &mut texel[..3] {
                *slot = linear_of_srgb(f32::from_bits(*slot)).to_bits();
            }
        }
        Ok(texel)
    }

    fn sampler(&self) -> Sampler {
        // Fetches are made of textures only: `fetch` looks first.
        self.image.sampler.unwrap_or(NEAREST)
    }

    /// The texel at integer coordinates anywhere, the last one a plane that is inside.
    fn addressed(&mut self, level: usize, at: [i64; 3], axes: usize) -> FaultResult<[u32; 4]> {
        let place = self.image.levels[level.min(self.image.levels.len() - 1)];
        let sampler = self.sampler();
        let sizes = [place.width, place.height, place.planes];
        let mut inside = [0u32; 3];
        for axis in 0..3 {
            let size = i64::from(sizes[axis].max(1));
            let mode = if axis < axes {
                sampler.address[axis]
            } else {
                Address::Clamp
            };
            let fits = (0..size).contains(&at[axis]);
            if !fits && self.image.linear_memory {
                return Ok([0; 4]);
            }
            let index = match mode {
                _ if fits => at[axis],
                Address::Wrap if sampler.normalized => at[axis].rem_euclid(size),
                Address::Mirror if sampler.normalized => {
                    let turn = at[axis].rem_euclid(2 * size);
                    turn.min(2 * size - 1 - turn)
                }
                Address::Border => return Ok(sampler.border.map(f32::to_bits)),
                _ => at[axis].clamp(0, size - 1),
            };
            inside[axis] = index as u32;
        }
        self.texel(level, inside)
    }

    /// A fetch at floating-point coordinates from one level.
    fn sample(
        &mut self,
        level: usize,
        at: [f32; 3],
        axes: usize,
        plane: Option<u32>,
        gather: Option<u8>,
    ) -> FaultResult<[u32; 4]> {
        let sampler = self.sampler();
        let place = self.image.levels[level.min(self.image.levels.len() - 1)];
        let sizes = [place.width, place.height, place.planes];
        let mut scaled = [0f64; 3];
        for axis in 0..axes {
            let scale = if sampler.normalized {
                f64::from(sizes[axis].max(1))
            } else {
                1.0
            };
            // What is not a number is taken for 0; the bounds keep what follows exact.
            let value = f64::from(at[axis]) * scale;
            scaled[axis] = if value.is_nan() {
                0.0
            } else {
                value.clamp(-1e15, 1e15)
            };
        }
        let fixed = i64::from(plane.unwrap_or(0));
        let whole = |corner: [f64; 3]| {
            let [x, y, z] = corner.map(|c| c.floor() as i64);
            [x, y, if plane.is_some() { fixed } else { z }]
        };
        if gather.is_none() && !sampler.linear {
            let at = whole(scaled);
            return self.addressed(level, at, axes);
        }
        let mut weights = [0f64; 3];
        let mut corner = [0f64; 3];
        for axis in 0..axes {
            // Rounded to the eight bits of fraction that the weights have.
            let moved = ((scaled[axis] - 0.5) * 256.0).round() / 256.0;
            corner[axis] = moved.floor();
            weights[axis] = moved - corner[axis];
        }
        let first = whole(corner);
        if let Some(component) = gather {
            // Counterclockwise, from the lower left.
            let mut four = [0; 4];
            for (slot, (dx, dy)) in four.iter_mut().zip([(0, 1), (1, 1), (1, 0), (0, 0)]) {
                let at = [first[0] + dx, first[1] + dy, first[2]];
                *slot = self.addressed(level, at, axes)?[usize::from(component) & 3];
            }
            return Ok(four);
        }
        let mut sum = [0f64; 4];
        for corner in 0..1usize << axes {
            let (mut weight, mut at) = (1.0, first);
            for axis in 0..axes {
                if corner >> axis & 1 == 1 {
                    weight *= weights[axis];
                    at[axis] += 1;
                } else {
                    weight *= 1.0 - weights[axis];
                }
            }
            if weight == 0.0 {
                continue;
            }
            let texel = self.addressed(level, at, axes)?;
            for (sum, bits) in sum.iter_mut().zip(texel) {
                *sum += weight * f64::from(f32::from_bits(bits));
            }
        }
        Ok(sum.map(|value| (value as f32).to_bits()))
    }

    /// A fetch at the level of detail, as it is bounded and rounded.
    fn fetch(&mut self, spec: Fetch, at: [u32; 4], detail: Option<u32>) -> FaultResult<[u32; 4]> {
        let Some(sampler) = self.image.sampler else {
            return Err(FaultKind::InvalidImage {
                object: self.object,
            });
        };
        let mut at = &at[..];
        let mut layer = None;
        if spec.geometry.layered() {
            // A layer that is not there is the nearest one.
            layer = Some((at[0] as i32).clamp(0, self.image.layers.max(1) as i32 - 1) as u32);
            at = &at[1..];
        }
        let coordinates = [
            at[0],
            at.get(1).copied().unwrap_or(0),
            at.get(2).copied().unwrap_or(0),
        ];
        let detail = detail.map_or(0.0, f32::from_bits) + sampler.bias;
        let most = self.image.levels.len() - 1;
        let detail = if detail.is_nan() { 0.0 } else { detail };
        let detail = detail
            .clamp(sampler.levels.0, sampler.levels.1.max(sampler.levels.0))
            .clamp(0.0, most as f32);
        if spec.integer {
            let mut whole = coordinates.map(|c| i64::from(c as i32));
            let axes = axes(spec.geometry);
            whole[axes..].fill(0);
            if let Some(layer) = layer {
                whole[2] = layer.into();
            }
            return self.addressed(detail.round() as usize, whole, axes);
        }
        let mut coordinates = coordinates.map(f32::from_bits);
        let (mut axes, mut plane) = (axes(spec.geometry), layer);
        if matches!(spec.geometry, Geometry::Cube | Geometry::ACube) {
            let (face, s, t) = cube_face(coordinates);
            coordinates = [s, t, 0.0];
            axes = 2;
            plane = Some(6 * layer.unwrap_or(0) + face);
        }
        if !sampler.mip_linear || detail == 0.0 {
            let level = (detail + 0.5).floor() as usize;
            return self.sample(level, coordinates, axes, plane, spec.gather);
        }
        let low = detail.floor();
        let weight = f64::from(((detail - low) * 256.0).round() / 256.0);
        let first = self.sample(low as usize, coordinates, axes, plane, spec.gather)?;
        if weight == 0.0 {
            return Ok(first);
        }
        let second = self.sample(low as usize + 1, coordinates, axes, plane, spec.gather)?;
        let mix = |a: u32, b: u32| {
            let (a, b) = (f64::from(f32::from_bits(a)), f64::from(f32::from_bits(b)));
            ((a * (1.0 - weight) + b * weight) as f32).to_bits()
        };
        Ok(std::array::from_fn(|i| mix(first[i], second[i])))
    }

    /// Address of a surface access and its level's; none where it is dropped.
    fn surface(&self, spec: SurfaceAccess, at: [u32; 4]) -> FaultResult<Option<(u64, u64, u64)>> {
        let image = &self.image;
        if image.sampler.is_some() {
            return Err(FaultKind::InvalidImage {
                object: self.object,
            });
        }
        let level = image.levels[0];
        let texel = image.format.bytes();
        let (layer, at) = match spec.geometry.layered() {
            true => (Some(at[0]), &at[1..]),
            false => (None, &at[..]),
        };
        let axes = axes(spec.geometry);
        let (bytes, step) = match spec.bytes {
            0 => (texel, texel),
            bytes => (u64::from(bytes), 1),
        };
        let mut place = [
            i64::from(at[0] as i32) * step as i64,
            if axes > 1 { i64::from(at[1] as i32) } else { 0 },
            if axes > 2 { i64::from(at[2] as i32) } else { 0 },
        ];
        if let Some(layer) = layer {
            place[2] = i64::from(layer as i32);
        }
        let row = u64::from(level.width) * texel;
        let most = [
            row as i64 - bytes as i64,
            i64::from(level.height.max(1)) - 1,
            i64::from(level.planes.max(1)) - 1,
        ];
        for (place, most) in place.iter_mut().zip(most) {
            if (0..=most).contains(place) {
                continue;
            }
            match spec.outside {
                Outside::Trap => return Err(FaultKind::Trap),
                Outside::Zero => return Ok(None),
                Outside::Clamp if most < 0 => return Err(FaultKind::Trap),
                Outside::Clamp => *place = (*place).clamp(0, most),
            }
        }
        let address = level.base
            + place[2] as u64 * level.slice
            + place[1] as u64 * level.pitch
            + place[0] as u64;
        if !address.is_multiple_of(bytes.next_power_of_two()) {
            return Err(FaultKind::MisalignedAddress { address });
        }
        Ok(Some((level.base, address, bytes)))
    }

    fn property(&self, property: ImageProperty, level: Option<u32>) -> u32 {
        let image = &self.image;
        let index = level.map_or(0, |l| (l as usize).min(image.levels.len() - 1));
        let place = image.levels[index];
        let sampler = image.sampler.unwrap_or(NEAREST);
        match property {
            ImageProperty::Width => place.width,
            ImageProperty::Height if image.dimensions > 1 => place.height,
            ImageProperty::Depth if image.dimensions > 2 => place.planes,
            ImageProperty::Height | ImageProperty::Depth => 0,
            ImageProperty::ArraySize => image.layers,
            ImageProperty::LevelCount => image.levels.len() as u32,
            ImageProperty::SampleCount => 1,
            ImageProperty::NormalizedCoordinates => sampler.normalized.into(),
            ImageProperty::ForceUnnormalized => 0,
            ImageProperty::FilterMode => sampler.linear.into(),
            ImageProperty::AddressMode(axis) => sampler.address[usize::from(axis).min(2)] as u32,
            ImageProperty::MemoryLayout => 0,
            ImageProperty::ChannelType => channel_type(image.format.channel),
            ImageProperty::ChannelOrder => channel_order(image.format.count),
        }
    }
}

/// What a query without a sampler assumes.
const NEAREST: Sampler = Sampler {
    address: [Address::Clamp; 3],
    linear: false,
    mip_linear: false,
    normalized: false,
    fraction: false,
    srgb: false,
    border: [0.0; 4],
    bias: 0.0,
    levels: (0.0, 0.0),
};

/// `CL_SIGNED_INT8` and its like, which is what the PTX enumeration is.
const fn channel_type(channel: Channel) -> u32 {
    match channel {
        Channel::S8 => 0x10d7,
        Channel::S16 => 0x10d8,
        Channel::S32 => 0x10d9,
        Channel::U8 => 0x10da,
        Channel::U16 => 0x10db,
        Channel::U32 => 0x10dc,
        Channel::F16 => 0x10dd,
        Channel::F32 => 0x10de,
    }
}

const fn channel_order(count: u32) -> u32 {
    match count {
        1 => 0x10b0,
        2 => 0x10b2,
        _ => 0x10b5,
    }
}

/// Coordinates that filtering works on.
const fn axes(geometry: Geometry) -> usize {
    match geometry {
        Geometry::D1 | Geometry::A1 => 1,
        Geometry::D2 | Geometry::A2 => 2,
        Geometry::D3 | Geometry::Cube | Geometry::ACube => 3,
    }
}

/// The face that a direction meets and where, from 0 to 1.
fn cube_face([x, y, z]: [f32; 3]) -> (u32, f32, f32) {
    let (ax, ay, az) = (x.abs(), y.abs(), z.abs());
    let (face, m, s, t) = if ax >= ay && ax >= az {
        if x >= 0.0 {
            (0, ax, -z, -y)
        } else {
            (1, ax, z, -y)
        }
    } else if ay >= az {
        if y >= 0.0 {
            (2, ay, x, z)
        } else {
            (3, ay, x, -z)
        }
    } else if z >= 0.0 {
        (4, az, x, -y)
    } else {
        (5, az, -x, -y)
    };
    (face, (s / m + 1.0) / 2.0, (t / m + 1.0) / 2.0)
}

fn fraction(channel: Channel, bits: u32) -> f32 {
    let signed = |most: f32| (bits as i32 as f32 / most).max(-1.0);
    match channel {
        Channel::U8 => bits as f32 / 255.0,
        Channel::U16 => bits as f32 / 65535.0,
        Channel::S8 => signed(127.0),
        Channel::S16 => signed(32767.0),
        _ => f32::from_bits(bits),
    }
}

fn linear_of_srgb(value: f32) -> f32 {
    if value <= 0.04045 {
        value / 12.92
    } else {
        ((value + 0.055) / 1.055).powf(2.4)
    }
}

/// Executes a texture or surface instruction for the active lanes.
#[inline(never)]
pub fn execute(
    op: Op,
    frame: &mut Frame,
    space: &dyn AddressSpace,
    mask: u32,
) -> Result<(), LaneFault> {
    let object = match op {
        Op::Fetch { object, .. }
        | Op::DetailLevel { object, .. }
        | Op::ImageQuery { object, .. }
        | Op::SurfaceLoad { object, .. }
        | Op::SurfaceStore { object, .. }
        | Op::SurfaceReduce { object, .. } => object,
        _ => return Ok(()),
    };
    let mut reader: Option<Reader<'_>> = None;
    for lane in lanes(mask) {
        let at = |kind| (lane, kind);
        let value = frame.d[object.index()][lane];
        let reader = match &mut reader {
            Some(known) if known.object == value => known,
            slot => slot.insert(Reader::new(space, value).map_err(at)?),
        };
        one(op, frame, reader, lane).map_err(at)?;
    }
    Ok(())
}

fn one(op: Op, frame: &mut Frame, reader: &mut Reader<'_>, lane: usize) -> FaultResult<()> {
    let get = |frame: &Frame, register: Option<W>| register.map_or(0, |w| frame.w[w.index()][lane]);
    match op {
        Op::Fetch {
            spec, at, level, d, ..
        } => {
            let at = at.map(|w| get(frame, w));
            let level = level.map(|w| frame.w[w.index()][lane]);
            let texel = reader.fetch(spec, at, level)?;
            for (register, value) in d.into_iter().zip(texel) {
                if let Some(register) = register {
                    frame.w[register.index()][lane] = value;
                }
            }
        }
        Op::DetailLevel { dx, dy, d, .. } => {
            let level = reader.image.levels[0];
            let normalized = reader.image.sampler.is_some_and(|s| s.normalized);
            let sizes = [level.width, level.height, level.planes];
            let length = |derivative: [Option<W>; 3]| {
                let square = derivative.into_iter().zip(sizes).map(|(w, size)| {
                    let scale = if normalized {
                        f64::from(size.max(1))
                    } else {
                        1.0
                    };
                    (f64::from(f32::from_bits(get(frame, w))) * scale).powi(2)
                });
                square.sum::<f64>().sqrt()
            };
            let detail = length(dx).max(length(dy)).log2() as f32;
            frame.w[d.index()][lane] = detail.to_bits();
        }
        Op::ImageQuery {
            property, level, d, ..
        } => {
            let level = level.map(|w| frame.w[w.index()][lane]);
            frame.w[d.index()][lane] = reader.property(property, level);
        }
        Op::SurfaceLoad { spec, at, d, .. } => {
            let place = reader.surface(spec, at.map(|w| get(frame, w)))?;
            let each = u64::from(spec.bytes / spec.count.max(1));
            for (register, index) in d.into_iter().zip(0..u64::from(spec.count)) {
                let value = match place {
                    None => 0,
                    Some((base, address, _)) => {
                        let place = reader.place(base, address + index * each, each, false)?;
                        match each {
                            1 => place.load8().into(),
                            2 => place.load16().into(),
                            _ => place.load32(),
                        }
                    }
                };
                if let Some(register) = register {
                    frame.w[register.index()][lane] = value;
                }
            }
        }
        Op::SurfaceStore { spec, at, a, .. } => {
            let Some((base, address, bytes)) = reader.surface(spec, at.map(|w| get(frame, w)))?
            else {
                return Ok(());
            };
            let (count, each) = if spec.bytes == 0 {
                let format = reader.image.format;
                (u64::from(format.count), format.channel.bytes())
            } else {
                (u64::from(spec.count), bytes / u64::from(spec.count.max(1)))
            };
            for (register, index) in a.into_iter().zip(0..count) {
                let mut value = get(frame, register);
                if spec.bytes == 0 {
                    value = formatted(reader.image.format.channel, value);
                }
                let place = reader.place(base, address + index * each, each, true)?;
                match each {
                    1 => place.store8(value as u8),
                    2 => place.store16(value as u16),
                    _ => place.store32(value),
                }
            }
        }
        Op::SurfaceReduce { spec, f, at, a, .. } => {
            let Some((base, address, bytes)) = reader.surface(spec, at.map(|w| get(frame, w)))?
            else {
                return Ok(());
            };
            let signed = spec.bytes == 0 && reader.image.format.channel == Channel::S32;
            let f = match f {
                SurfaceOp::MinU if signed => SurfaceOp::MinS,
                SurfaceOp::MaxU if signed => SurfaceOp::MaxS,
                other => other,
            };
            let low = get(frame, a[0]);
            let wide = u64::from(get(frame, a[1])) << 32 | u64::from(low);
            let place = reader.place(base, address, bytes, true)?;
            match bytes {
                4 => reduce32(place, f, low),
                8 => reduce64(place, f, wide),
                _ => return Err(FaultKind::IllegalInstruction),
            }
        }
        _ => {}
    }
    Ok(())
}

/// A component as a channel holds it: integers clamped, floating-point numbers rounded.
fn formatted(channel: Channel, value: u32) -> u32 {
    let signed = |low: i32, high: i32| (value as i32).clamp(low, high) as u32;
    match channel {
        Channel::U8 => value.min(0xff),
        Channel::U16 => value.min(0xffff),
        Channel::S8 => signed(-0x80, 0x7f),
        Channel::S16 => signed(-0x8000, 0x7fff),
        Channel::F16 => half::f16::from_f32(f32::from_bits(value)).to_bits().into(),
        Channel::U32 | Channel::S32 | Channel::F32 => value,
    }
}

// SYNC: relaxed, as reductions of kernels are; fences order them.
fn reduce32(place: Checked, f: SurfaceOp, value: u32) {
    let cell = place.cell32();
    let order = Ordering::Relaxed;
    let signed = |pick: fn(i32, i32) -> i32| {
        let update = |old: u32| Some(pick(old as i32, value as i32) as u32);
        // The update always yields a value, so it succeeds.
        let _ = cell.fetch_update(order, order, update);
    };
    match f {
        SurfaceOp::Add => drop(cell.fetch_add(value, order)),
        SurfaceOp::MinU => drop(cell.fetch_min(value, order)),
        SurfaceOp::MaxU => drop(cell.fetch_max(value, order)),
        SurfaceOp::MinS => signed(i32::min),
        SurfaceOp::MaxS => signed(i32::max),
        SurfaceOp::And => drop(cell.fetch_and(value, order)),
        SurfaceOp::Or => drop(cell.fetch_or(value, order)),
    }
}

// SYNC: as above.
fn reduce64(place: Checked, f: SurfaceOp, value: u64) {
    let cell = place.cell64();
    let order = Ordering::Relaxed;
    let signed = |pick: fn(i64, i64) -> i64| {
        let update = |old: u64| Some(pick(old as i64, value as i64) as u64);
        // The update always yields a value, so it succeeds.
        let _ = cell.fetch_update(order, order, update);
    };
    match f {
        SurfaceOp::Add => drop(cell.fetch_add(value, order)),
        SurfaceOp::MinU => drop(cell.fetch_min(value, order)),
        SurfaceOp::MaxU => drop(cell.fetch_max(value, order)),
        SurfaceOp::MinS => signed(i64::min),
        SurfaceOp::MaxS => signed(i64::max),
        SurfaceOp::And => drop(cell.fetch_and(value, order)),
        SurfaceOp::Or => drop(cell.fetch_or(value, order)),
    }
}
