//! What every scenario uses: the library, a context with the kernels in it, and words for what went wrong.

use std::io::{BufRead, Write};
use std::sync::OnceLock;

use cuda_abi::types::{CUcontext, CUdeviceptr, CUfunction, CUmodule, CUresult, CUstream};
use e2e::driver::{Argument, Gpu, KERNELS, Outcome};

/// What went wrong, in words.
pub type Verdict = Result<(), String>;

/// The library as the loader finds it.
pub fn open() -> Result<Gpu, String> {
    Gpu::find()
}

/// The library, shared by the threads of this program.
pub fn shared() -> Result<&'static Gpu, String> {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    if GPU.get().is_none() {
        let _ = GPU.set(open()?);
    }
    Ok(GPU.get().expect("set above"))
}

pub trait Named<T> {
    /// Puts the call's name before the error.
    fn named(self, call: &str) -> Result<T, String>;
}

impl<T> Named<T> for Outcome<T> {
    fn named(self, call: &str) -> Result<T, String> {
        self.map_err(|error| format!("{call} returned {error:?} ({})", error.0))
    }
}

pub fn expect<T: std::fmt::Debug>(what: &str, outcome: Outcome<T>, error: CUresult) -> Verdict {
    match outcome {
        Err(seen) if seen == error => Ok(()),
        other => Err(format!("{what}: expected {error:?}, got {other:?}")),
    }
}

pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Who no longer listens ends the program some other way.
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

pub fn wait_for_input_end() {
    for line in std::io::stdin().lock().lines() {
        if line.is_err() {
            return;
        }
    }
}

pub fn code<T>(outcome: Outcome<T>) -> u32 {
    outcome.map_or_else(|error| error.0, |_| 0)
}

/// A context with the kernels in it.
pub struct Ready {
    pub gpu: &'static Gpu,
    pub context: CUcontext,
    pub module: CUmodule,
}

impl Ready {
    pub fn new() -> Result<Self, String> {
        let gpu = shared()?;
        let context = gpu.start().named("start")?;
        let module = gpu.load(KERNELS).named("cuModuleLoadData")?;
        Ok(Self {
            gpu,
            context,
            module,
        })
    }

    pub fn function(&self, name: &str) -> Result<CUfunction, String> {
        self.gpu
            .function(self.module, name)
            .named("cuModuleGetFunction")
    }
}

pub fn bytes_of(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

pub fn values_of(bytes: &[u8]) -> Vec<u32> {
    bytes
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes(word.try_into().expect("chunks have four bytes")))
        .collect()
}

/// Adds two vectors with the kernel `add` and checks every sum.
pub fn add_once(gpu: &Gpu, add: CUfunction, count: u32, stream: CUstream) -> Verdict {
    let a: Vec<u32> = (0..count).map(|index| index.wrapping_mul(3)).collect();
    let b: Vec<u32> = (0..count)
        .map(|index| index.wrapping_mul(5).wrapping_add(1))
        .collect();
    let bytes = a.len() * 4;
    let device: Vec<CUdeviceptr> = (0..3)
        .map(|_| gpu.allocate(bytes).named("cuMemAlloc"))
        .collect::<Result<_, _>>()?;
    gpu.upload(device[0], &bytes_of(&a)).named("cuMemcpyHtoD")?;
    gpu.upload(device[1], &bytes_of(&b)).named("cuMemcpyHtoD")?;
    let arguments = [
        Argument::Word(device[0]),
        Argument::Word(device[1]),
        Argument::Word(device[2]),
        Argument::Int(count),
    ];
    gpu.launch(add, count.div_ceil(128), 128, &arguments, stream)
        .named("cuLaunchKernel")?;
    gpu.synchronize_stream(stream)
        .named("cuStreamSynchronize")?;
    let mut sums = vec![0; bytes];
    gpu.download(&mut sums, device[2]).named("cuMemcpyDtoH")?;
    for address in device {
        gpu.free(address).named("cuMemFree")?;
    }
    for (index, sum) in values_of(&sums).into_iter().enumerate() {
        let right = a[index].wrapping_add(b[index]);
        if sum != right {
            return Err(format!("element {index} is {sum}, not {right}"));
        }
    }
    Ok(())
}
