//! PTX text of arbitrary bytes: it compiles or is refused, and what compiles runs or faults, on no
//! memory at all.

#![no_main]

use std::sync::atomic::AtomicBool;

use libfuzzer_sys::fuzz_target;
use softgpu_core::exec::{self, AddressSpace, Launch, Range};
use softgpu_core::ptx::{self, Target};

struct Nothing;

// SAFETY: vouches for no memory.
unsafe impl AddressSpace for Nothing {
    fn resolve(&self, _: u64) -> Option<Range> {
        None
    }
}

/// What a kernel may use before it is left alone: memory is bounded by the launch, generously.
const SMALL: u32 = 1 << 16;

fuzz_target!(|bytes: &[u8]| {
    ptx::fuzz_compile(bytes);
    let target = Target {
        compute_capability: (9, 0),
        max_ptx_version: (9, 9),
    };
    let Some(module) = std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| ptx::compile(text, &target).ok())
    else {
        return;
    };
    for kernel in module.kernels.iter().take(4) {
        let local = kernel.local_bytes.unwrap_or(0);
        if local > SMALL || kernel.shared_bytes > SMALL || kernel.param_bytes > SMALL {
            continue;
        }
        let (params, addresses) = (
            vec![0; kernel.param_bytes as usize],
            vec![0; module.globals.len()],
        );
        let launch = Launch {
            module: &module,
            kernel,
            grid: [2, 1, 1],
            block: kernel.required_block.unwrap_or([40, 1, 1]),
            dynamic_shared_bytes: 256,
            params: &params,
            global_addresses: &addresses,
            stack_bytes: 4096,
            instruction_limit: Some(1),
            workers: 1,
            sm_count: 1,
            grid_id: 0,
            cancel: &AtomicBool::new(false),
            clock: &|| 0,
            heap: None,
            cooperative: false,
            output: &|_| {},
        };
        let _ = exec::run(&launch, &Nothing);
    }
});
