//! Texture objects.

use std::sync::Arc;

use cuda_abi::types::{
    CUDA_RESOURCE_DESC, CUDA_RESOURCE_VIEW_DESC, CUDA_TEXTURE_DESC, CUaddress_mode, CUarray,
    CUfilter_mode, CUresourceViewFormat, CUresourcetype, CUtexObject,
};
use softgpu_core::context::Context;
use softgpu_core::error::Error;
use softgpu_core::exec::image::{Address, Image, Level, Sampler};
use softgpu_core::image::{Array, ArrayShape, Bound};
use softgpu_core::transfer::Span;

use super::array;
use crate::driver::{self, ImageObject, driver};
use crate::edge::{self, Outcome, put};

const READ_AS_INTEGER: u32 = 1;
const NORMALIZED_COORDINATES: u32 = 2;
const SRGB: u32 = 0x10;
/// Beside those: no trilinear optimisation, and seamless cubes.
const FLAGS: u32 = READ_AS_INTEGER | NORMALIZED_COORDINATES | SRGB | 0x20;
const SEAMLESS_CUBEMAP: u32 = 0x40;
/// What linear memory starts at multiples of, and rows of pitched memory.
const TEXTURE_ALIGNMENT: u64 = 256;
const PITCH_ALIGNMENT: u64 = 32;
const MOST_LINEAR_TEXELS: u64 = 1 << 28;

pub unsafe fn cuTexObjectCreate(
    object: *mut CUtexObject,
    resource: *const CUDA_RESOURCE_DESC,
    texture: *const CUDA_TEXTURE_DESC,
    view: *const CUDA_RESOURCE_VIEW_DESC,
) -> Outcome {
    let context = driver::context()?;
    // SAFETY: the caller's promise.
    let resource = unsafe { edge::take(resource) }?;
    // SAFETY: the caller's promise.
    let texture = unsafe { edge::take(texture) }?;
    let view = if view.is_null() {
        None
    } else {
        // SAFETY: the caller's promise.
        Some(unsafe { edge::take(view) }?)
    };
    if object.is_null() {
        return Err(Error::InvalidValue);
    }
    let mut image = image(&context, &resource)?;
    if let Some(view) = &view {
        narrow(&mut image, view)?;
    }
    image.sampler = Some(sampler(&texture, &image)?);
    let made = register(&context, image, resource, Some(texture), view)?;
    // SAFETY: the caller's promise.
    unsafe { put(object, made) }
}

pub unsafe fn cuTexObjectDestroy(object: CUtexObject) -> Outcome {
    destroy(object, true)
}

pub unsafe fn cuTexObjectGetResourceDesc(
    resource: *mut CUDA_RESOURCE_DESC,
    object: CUtexObject,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { put(resource, described(object, true)?.resource) }
}

pub unsafe fn cuTexObjectGetTextureDesc(
    texture: *mut CUDA_TEXTURE_DESC,
    object: CUtexObject,
) -> Outcome {
    let described = described(object, true)?;
    // SAFETY: the caller's promise.
    unsafe { put(texture, described.texture.ok_or(Error::InvalidValue)?) }
}

pub unsafe fn cuTexObjectGetResourceViewDesc(
    view: *mut CUDA_RESOURCE_VIEW_DESC,
    object: CUtexObject,
) -> Outcome {
    let described = described(object, true)?;
    // SAFETY: the caller's promise.
    unsafe { put(view, described.view.ok_or(Error::InvalidValue)?) }
}

/// What an object was made with.
pub(super) fn described(object: u64, texture: bool) -> Result<ImageObject, Error> {
    let found = driver()?.image_objects().get(&object).copied();
    found
        .filter(|found| found.texture.is_some() == texture)
        .ok_or(Error::InvalidValue)
}

