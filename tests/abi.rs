//! The libraries as the loader and the compiler see them: names, sonames, layouts, values.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::mem::{align_of, offset_of, size_of};
use std::path::Path;

use cuda_abi::types;
use cudarc::driver::sys;
use e2e::{place, tool};

#[path = "abi/values.rs"]
mod values;

/// The names that a library defines for others, with versions if there are any.
fn defined_names(library: &Path) -> BTreeSet<String> {
    let table = tool::output(
        "readelf",
        &["-W", "--dyn-syms", &library.display().to_string()],
    );
    table
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (bind, section, name) = (fields.get(4)?, fields.get(6)?, fields.get(7)?);
            (matches!(*bind, "GLOBAL" | "WEAK") && *section != "UND").then(|| (*name).to_owned())
        })
        .collect()
}

/// Everything that the pinned header and a current driver export.
fn expected_names() -> BTreeSet<String> {
    let data = place::repository().join("cuda-abi/data");
    let read = |file: &str| {
        std::fs::read_to_string(data.join(file)).expect("the data is part of the repository")
    };
    let mut names: BTreeSet<String> = read("exported-names.txt")
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    for line in read("functions.tsv")
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        names.extend(line.split('\t').next().map(str::to_owned));
    }
    names
}

fn check_exports(library: &Path, extra: &[&str]) {
    let mut expected = expected_names();
    expected.extend(extra.iter().map(|name| (*name).to_owned()));
    let defined = defined_names(library);
    let missing: Vec<_> = expected.difference(&defined).collect();
    let surplus: Vec<_> = defined.difference(&expected).collect();
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "{}: missing {missing:?}, surplus {surplus:?}",
        library.display()
    );
}

#[test]
fn libvgpu_exports_every_driver_name_and_two_of_its_own_only() {
    check_exports(
        &place::libvgpu(),
        &["vgpu_libvgpu_marker", "vgpuLogOperation"],
    );
}

#[test]
fn software_gpu_exports_every_driver_name_only() {
    check_exports(&place::softgpu(), &[]);
}

fn check_dynamic_section(library: &Path, soname: &str) {
    let section = tool::dynamic_section(library);
    assert!(
        section.contains(&format!("Library soname: [{soname}]")),
        "{}: soname is not {soname}\n{section}",
        library.display()
    );
    assert!(
        section.contains("NODELETE"),
        "{}: may be unloaded\n{section}",
        library.display()
    );
    assert!(
        !section.contains("VERDEF"),
        "{}: defines symbol versions\n{section}",
        library.display()
    );
    assert!(
        !section.contains("RPATH") && !section.contains("RUNPATH"),
        "{}: names a search path\n{section}",
        library.display()
    );
    assert_eq!(tool::needed_beside_libc(library), Vec::<String>::new());
}

#[test]
fn libvgpu_is_libcuda_so_1_and_stays_loaded() {
    check_dynamic_section(&place::libvgpu(), "libcuda.so.1");
}

#[test]
fn software_gpu_is_libsoftcuda_so_1_and_stays_loaded() {
    check_dynamic_section(&place::softgpu(), "libsoftcuda.so.1");
}

