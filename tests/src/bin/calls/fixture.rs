//! One object of each kind, made through the driver, and one of each that is gone again.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use e2e::driver::KERNELS;
use e2e::raw::{Driver, leak};

/// Handles by their C type.
#[derive(Debug, Default)]
pub struct Fixture {
    /// The primary context.
    pub context: u64,
    /// Device memory, [`BYTES`] of it.
    pub memory: u64,
    /// Pinned memory, as much.
    pub pinned: u64,
    /// One that is alive, by type.
    alive: BTreeMap<&'static str, u64>,
    /// One that was destroyed, by type.
    gone: BTreeMap<&'static str, u64>,
}

/// Size of the fixture's memory.
pub const BYTES: u64 = 4096;

impl Fixture {
    /// Nothing: before `cuInit`.
    pub fn none() -> Self {
        Self::default()
    }

    /// Everything, in the primary context of device 0, which is current afterwards.
    ///
    /// # Panics
    /// If the driver cannot make it: then there is nothing to compare.
    pub fn make(driver: &Driver) -> Self {
        let mut fixture = Self::default();
        let must = |function: &str, words: &[u64]| {
            let code = driver.call(function, words);
            assert_eq!(code, 0, "{function}");
        };
        must("cuInit", &[0]);
        fixture.context = made(driver, "cuDevicePrimaryCtxRetain", &[0]);
        must("cuCtxSetCurrent", &[fixture.context]);
        fixture.memory = made(driver, "cuMemAlloc_v2", &[BYTES]);
        fixture.pinned = made(driver, "cuMemHostAlloc", &[BYTES, 0]);
        fixture.alive.insert("CUcontext", fixture.context);
        fixture.alive.insert("CUdeviceptr", fixture.memory);
        let image = KERNELS.as_ptr() as u64;
        let array = leak(array_descriptor());
        let deep_array = leak(deep_array_descriptor());
        // Type, constructor, its words behind the place, destructor.
        let kinds: [(&str, &str, Vec<u64>, &str); 9] = [
            ("CUstream", "cuStreamCreate", vec![0], "cuStreamDestroy_v2"),
            ("CUevent", "cuEventCreate", vec![0], "cuEventDestroy_v2"),
            (
                "CUmodule",
                "cuModuleLoadData",
                vec![image],
                "cuModuleUnload",
            ),
            (
                "CUlibrary",
                "cuLibraryLoadData",
                vec![image],
                "cuLibraryUnload",
            ),
            ("CUarray", "cuArrayCreate_v2", vec![array], "cuArrayDestroy"),
            (
                "CUmipmappedArray",
                "cuMipmappedArrayCreate",
                vec![deep_array, 1],
                "cuMipmappedArrayDestroy",
            ),
            ("CUlinkState", "", vec![], "cuLinkDestroy"),
            ("CUgraph", "cuGraphCreate", vec![0], "cuGraphDestroy"),
            ("CUgraphExec", "", vec![], "cuGraphExecDestroy"),
        ];
        for (kind, constructor, words, destructor) in kinds {
            let make = || match kind {
                // The place is the last parameter.
                "CUlinkState" => {
                    let place = leak([0u64; 2]);
                    must("cuLinkCreate_v2", &[0, 0, 0, place]);
                    read(place)
                }
                // It needs the graph that was made before.
                "CUgraphExec" => {
                    let graph = fixture.alive("CUgraph");
                    made(driver, "cuGraphInstantiateWithFlags", &[graph, 0])
                }
                _ => made(driver, constructor, &words),
            };
            // The one that goes is the first, so that nothing new has its value.
            let gone = make();
            fixture.alive.insert(kind, make());
            must(destructor, &[gone]);
            fixture.gone.insert(kind, gone);
        }
        let name = c"empty".as_ptr() as u64;
        let module = fixture.alive("CUmodule");
        let function = made(driver, "cuModuleGetFunction", &[module, name]);
        fixture.alive.insert("CUfunction", function);
        let library = fixture.alive("CUlibrary");
        let kernel = made(driver, "cuLibraryGetKernel", &[library, name]);
        fixture.alive.insert("CUkernel", kernel);
        fixture
    }

    /// The object of a type that is alive; 0 if there is none.
    pub fn alive(&self, kind: &str) -> u64 {
        self.alive.get(kind).copied().unwrap_or(0)
    }

    /// The one that is gone.
    pub fn gone(&self, kind: &str) -> Option<u64> {
        self.gone.get(kind).copied()
    }

    /// An object of another type: an event, or a stream where an event is wanted.
    pub fn other(&self, kind: &str) -> u64 {
        self.alive(if kind == "CUevent" {
            "CUstream"
        } else {
            "CUevent"
        })
    }

    /// Whether there are objects of this type.
    pub fn has(&self, kind: &str) -> bool {
        self.alive.contains_key(kind)
    }
}

/// What a constructor whose first parameter is the place makes.
fn made(driver: &Driver, constructor: &str, words: &[u64]) -> u64 {
    let place = leak([0u64; 2]);
    let words: Vec<u64> = std::iter::once(place)
        .chain(words.iter().copied())
        .collect();
    assert_eq!(driver.call(constructor, &words), 0, "{constructor}");
    read(place)
}

fn read(place: u64) -> u64 {
    e2e::raw::read(place)
}

/// `CUDA_ARRAY_DESCRIPTOR`: 16 by 16 floats.
pub fn array_descriptor() -> [u64; 3] {
    [16, 16, 0x20 | 1 << 32]
}

/// `CUDA_ARRAY3D_DESCRIPTOR`: the same without depth or flags.
pub fn deep_array_descriptor() -> [u64; 5] {
    [16, 16, 0, 0x20 | 1 << 32, 0]
}