/// Takes an object in.
pub(super) fn register(
    context: &Arc<Context>,
    image: Image,
    resource: CUDA_RESOURCE_DESC,
    texture: Option<CUDA_TEXTURE_DESC>,
    view: Option<CUDA_RESOURCE_VIEW_DESC>,
) -> Result<u64, Error> {
    let driver = driver()?;
    let bound = Bound {
        owner: context.id(),
        image: Arc::new(image),
    };
    let made = driver.gpu.images().insert(Arc::new(bound));
    let made = made.ok_or(Error::OutOfMemory)?;
    let object = ImageObject {
        owner: context.id(),
        resource,
        texture,
        view,
    };
    driver.image_objects().insert(made, object);
    Ok(made)
}

/// Takes an object away, once the kernels that may use it are done.
pub(super) fn destroy(object: u64, texture: bool) -> Outcome {
    let context = driver::context()?;
    let driver = driver()?;
    let found = described(object, texture)?;
    if found.owner != context.id() {
        return Err(Error::InvalidContext);
    }
    driver.image_objects().remove(&object);
    let settled = context.synchronize();
    driver.gpu.images().remove(object);
    settled
}

/// The texels of an array.
pub(super) fn array_image(array: &Array) -> Image {
    let shape = &array.shape;
    Image {
        format: shape.format,
        dimensions: shape.dimensions(),
        layers: layers(shape),
        cube: shape.cube,
        levels: vec![array.level()],
        linear_memory: false,
        sampler: None,
    }
}

fn layers(shape: &ArrayShape) -> u32 {
    match (shape.layered, shape.cube) {
        (true, true) => shape.depth / 6,
        (true, false) => shape.depth,
        _ => 0,
    }
}

fn image(context: &Arc<Context>, resource: &CUDA_RESOURCE_DESC) -> Result<Image, Error> {
    use CUresourcetype as R;
    if resource.flags != 0 {
        return Err(Error::InvalidValue);
    }
    let memory = resource.memory();
    match resource.resType {
        R::CU_RESOURCE_TYPE_ARRAY => {
            let object = array::array(resource.words[0] as CUarray)?;
            own(context, &object.context)?;
            Ok(array_image(&object.array))
        }
        R::CU_RESOURCE_TYPE_MIPMAPPED_ARRAY => {
            let found = driver()?.mipmapped_arrays.get(resource.words[0]);
            let object = found.ok_or(Error::InvalidHandle)?;
            own(context, &object.context)?;
            let first = object.array.levels.first().ok_or(Error::Unknown)?;
            Ok(Image {
                levels: object.array.levels.iter().map(|l| l.level()).collect(),
                ..array_image(first)
            })
        }
        R::CU_RESOURCE_TYPE_LINEAR => {
            let format = array::format(memory.format, memory.numChannels)?;
            let texels = memory.width / format.bytes();
            if texels == 0
                || texels > MOST_LINEAR_TEXELS
                || !memory.devPtr.is_multiple_of(TEXTURE_ALIGNMENT)
            {
                return Err(Error::InvalidValue);
            }
            Span::device(context.gpu().space(), memory.devPtr, memory.width)?;
            Ok(Image {
                format,
                dimensions: 1,
                layers: 0,
                cube: false,
                levels: vec![Level {
                    base: memory.devPtr,
                    width: u32::try_from(texels).map_err(|_| Error::InvalidValue)?,
                    height: 0,
                    planes: 0,
                    pitch: 0,
                    slice: 0,
                }],
                linear_memory: true,
                sampler: None,
            })
        }
        R::CU_RESOURCE_TYPE_PITCH2D => {
            let format = array::format(memory.format, memory.numChannels)?;
            let row = memory.width.checked_mul(format.bytes());
            let length = memory.pitchInBytes.checked_mul(memory.height);
            let (Some(row), Some(length)) = (row, length) else {
                return Err(Error::InvalidValue);
            };
            let extent = |n: u64| {
                let fits = (1..=softgpu_core::image::MOST_EXTENT).contains(&n);
                u32::try_from(n)
                    .ok()
                    .filter(|_| fits)
                    .ok_or(Error::InvalidValue)
            };
            let (width, height) = (extent(memory.width)?, extent(memory.height)?);
            if row > memory.pitchInBytes
                || !memory.pitchInBytes.is_multiple_of(PITCH_ALIGNMENT)
                || !memory.devPtr.is_multiple_of(TEXTURE_ALIGNMENT)
            {
                return Err(Error::InvalidValue);
            }
            let used = length - memory.pitchInBytes + row;
            Span::device(context.gpu().space(), memory.devPtr, used)?;
            Ok(Image {
                format,
                dimensions: 2,
                layers: 0,
                cube: false,
                levels: vec![Level {
                    base: memory.devPtr,
                    width,
                    height,
                    planes: 0,
                    pitch: memory.pitchInBytes,
                    slice: 0,
                }],
                linear_memory: false,
                sampler: None,
            })
        }
        _ => Err(Error::InvalidValue),
    }
}

