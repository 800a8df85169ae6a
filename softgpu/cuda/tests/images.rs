//! Arrays, textures and surfaces through the exported functions, with what compilers seldom emit: queries,
//! reductions, formatted stores, layers out of range, and objects that are none.
#![allow(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    clippy::undocumented_unsafe_blocks,
    reason = "nearly every line is a call of the C interface under test"
)]

mod common;

use std::ffi::{CString, c_void};
use std::ptr::{null, null_mut};

use common::{Own, allocate, function, ok};
use cuda_abi::types::*;
use softcuda::generated::exports::*;

/// Runs `body` in one thread per lane: `%o` is the object, `%t` the thread, and `%v` what is stored.
fn run(body: &str, object: u64, threads: u32) -> Result<Vec<u32>, CUresult> {
    let text = format!(
        ".version 7.0\n.target sm_52\n.address_size 64
.visible .entry entry(.param .u64 to, .param .u64 object)
{{
    .reg .b32 %t, %v, %w, %x;
    .reg .f32 %f, %g, %fa, %fb, %fc, %fd;
    .reg .b64 %a, %o, %at, %wide;
    ld.param.u64 %a, [to];
    ld.param.u64 %o, [object];
    mov.u32 %t, %tid.x;
    mov.u32 %v, 0;
    cvt.rn.f32.u32 %f, %t;
    {body}
    mul.wide.u32 %at, %t, 4;
    add.u64 %a, %a, %at;
    st.global.u32 [%a], %v;
    ret;
}}"
    );
    let text = CString::new(text).unwrap();
    let (mut module, mut to, mut object) = (null_mut(), allocate(4 * 1024), object);
    let loaded = unsafe { cuModuleLoadData(&raw mut module, text.as_ptr().cast()) };
    if loaded != CUresult::CUDA_SUCCESS {
        return Err(loaded);
    }
    let entry = function(module, "entry");
    let mut params = [(&raw mut to).cast::<c_void>(), (&raw mut object).cast()];
    let mut back = vec![0_u32; threads as usize];
    unsafe {
        ok(cuLaunchKernel(
            entry,
            1,
            1,
            1,
            threads,
            1,
            1,
            0,
            null_mut(),
            params.as_mut_ptr(),
            null_mut(),
        ));
        let copied = cuMemcpyDtoH_v2(back.as_mut_ptr().cast(), to, 4 * back.len());
        if copied != CUresult::CUDA_SUCCESS {
            return Err(copied);
        }
    }
    Ok(back)
}

fn array(width: usize, height: usize, depth: usize, format: CUarray_format, flags: u32) -> CUarray {
    let what = CUDA_ARRAY3D_DESCRIPTOR {
        Width: width,
        Height: height,
        Depth: depth,
        Format: format,
        NumChannels: 1,
        Flags: flags | CUDA_ARRAY3D_SURFACE_LDST,
    };
    let mut made = null_mut();
    ok(unsafe { cuArray3DCreate_v2(&raw mut made, &raw const what) });
    made
}

fn resource(array: CUarray) -> CUDA_RESOURCE_DESC {
    let mut words = [0; 16];
    words[0] = array as u64;
    CUDA_RESOURCE_DESC {
        resType: CUresourcetype::CU_RESOURCE_TYPE_ARRAY,
        words,
        flags: 0,
    }
}

fn surface(array: CUarray) -> u64 {
    let mut made = 0;
    let resource = resource(array);
    ok(unsafe { cuSurfObjectCreate(&raw mut made, &raw const resource) });
    made
}

fn description(flags: u32) -> CUDA_TEXTURE_DESC {
    CUDA_TEXTURE_DESC {
        addressMode: [CUaddress_mode::CU_TR_ADDRESS_MODE_CLAMP; 3],
        filterMode: CUfilter_mode::CU_TR_FILTER_MODE_POINT,
        flags,
        maxAnisotropy: 0,
        mipmapFilterMode: CUfilter_mode::CU_TR_FILTER_MODE_POINT,
        mipmapLevelBias: 0.0,
        minMipmapLevelClamp: 0.0,
        maxMipmapLevelClamp: 0.0,
        borderColor: [0.0; 4],
        reserved: [0; 12],
    }
}

