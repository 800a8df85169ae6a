//! A device in a few lines: buffers that kernels may touch, and launches with sensible defaults.
#![allow(
    dead_code,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap
)]

use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use softgpu_core::exec::{self, AddressSpace, DeviceHeap, Fault, Launch, Range, Stats};
use softgpu_core::ptx::{self, ir};

pub const TARGET: ptx::Target = ptx::Target {
    compute_capability: (9, 0),
    max_ptx_version: (9, 9),
};

/// Memory that kernels may touch; every buffer lives as long as the process.
#[derive(Debug, Default)]
pub struct Memory {
    ranges: Mutex<Vec<Range>>,
}

// SAFETY: the ranges are leaked allocations that only kernels and `Buffer`'s raw accesses touch.
unsafe impl AddressSpace for Memory {
    fn resolve(&self, address: u64) -> Option<Range> {
        let ranges = self.ranges.lock().unwrap();
        ranges
            .iter()
            .find(|range| range.start <= address && address < range.end)
            .copied()
    }
}

/// A piece of that memory.
#[derive(Debug, Clone, Copy)]
pub struct Buffer {
    pub address: u64,
    pub bytes: usize,
}

impl Memory {
    pub fn buffer(&self, bytes: usize) -> Buffer {
        // The driver's allocations are aligned, too.
        #[derive(Clone, Copy)]
        #[repr(align(64))]
        struct Line(#[allow(dead_code, reason = "kernels use it")] [u64; 8]);
        let lines: &'static mut [Line] =
            Box::leak(vec![Line([0; 8]); bytes.div_ceil(64).max(1)].into_boxed_slice());
        let address = lines.as_mut_ptr().expose_provenance() as u64;
        let range = Range {
            start: address,
            end: address + bytes as u64,
            writable: true,
        };
        self.ranges.lock().unwrap().push(range);
        Buffer { address, bytes }
    }

    pub fn read_only(&self) {
        self.ranges.lock().unwrap().last_mut().unwrap().writable = false;
    }

    pub fn from<T: Copy>(&self, values: &[T]) -> Buffer {
        let buffer = self.buffer(std::mem::size_of_val(values));
        // SAFETY: the buffer has just been allocated with that size, and no kernel runs yet.
        unsafe {
            std::ptr::copy_nonoverlapping(
                values.as_ptr().cast::<u8>(),
                buffer.pointer(),
                buffer.bytes,
            );
        }
        buffer
    }
}

impl Buffer {
    fn pointer(self) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(self.address as usize)
    }

    pub fn read<T: Copy + Default>(self) -> Vec<T> {
        let mut values = vec![T::default(); self.bytes / size_of::<T>()];
        // SAFETY: the buffer holds that many bytes; no kernel runs while tests read.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.pointer(),
                values.as_mut_ptr().cast::<u8>(),
                self.bytes,
            );
        }
        values
    }
}

/// Kernel arguments, laid out as C would.
#[derive(Debug, Default, Clone)]
pub struct Arguments(pub Vec<u8>);

impl Arguments {
    pub fn new() -> Self {
        Self::default()
    }

    fn push(mut self, bytes: &[u8]) -> Self {
        let start = self.0.len().next_multiple_of(bytes.len());
        self.0.resize(start, 0);
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn buffer(self, buffer: Buffer) -> Self {
        self.push(&buffer.address.to_le_bytes())
    }

    pub fn u64(self, value: u64) -> Self {
        self.push(&value.to_le_bytes())
    }

    pub fn i32(self, value: i32) -> Self {
        self.push(&value.to_le_bytes())
    }

    pub fn f32(self, value: f32) -> Self {
        self.push(&value.to_le_bytes())
    }
}

#[derive(Debug)]
pub struct Program {
    pub module: ir::Module,
    pub memory: Memory,
    pub globals: Vec<u64>,
    pub output: Mutex<Vec<String>>,
    pub workers: usize,
    pub instruction_limit: Option<u64>,
    pub dynamic_shared: u32,
    pub cooperative: bool,
    pub cancel: AtomicBool,
    pub heap: Option<DeviceHeap>,
}

impl Program {
    pub fn new(text: &str) -> Self {
        Self::for_target(text, &TARGET)
    }

    pub fn for_target(text: &str, target: &ptx::Target) -> Self {
        let module = ptx::compile(text, target).unwrap_or_else(|error| panic!("{error}"));
        let memory = Memory::default();
        let globals: Vec<Buffer> = module
            .globals
            .iter()
            .map(|global| memory.buffer(global.size as usize))
            .collect();
        for (global, buffer) in module.globals.iter().zip(&globals) {
            let mut bytes = global.init.clone();
            bytes.resize(global.size as usize, 0);
            for relocation in &global.relocations {
                let address = match relocation.target {
                    ir::RelocationTarget::Global(index) => globals[index as usize].address,
                    ir::RelocationTarget::Function(index) => ir::function_address(index),
                };
                let start = relocation.offset as usize;
                let address = address.wrapping_add_signed(relocation.addend).to_le_bytes();
                let count = usize::from(relocation.bytes);
                bytes[start..start + count].copy_from_slice(&address[..count]);
            }
            // SAFETY: the buffer has the global's size, and no kernel runs yet.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.pointer(), bytes.len()) };
        }
        Self {
            module,
            memory,
            globals: globals.iter().map(|buffer| buffer.address).collect(),
            output: Mutex::new(Vec::new()),
            workers: 2,
            instruction_limit: Some(1 << 32),
            dynamic_shared: 0,
            cooperative: false,
            cancel: AtomicBool::new(false),
            heap: None,
        }
    }

    pub fn run(
        &self,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        arguments: Arguments,
    ) -> Result<Stats, Fault> {
        static START: OnceLock<Instant> = OnceLock::new();
        let start = *START.get_or_init(Instant::now);
        let launch = Launch {
            module: &self.module,
            kernel: self.module.kernel(kernel).expect("the kernel exists"),
            grid,
            block,
            cooperative: self.cooperative,
            dynamic_shared_bytes: self.dynamic_shared,
            params: &arguments.0,
            global_addresses: &self.globals,
            stack_bytes: 16384,
            instruction_limit: self.instruction_limit,
            workers: self.workers,
            sm_count: 4,
            grid_id: 1,
            cancel: &self.cancel,
            clock: &|| start.elapsed().as_nanos() as u64,
            heap: self.heap.as_ref(),
            output: &|text| {
                self.output
                    .lock()
                    .unwrap()
                    .push(String::from_utf8_lossy(text).into_owned())
            },
        };
        exec::run(&launch, &self.memory)
    }

    pub fn launch(&self, kernel: &str, grid: u32, block: u32, arguments: Arguments) {
        if let Err(fault) = self.run(kernel, [grid, 1, 1], [block, 1, 1], arguments) {
            panic!("{fault}");
        }
    }
}