pub(super) fn own(context: &Context, other: &Context) -> Outcome {
    if context.id() == other.id() {
        Ok(())
    } else {
        Err(Error::InvalidContext)
    }
}

/// Levels and layers that a view shows. Another format than the array's is not supported.
fn narrow(image: &mut Image, view: &CUDA_RESOURCE_VIEW_DESC) -> Outcome {
    if view.format != CUresourceViewFormat::CU_RES_VIEW_FORMAT_NONE {
        return Err(Error::NotSupported);
    }
    let index = |n: u32| usize::try_from(n).map_err(|_| Error::InvalidValue);
    let (first, last) = (index(view.firstMipmapLevel)?, index(view.lastMipmapLevel)?);
    if first > last || last >= image.levels.len() {
        return Err(Error::InvalidValue);
    }
    image.levels = image.levels[first..=last].to_vec();
    if image.layers > 0 {
        if view.firstLayer > view.lastLayer || view.lastLayer >= image.layers {
            return Err(Error::InvalidValue);
        }
        let faces = if image.cube { 6 } else { 1 };
        image.layers = view.lastLayer - view.firstLayer + 1;
        for level in &mut image.levels {
            level.base += u64::from(view.firstLayer * faces) * level.slice;
            level.planes = image.layers * faces;
        }
    }
    Ok(())
}

fn sampler(texture: &CUDA_TEXTURE_DESC, image: &Image) -> Result<Sampler, Error> {
    let address = |mode: CUaddress_mode| match mode {
        CUaddress_mode::CU_TR_ADDRESS_MODE_WRAP => Ok(Address::Wrap),
        CUaddress_mode::CU_TR_ADDRESS_MODE_CLAMP => Ok(Address::Clamp),
        CUaddress_mode::CU_TR_ADDRESS_MODE_MIRROR => Ok(Address::Mirror),
        CUaddress_mode::CU_TR_ADDRESS_MODE_BORDER => Ok(Address::Border),
        _ => Err(Error::InvalidValue),
    };
    let linear = |mode: CUfilter_mode| match mode {
        CUfilter_mode::CU_TR_FILTER_MODE_POINT => Ok(false),
        CUfilter_mode::CU_TR_FILTER_MODE_LINEAR => Ok(true),
        _ => Err(Error::InvalidValue),
    };
    if texture.flags & SEAMLESS_CUBEMAP != 0 {
        return Err(Error::NotSupported);
    }
    if texture.flags & !FLAGS != 0 {
        return Err(Error::InvalidValue);
    }
    let channel = image.format.channel;
    let narrow = channel.is_integer() && channel.bytes() < 4;
    let fraction = narrow && texture.flags & READ_AS_INTEGER == 0;
    let (first, mips) = (
        linear(texture.filterMode)?,
        linear(texture.mipmapFilterMode)?,
    );
    // Whole numbers cannot be mixed.
    if (first || mips && image.levels.len() > 1) && channel.is_integer() && !fraction {
        return Err(Error::InvalidValue);
    }
    let [x, y, z] = texture.addressMode;
    Ok(Sampler {
        address: [address(x)?, address(y)?, address(z)?],
        linear: first,
        mip_linear: mips,
        normalized: texture.flags & NORMALIZED_COORDINATES != 0,
        fraction,
        srgb: texture.flags & SRGB != 0,
        border: texture.borderColor,
        bias: texture.mipmapLevelBias,
        levels: (texture.minMipmapLevelClamp, texture.maxMipmapLevelClamp),
    })
}