#[test]
fn structures_have_the_layout_of_cudarc() {
    macro_rules! same {
        ($name:ident { $($field:ident),* $(,)? }) => {
            assert_eq!(size_of::<types::$name>(), size_of::<sys::$name>(), concat!(stringify!($name), ": size"));
            assert_eq!(align_of::<types::$name>(), align_of::<sys::$name>(), concat!(stringify!($name), ": alignment"));
            $(assert_eq!(
                offset_of!(types::$name, $field),
                offset_of!(sys::$name, $field),
                concat!(stringify!($name), ".", stringify!($field)),
            );)*
        };
    }
    same!(CUuuid { bytes });
    same!(CUdevprop {
        maxThreadsPerBlock,
        maxThreadsDim,
        maxGridSize,
        sharedMemPerBlock,
        totalConstantMemory,
        SIMDWidth,
        memPitch,
        regsPerBlock,
        clockRate,
        textureAlign,
    });
    same!(CUlaunchAttributeValue {});
    same!(CUlaunchAttribute { id, value });
    same!(CUlaunchConfig {
        gridDimX,
        gridDimY,
        gridDimZ,
        blockDimX,
        blockDimY,
        blockDimZ,
        sharedMemBytes,
        hStream,
        attrs,
        numAttrs,
    });
    same!(CUexecAffinityParam {});
    same!(CUctxCreateParams {
        execAffinityParams,
        numExecAffinityParams,
        cigParams
    });
    same!(CUctxCigParam {
        sharedDataType,
        sharedData
    });
    same!(CUmemLocation { type_ });
    same!(CUmemAllocationProp {
        type_,
        requestedHandleTypes,
        location,
        win32HandleMetaData,
        allocFlags,
    });
    same!(CUmemAccessDesc { location, flags });
    same!(CUtensorMap { opaque });
    same!(CUmemcpyAttributes {
        srcAccessOrder,
        srcLocHint,
        dstLocHint,
        flags
    });
    assert_eq!(
        (
            size_of::<types::CUDA_MEMCPY3D_PEER>(),
            offset_of!(types::CUDA_MEMCPY3D, reserved0),
            offset_of!(types::CUDA_MEMCPY3D, reserved1)
        ),
        (
            size_of::<sys::CUDA_MEMCPY3D_PEER>(),
            offset_of!(sys::CUDA_MEMCPY3D_PEER, srcContext),
            offset_of!(sys::CUDA_MEMCPY3D_PEER, dstContext)
        ),
    );
    same!(CUmemPoolProps {
        allocType,
        handleTypes,
        location,
        win32SecurityAttributes,
        maxSize,
        usage,
        gpuDirectRDMACapable,
        reserved,
    });
    same!(CUDA_MEMCPY3D {
        srcXInBytes,
        srcZ,
        srcLOD,
        srcMemoryType,
        srcHost,
        srcDevice,
        srcArray,
        srcPitch,
        srcHeight,
        dstXInBytes,
        dstZ,
        dstMemoryType,
        dstHost,
        dstDevice,
        dstArray,
        dstPitch,
        dstHeight,
        WidthInBytes,
        Height,
        Depth
    });
    same!(CUDA_ARRAY_DESCRIPTOR {
        Width,
        Height,
        Format,
        NumChannels
    });
    same!(CUDA_ARRAY3D_DESCRIPTOR {
        Width,
        Height,
        Depth,
        Format,
        NumChannels,
        Flags
    });
    same!(CUDA_RESOURCE_DESC { resType, flags });
    same!(CUgraphEdgeData {
        from_port,
        to_port,
        type_
    });
    same!(CUstreamBatchMemOpParams {});
    same!(CUDA_GRAPH_INSTANTIATE_PARAMS {
        flags,
        hUploadStream,
        hErrNode_out,
        result_out
    });
    same!(CUDA_KERNEL_NODE_PARAMS_v1 {
        func,
        gridDimX,
        sharedMemBytes,
        kernelParams,
        extra
    });
    same!(CUDA_KERNEL_NODE_PARAMS_v2 {
        func,
        gridDimX,
        sharedMemBytes,
        kernelParams,
        extra,
        kern,
        ctx
    });
    same!(CUDA_MEMSET_NODE_PARAMS_v1 {
        dst,
        pitch,
        value,
        elementSize,
        width,
        height
    });
    same!(CUDA_MEMSET_NODE_PARAMS_v2 { ctx });
    same!(CUDA_MEMCPY_NODE_PARAMS {
        flags,
        copyCtx,
        copyParams
    });
    same!(CUDA_HOST_NODE_PARAMS_v1 { fn_, userData });
    same!(CUDA_BATCH_MEM_OP_NODE_PARAMS {
        ctx,
        count,
        paramArray,
        flags
    });
    same!(CUgraphNodeParams { type_, reserved2 });
    same!(CUgraphExecUpdateResultInfo {
        result,
        errorNode,
        errorFromNode
    });
    same!(CUDA_TEXTURE_DESC {
        addressMode,
        filterMode,
        flags,
        maxAnisotropy,
        mipmapFilterMode,
        mipmapLevelBias,
        minMipmapLevelClamp,
        maxMipmapLevelClamp,
        borderColor
    });
    same!(CUDA_RESOURCE_VIEW_DESC {
        format,
        width,
        height,
        depth,
        firstMipmapLevel,
        lastMipmapLevel,
        firstLayer,
        lastLayer
    });
    same!(CUDA_MEMCPY2D {
        srcXInBytes,
        srcY,
        srcMemoryType,
        srcHost,
        srcDevice,
        srcArray,
        srcPitch,
        dstXInBytes,
        dstY,
        dstMemoryType,
        dstHost,
        dstDevice,
        dstArray,
        dstPitch,
        WidthInBytes,
        Height,
    });
}

#[test]
fn constants_have_the_values_of_cudarc() {
    let mut count = 0;
    macro_rules! same {
        ($ours:ident, $theirs:ident, $($name:ident),* $(,)?) => {
            $(
                assert_eq!(
                    i64::from(types::$ours::$name.0),
                    sys::$theirs::$name as i64,
                    concat!(stringify!($ours), "::", stringify!($name)),
                );
                count += 1;
            )*
        };
    }
    shared_enumerations!(same);
    assert!(count > 300, "only {count} constants were compared");
}