fn texture(array: CUarray, description: CUDA_TEXTURE_DESC) -> Result<u64, CUresult> {
    let mut made = 0;
    let (resource, description) = (resource(array), description);
    match unsafe {
        cuTexObjectCreate(
            &raw mut made,
            &raw const resource,
            &raw const description,
            null(),
        )
    } {
        CUresult::CUDA_SUCCESS => Ok(made),
        error => Err(error),
    }
}

/// Fills the first row.
fn fill<T>(array: CUarray, values: &[T]) {
    let bytes = size_of_val(values);
    ok(unsafe { cuMemcpyHtoA_v2(array, 0, values.as_ptr().cast(), bytes) });
}

const U32: CUarray_format = CUarray_format::CU_AD_FORMAT_UNSIGNED_INT32;
const S32: CUarray_format = CUarray_format::CU_AD_FORMAT_SIGNED_INT32;
const U8: CUarray_format = CUarray_format::CU_AD_FORMAT_UNSIGNED_INT8;
const F32: CUarray_format = CUarray_format::CU_AD_FORMAT_FLOAT;
const READ_AS_INTEGER: u32 = 1;

#[test]
fn queries_tell_what_objects_were_made_of() {
    let _own = Own::new();
    let made = array(20, 10, 3, U8, CUDA_ARRAY3D_LAYERED);
    let texture = texture(made, description(READ_AS_INTEGER)).unwrap();
    let ask = |query: &str, object| run(&format!("{query} %v, [%o];"), object, 1).unwrap()[0];
    assert_eq!(ask("txq.width.b32", texture), 20);
    assert_eq!(ask("txq.height.b32", texture), 10);
    assert_eq!(ask("txq.array_size.b32", texture), 3);
    assert_eq!(ask("txq.num_mipmap_levels.b32", texture), 1);
    assert_eq!(ask("txq.normalized_coords.b32", texture), 0);
    assert_eq!(ask("txq.channel_data_type.b32", texture), 0x10da);
    assert_eq!(ask("suq.width.b32", surface(made)), 20);
    assert_eq!(ask("suq.array_size.b32", surface(made)), 3);
}

#[test]
fn layers_out_of_range_are_the_nearest_ones_and_integer_coordinates_clamp() {
    let _own = Own::new();
    let made = array(4, 0, 3, U32, CUDA_ARRAY3D_LAYERED);
    let to = surface(made);
    run(
        "mul.lo.u32 %w, %t, 10; mov.u32 %x, 12; sust.b.a1d.b32.trap [%o, {%t, %x}], %w;",
        to,
        3,
    )
    .unwrap();
    let texture = texture(made, description(READ_AS_INTEGER)).unwrap();
    let read = "sub.s32 %w, %t, 1; mov.u32 %x, 99;
tex.a1d.v4.u32.s32 {%v, _, _, _}, [%o, {%w, %x}];";
    assert_eq!(run(read, texture, 5).unwrap(), [0, 0, 10, 20, 20]);
}

#[test]
fn surface_reductions_are_atomic_and_formatted_stores_clamp() {
    let _own = Own::new();
    let words = array(4, 0, 0, U32, 0);
    fill(words, &[5_u32, 5, 5, 5]);
    let object = surface(words);
    run(
        "mov.u32 %x, 0; sured.b.add.1d.u32.trap [%o, {%x}], %t;",
        object,
        64,
    )
    .unwrap();
    run(
        "mov.u32 %x, 4; sured.b.max.1d.s32.trap [%o, {%x}], -1;",
        object,
        2,
    )
    .unwrap();
    run(
        "mov.u32 %x, 8; sured.b.max.1d.u32.trap [%o, {%x}], -1;",
        object,
        2,
    )
    .unwrap();
    run(
        "mov.u32 %x, 3; sured.p.min.1d.b32.trap [%o, {%x}], %t;",
        object,
        2,
    )
    .unwrap();
    let read = "shl.b32 %x, %t, 2; suld.b.1d.b32.trap %v, [%o, {%x}];";
    assert_eq!(run(read, object, 4).unwrap(), [5 + 2016, 5, u32::MAX, 0]);
    // The format of the surface says how a formatted reduction compares.
    let signed = array(2, 0, 0, S32, 0);
    fill(signed, &[5_u32, 5]);
    let object_signed = surface(signed);
    for (place, f) in [(0, "min"), (1, "max")] {
        let text = format!("mov.u32 %x, {place}; sured.p.{f}.1d.b32.trap [%o, {{%x}}], -1;");
        run(&text, object_signed, 2).unwrap();
    }
    assert_eq!(run(read, object_signed, 2).unwrap(), [u32::MAX, 5]);
    let bytes = array(4, 0, 0, U8, 0);
    let object = surface(bytes);
    run(
        "mul.lo.u32 %w, %t, 100; sust.p.1d.b32.trap [%o, {%t}], %w;",
        object,
        4,
    )
    .unwrap();
    let read = "suld.b.1d.b8.trap %v, [%o, {%t}];";
    assert_eq!(run(read, object, 4).unwrap(), [0, 100, 200, 255]);
}

