//! CUDA from Rust: cudarc finds `libcuda.so.1` as any program does and wraps the Driver API in safe types.
//!
//! Adds two vectors, then evaluates in two streams what depends on both, with an event between them and events
//! that measure. Compares each result with the same sum on the CPU.

use std::process::ExitCode;
use std::sync::Arc;

use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{
    CudaContext, CudaFunction, CudaStream, DriverError, LaunchConfig, PushKernelArg,
};
use cudarc::driver::{CudaSlice, CudaViewMut};
use cudarc::nvrtc::Ptx;

const COUNT: u32 = 1 << 18;

fn main() -> ExitCode {
    match run() {
        Ok(true) => {
            println!("PASSED");
            ExitCode::SUCCESS
        }
        Ok(false) => {
            println!("FAILED");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            println!("FAILED");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool, DriverError> {
    let context = CudaContext::new(0)?;
    println!("Running on {}", context.name()?);
    let module = context.load_module(Ptx::from_src(include_str!("kernels.ptx")))?;
    let add = module.load_function("add")?;
    let scale = module.load_function("scale")?;

    // Whole numbers, exact in any order of rounding.
    let a: Vec<f32> = (0..COUNT).map(|i| (i % 1000) as f32).collect();
    let b: Vec<f32> = a.iter().rev().copied().collect();

    let stream = context.new_stream()?;
    let device_a = stream.clone_htod(&a)?;
    let device_b = stream.clone_htod(&b)?;
    let mut sum = stream.alloc_zeros::<f32>(a.len())?;
    let start = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?;
    launch_add(&stream, &add, &device_a, &device_b, &mut sum)?;
    let end = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?;
    end.synchronize()?;
    let added = compare("additions", &stream.clone_dtoh(&sum)?, |i| a[i] + b[i]);
    let measured = start.elapsed_ms(&end)? >= 0.0;

    // Each stream scales one half, the second one only after it was told that the sum is there.
    let other = context.new_stream()?;
    other.wait(&end)?;
    let (mut first, mut second) = sum.split_at_mut(a.len() / 2);
    launch_scale(&stream, &scale, &mut first, 2.0)?;
    launch_scale(&other, &scale, &mut second, 3.0)?;
    stream.join(&other)?;
    let scaled = compare("products", &stream.clone_dtoh(&sum)?, |i| {
        (a[i] + b[i]) * if i < a.len() / 2 { 2.0 } else { 3.0 }
    });

    let (free, total) = context.mem_get_info()?;
    Ok(added && measured && scaled && free <= total)
}

/// `sum = a + b`, one thread an element.
fn launch_add(
    stream: &Arc<CudaStream>,
    add: &CudaFunction,
    a: &CudaSlice<f32>,
    b: &CudaSlice<f32>,
    sum: &mut CudaSlice<f32>,
) -> Result<(), DriverError> {
    let mut launch = stream.launch_builder(add);
    launch.arg(a).arg(b).arg(sum).arg(&COUNT);
    // SAFETY: the kernel takes three vectors and their length, and each has COUNT elements.
    unsafe { launch.launch(LaunchConfig::for_num_elems(COUNT)) }?;
    Ok(())
}

/// Multiplies each of `values` by `factor`.
fn launch_scale(
    stream: &Arc<CudaStream>,
    scale: &CudaFunction,
    values: &mut CudaViewMut<'_, f32>,
    factor: f32,
) -> Result<(), DriverError> {
    let count = u32::try_from(values.len()).expect("half of COUNT");
    let mut launch = stream.launch_builder(scale);
    launch.arg(values).arg(&factor).arg(&count);
    // SAFETY: the kernel takes a vector, a factor and the vector's length.
    unsafe { launch.launch(LaunchConfig::for_num_elems(count)) }?;
    Ok(())
}

/// Says how many of the values are not what they should be; whether none is.
fn compare(what: &str, seen: &[f32], expected: impl Fn(usize) -> f32) -> bool {
    let wrong = seen
        .iter()
        .enumerate()
        .filter(|&(i, &value)| value != expected(i))
        .count();
    println!("{} {what}, {wrong} wrong", seen.len());
    wrong == 0
}