/// A C program that fails to compile unless every layout and value is the header's.
fn comparison_in_c() -> String {
    let mut program = String::from("#include <stddef.h>\n#include <cuda.h>\n");
    macro_rules! layout {
        ($name:ident { $($field:ident),* $(,)? }) => {
            let _ = writeln!(
                program,
                concat!("_Static_assert(sizeof(", stringify!($name), ") == {}, \"size of ", stringify!($name), "\");"),
                size_of::<types::$name>()
            );
            $(let _ = writeln!(
                program,
                concat!(
                    "_Static_assert(offsetof(", stringify!($name), ", ", stringify!($field), ") == {}, \"",
                    stringify!($name), ".", stringify!($field), "\");"
                ),
                offset_of!(types::$name, $field)
            );)*
        };
    }
    layout!(CUuuid { bytes });
    layout!(CUdevprop {
        maxThreadsPerBlock,
        maxThreadsDim,
        maxGridSize,
        sharedMemPerBlock,
        regsPerBlock,
        textureAlign
    });
    layout!(CUlaunchAttribute { id, pad, value });
    layout!(CUlaunchConfig {
        gridDimX,
        blockDimX,
        sharedMemBytes,
        hStream,
        attrs,
        numAttrs
    });
    layout!(CUstreamBatchMemOpParams {});
    layout!(CUgraphEdgeData { from_port, to_port });
    layout!(CUDA_GRAPH_INSTANTIATE_PARAMS {
        flags,
        hUploadStream,
        hErrNode_out,
        result_out
    });
    layout!(CUDA_KERNEL_NODE_PARAMS_v1 {
        func,
        gridDimX,
        sharedMemBytes,
        kernelParams,
        extra
    });
    layout!(CUDA_KERNEL_NODE_PARAMS_v2 {
        func,
        gridDimX,
        sharedMemBytes,
        kernelParams,
        extra,
        kern,
        ctx
    });
    layout!(CUDA_MEMSET_NODE_PARAMS_v1 {
        dst,
        pitch,
        value,
        elementSize,
        width,
        height
    });
    layout!(CUDA_MEMSET_NODE_PARAMS_v2 {});
    layout!(CUDA_MEMCPY_NODE_PARAMS {
        flags,
        copyCtx,
        copyParams
    });
    layout!(CUDA_HOST_NODE_PARAMS_v1 {});
    layout!(CUDA_BATCH_MEM_OP_NODE_PARAMS {
        ctx,
        count,
        paramArray,
        flags
    });
    layout!(CUgraphNodeParams {
        reserved0,
        reserved2
    });
    layout!(CUgraphExecUpdateResultInfo {
        result,
        errorNode,
        errorFromNode
    });
    layout!(CUexecAffinityParam {});
    layout!(CUctxCreateParams {
        execAffinityParams,
        numExecAffinityParams,
        cigParams
    });
    layout!(CUDA_MEMCPY2D {
        srcXInBytes,
        srcHost,
        srcDevice,
        srcPitch,
        dstXInBytes,
        dstHost,
        WidthInBytes,
        Height
    });
    layout!(CUDA_MEMCPY3D {
        srcXInBytes,
        srcZ,
        srcLOD,
        srcMemoryType,
        srcHost,
        srcDevice,
        srcArray,
        srcPitch,
        srcHeight,
        dstXInBytes,
        dstZ,
        dstMemoryType,
        dstHost,
        dstDevice,
        dstArray,
        dstPitch,
        dstHeight,
        WidthInBytes,
        Height,
        Depth
    });
    layout!(CUDA_ARRAY_DESCRIPTOR {
        Width,
        Height,
        Format,
        NumChannels
    });
    layout!(CUDA_ARRAY3D_DESCRIPTOR {
        Width,
        Height,
        Depth,
        Format,
        NumChannels,
        Flags
    });
    layout!(CUDA_RESOURCE_DESC { resType, flags });
    layout!(CUDA_TEXTURE_DESC {
        addressMode,
        filterMode,
        flags,
        maxAnisotropy,
        mipmapFilterMode,
        mipmapLevelBias,
        minMipmapLevelClamp,
        maxMipmapLevelClamp,
        borderColor
    });
    layout!(CUDA_RESOURCE_VIEW_DESC {
        format,
        width,
        height,
        depth,
        firstMipmapLevel,
        lastMipmapLevel,
        firstLayer,
        lastLayer
    });
    let table = std::fs::read_to_string(place::repository().join("cuda-abi/data/enums.tsv"))
        .expect("the data is part of the repository");
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split('\t').collect();
        let (kind, name, value) = (fields[0], fields[1], fields[2]);
        // Some constants of the header stand under a condition of their own.
        if !kind.starts_with("cl_") && name != "CU_LAUNCH_ATTRIBUTE_MAX" {
            let _ = writeln!(
                program,
                "_Static_assert((unsigned)({name}) == (unsigned){value}LL, \"{name}\");"
            );
        }
    }
    program.push_str("int main(void) { return 0; }\n");
    program
}

#[test]
fn layouts_and_values_are_those_of_the_c_header() {
    let include = place::repository().join("target/cuda-toolchain/cu13/include");
    if !include.join("cuda.h").exists() {
        eprintln!("SKIPPED: no cuda.h; tests/toolchain/fetch.sh brings it");
        return;
    }
    let directory = tempfile::tempdir().expect("the temporary directory is writable");
    let source = directory.path().join("layouts.c");
    std::fs::write(&source, comparison_in_c()).expect("the directory is ours");
    tool::output(
        "cc",
        &[
            "-std=c11",
            "-fsyntax-only",
            "-isystem",
            &include.display().to_string(),
            &source.display().to_string(),
        ],
    );
}