#[test]
fn surfaces_outside_trap_clamp_or_yield_zero() {
    let _own = Own::new();
    let words = array(4, 0, 0, U32, 0);
    fill(words, &[1_u32, 2, 3, 4]);
    let object = surface(words);
    let read = |mode: &str| {
        format!("sub.s32 %w, %t, 1; shl.b32 %x, %w, 2; suld.b.1d.b32.{mode} %v, [%o, {{%x}}];")
    };
    assert_eq!(run(&read("clamp"), object, 6).unwrap(), [1, 1, 2, 3, 4, 4]);
    assert_eq!(run(&read("zero"), object, 6).unwrap(), [0, 1, 2, 3, 4, 0]);
    run(
        "add.u32 %x, %t, 14; shl.b32 %x, %x, 2; sust.b.1d.b32.zero [%o, {%x}], %t;",
        object,
        2,
    )
    .unwrap();
    assert_eq!(
        run(&read("trap"), object, 6),
        Err(CUresult::CUDA_ERROR_LAUNCH_FAILED)
    );
}

#[test]
fn misaligned_surface_access_and_objects_that_are_none_fault() {
    let own = Own::new();
    let object = surface(array(4, 0, 0, U32, 0));
    assert_eq!(
        run(
            "mov.u32 %x, 2; suld.b.1d.b32.trap %v, [%o, {%x}];",
            object,
            1
        ),
        Err(CUresult::CUDA_ERROR_MISALIGNED_ADDRESS)
    );
    drop(own);
    for body in [
        "suld.b.1d.b32.trap %v, [%o, {%t}];",
        "tex.1d.v4.u32.s32 {%v, _, _, _}, [%o, {%t}];",
        "txq.width.b32 %v, [%o];",
    ] {
        let _own = Own::new();
        let result = run(body, 12345, 1);
        assert_eq!(result, Err(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS), "{body}");
    }
    // A surface is no texture.
    let _own = Own::new();
    let object = surface(array(4, 0, 0, U32, 0));
    assert_eq!(
        run("tex.1d.v4.u32.s32 {%v, _, _, _}, [%o, {%t}];", object, 1),
        Err(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS)
    );
}

#[test]
fn objects_of_another_context_are_none() {
    let first = Own::new();
    let object = surface(array(4, 0, 0, U32, 0));
    let _second = Own::new();
    assert_eq!(
        run("suq.width.b32 %v, [%o];", object, 1),
        Err(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS)
    );
    drop(first);
}

#[test]
fn filtering_weights_have_eight_bits_of_fraction() {
    let _own = Own::new();
    let made = array(2, 0, 0, F32, 0);
    fill(made, &[0_f32, 1.0]);
    let linear = CUDA_TEXTURE_DESC {
        filterMode: CUfilter_mode::CU_TR_FILTER_MODE_LINEAR,
        ..description(0)
    };
    let texture = texture(made, linear).unwrap();
    // From one texel's middle to the next in 1024 steps there are 257 values.
    let body = "mul.f32 %g, %f, 0f3A800000; add.f32 %g, %g, 0f3F000000;
tex.1d.v4.f32.f32 {%fa, %fb, %fc, %fd}, [%o, {%g}]; mov.b32 %v, %fa;";
    let got = run(body, texture, 1024).unwrap();
    for (step, bits) in got.iter().enumerate() {
        let value = f32::from_bits(*bits);
        assert_eq!((value * 256.0).fract(), 0.0, "{step}: {value}");
        assert!(
            (value - step as f32 / 1024.0).abs() <= 1.0 / 512.0,
            "{step}: {value}"
        );
    }
}

#[test]
fn srgb_is_made_linear_and_whole_numbers_are_not_filtered() {
    let _own = Own::new();
    let made = array(256, 0, 0, U8, 0);
    let values: Vec<u8> = (0..=255).collect();
    fill(made, &values);
    let srgb = texture(made, description(0x10)).unwrap();
    let body = "tex.1d.v4.f32.s32 {%fa, %fb, %fc, %fd}, [%o, {%t}]; mov.b32 %v, %fa;";
    for (step, bits) in run(body, srgb, 256).unwrap().iter().enumerate() {
        let x = step as f64 / 255.0;
        let expected = if x <= 0.04045 {
            x / 12.92
        } else {
            ((x + 0.055) / 1.055).powf(2.4)
        };
        assert!(
            (f64::from(f32::from_bits(*bits)) - expected).abs() < 1e-6,
            "{step}"
        );
    }
    let linear = CUDA_TEXTURE_DESC {
        filterMode: CUfilter_mode::CU_TR_FILTER_MODE_LINEAR,
        ..description(READ_AS_INTEGER)
    };
    assert_eq!(
        texture(made, linear),
        Err(CUresult::CUDA_ERROR_INVALID_VALUE)
    );
}

#[test]
fn references_and_unknown_forms_are_refused_when_loaded() {
    let _own = Own::new();
    for body in [
        "tex.1d.v4.f32.f32 {%fa, %fb, %fc, %fd}, [name, {%f}];",
        "tex.2dms.v4.f32.s32 {%fa, %fb, %fc, %fd}, [%o, {%t, %t, %t, %t}];",
        "tex.2d.v4.f32.f32 {%fa, %fb, %fc, %fd}, [%o, {%f}];",
        "suld.p.1d.b32.trap %v, [%o, {%t}];",
        "sust.b.1d.b32 [%o, {%t}], %v;",
        "tld4.r.1d.v4.f32.f32 {%fa, %fb, %fc, %fd}, [%o, {%f}];",
    ] {
        assert_eq!(
            run(body, 0, 1),
            Err(CUresult::CUDA_ERROR_INVALID_PTX),
            "{body}"
        );
    }
}

#[test]
fn impossible_arrays_and_destroyed_ones_are_refused() {
    let _own = Own::new();
    let create = |width, height, depth, flags, channels| {
        let what = CUDA_ARRAY3D_DESCRIPTOR {
            Width: width,
            Height: height,
            Depth: depth,
            Format: U32,
            NumChannels: channels,
            Flags: flags,
        };
        let mut made = null_mut();
        unsafe { cuArray3DCreate_v2(&raw mut made, &raw const what) }
    };
    let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
    assert_eq!(create(0, 1, 0, 0, 1), invalid);
    assert_eq!(create(4, 0, 2, 0, 1), invalid);
    assert_eq!(create(4, 4, 0, CUDA_ARRAY3D_LAYERED, 1), invalid);
    assert_eq!(create(4, 4, 5, CUDA_ARRAY3D_CUBEMAP, 1), invalid);
    assert_eq!(create(4, 4, 0, 0, 3), invalid);
    assert_eq!(create(1 << 20, 4, 0, 0, 1), invalid);
    assert_eq!(create(4, 4, 4, 0x40, 1), CUresult::CUDA_ERROR_NOT_SUPPORTED);
    let made = array(4, 4, 0, U32, 0);
    unsafe {
        ok(cuArrayDestroy(made));
        assert_eq!(cuArrayDestroy(made), CUresult::CUDA_ERROR_INVALID_HANDLE);
        let mut bytes = [0_u8; 16];
        assert_eq!(
            cuMemcpyAtoH_v2(bytes.as_mut_ptr().cast(), made, 0, 16),
            CUresult::CUDA_ERROR_INVALID_HANDLE
        );
    }
    let made = array(4, 4, 0, U32, 0);
    let mut bytes = [0_u8; 32];
    let past = unsafe { cuMemcpyAtoH_v2(bytes.as_mut_ptr().cast(), made, 8, 16) };
    assert_eq!(past, invalid);
}
