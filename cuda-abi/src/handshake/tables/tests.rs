//! The tables as a runtime sees them: found by UUID, called through their addresses.

use super::super::DeviceIdentity;
use super::*;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What each table claims for its size, and the name the log gives it.
const SIZED: [(u128, usize); 6] = [
    (CUDART_ID, 13),
    (HOOKS_ID, 7),
    (TOOLS_ID, 3),
    (CHECKS_ID, 4),
    (INTEGRITY_ID, 3),
    (IDENTITY_ID, 93),
];

#[test]
fn sized_tables_begin_with_their_bytes_and_hold_no_null() {
    for (id, count) in SIZED {
        let words = words(id, count);
        assert_eq!(words[0].addr(), count * 8, "{id:x}");
        assert!(words.iter().all(|word| !word.is_null()), "{id:x}");
    }
}

#[test]
fn local_storage_ends_with_a_null_in_place_of_a_size() {
    let words = words(LOCAL_STORAGE_ID, 4);
    assert!(words[..3].iter().all(|word| !word.is_null()));
    assert!(words[3].is_null());
}

#[test]
fn tables_stay_where_they_are() {
    for (id, count) in SIZED {
        assert_eq!(words(id, count).as_ptr(), words(id, count).as_ptr());
    }
}

#[test]
fn other_tables_are_unknown() {
    // Asked for by cudart 13, CuPy and CUPTI; what they hold is not published.
    for id in [
        0xf8cff951_2146_8b4e_b9e2_fb469e7c0dd9,
        0xda9151d3_3ae6_cc41_a5c0_4f26d533e328,
        0x7cb63f9b_9ca4_8e42_a484_beb66e6aed7f_u128,
    ] {
        assert!(find(&id.to_be_bytes()).is_none());
    }
}

#[test]
fn unserved_slot_refuses_and_is_reported_once() {
    driver();
    let slot = words(IDENTITY_ID, 93)[92];
    // SAFETY: the slot holds a function without arguments.
    let slot = unsafe { std::mem::transmute::<*const (), extern "C" fn() -> CUresult>(slot) };
    assert_eq!(slot(), CUresult::CUDA_ERROR_NOT_SUPPORTED);
    assert_eq!(slot(), CUresult::CUDA_ERROR_NOT_SUPPORTED);
    assert_eq!(UNSERVED.load(Ordering::Relaxed), 1);
}

#[test]
fn primary_context_is_handed_out() {
    driver();
    let mut context = std::ptr::null_mut();
    // SAFETY: the pointer is to a local.
    let status = unsafe { primary_context(&raw mut context, 1) };
    assert_eq!(
        (status, context.addr()),
        (CUresult::CUDA_SUCCESS, PRIMARY + 1)
    );
    // SAFETY: a null pointer is allowed.
    let status = unsafe { primary_context(std::ptr::null_mut(), 1) };
    assert_eq!(status, CUresult::CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn panic_of_the_driver_becomes_an_unknown_error() {
    driver();
    let mut context = std::ptr::null_mut();
    // SAFETY: the pointer is to a local.
    let status = unsafe { primary_context(&raw mut context, PANICS) };
    assert_eq!(status, CUresult::CUDA_ERROR_UNKNOWN);
    assert!(context.is_null());
}

#[test]
fn modules_load_from_both_forms_of_fat_binary() {
    driver();
    let image: *const c_void = (&raw const IMAGE).cast();
    let null = std::ptr::null();
    let mut modules = [std::ptr::null_mut(); 3];
    let [first, second, third] = &mut modules;
    // SAFETY: the test driver reads no image; the other pointers are to locals.
    let status = unsafe { load_wrapped(first, image) };
    assert_eq!(status, CUresult::CUDA_SUCCESS);
    // SAFETY: as above.
    let status = unsafe { load_wrapped_with_options(second, image, null, null, 0) };
    assert_eq!(status, CUresult::CUDA_SUCCESS);
    // SAFETY: as above.
    let status = unsafe { load_bare(image, third, null, null, 0) };
    assert_eq!(status, CUresult::CUDA_SUCCESS);
    assert!(modules.iter().all(|module| module.addr() == image.addr()));
}

#[test]
fn unpublished_load_options_are_refused() {
    driver();
    let image: *const c_void = (&raw const IMAGE).cast();
    let mut module = std::ptr::null_mut();
    // SAFETY: the test driver reads no image; the other pointers are to locals.
    let status =
        unsafe { load_wrapped_with_options(&raw mut module, image, image, std::ptr::null(), 0) };
    assert_eq!(status, CUresult::CUDA_ERROR_NOT_SUPPORTED);
    assert!(module.is_null());
}

#[test]
fn scratch_has_the_size_asked_of_it_and_is_zeroed() {
    driver();
    for (lend, expected) in [
        (
            large_scratch as unsafe extern "C" fn(*mut *mut c_void, *mut usize) -> CUresult,
            1024,
        ),
        (small_scratch, 14),
    ] {
        let (mut buffer, mut size) = (std::ptr::null_mut(), 0);
        // SAFETY: the pointers are to locals.
        let status = unsafe { lend(&raw mut buffer, &raw mut size) };
        assert_eq!((status, size), (CUresult::CUDA_SUCCESS, expected));
        // SAFETY: the buffer is `size` bytes that nothing in this process writes.
        let bytes = unsafe { std::slice::from_raw_parts(buffer.cast::<u8>(), size) };
        assert!(bytes.iter().all(|byte| *byte == 0));
    }
}

#[test]
fn storage_without_a_context_names_the_current_one() {
    driver();
    let current = std::ptr::without_provenance_mut(CURRENT);
    let (key, value) = (at(0x51), at(0x52));
    assert_eq!(
        get(std::ptr::null_mut(), key),
        Err(CUresult::CUDA_ERROR_INVALID_HANDLE)
    );
    assert_eq!(
        local_put(std::ptr::null_mut(), key, value, None),
        CUresult::CUDA_SUCCESS
    );
    assert_eq!(get(current, key), Ok(value));
    assert_eq!(
        get(std::ptr::without_provenance_mut(usize::MAX), key),
        Ok(value)
    );
    assert_eq!(local_delete(current, key), CUresult::CUDA_SUCCESS);
    assert_eq!(
        local_delete(current, key),
        CUresult::CUDA_ERROR_INVALID_HANDLE
    );
    assert_eq!(
        get(std::ptr::null_mut(), key),
        Err(CUresult::CUDA_ERROR_INVALID_HANDLE)
    );
}

#[test]
fn destroyed_context_runs_its_destructors_once_and_no_others() {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn destructor(context: CUcontext, key: *mut c_void, value: *mut c_void) {
        assert_eq!((context.addr(), value.addr()), (0x6000, key.addr() + 1));
        // The storage must be open to a destructor, as it is to the runtime's.
        assert_eq!(get(context, key), Err(CUresult::CUDA_ERROR_INVALID_HANDLE));
        RUNS.fetch_add(1, Ordering::Relaxed);
    }
    driver();
    let (gone, other) = (
        std::ptr::without_provenance_mut(0x6000),
        std::ptr::without_provenance_mut(0x6001),
    );
    local_put(gone, at(0x61), at(0x62), Some(destructor));
    local_put(gone, at(0x63), at(0x64), Some(destructor));
    local_put(gone, at(0x65), at(0x66), None);
    local_put(other, at(0x61), at(0x67), Some(destructor));
    context_destroyed(gone);
    context_destroyed(gone);
    assert_eq!(RUNS.load(Ordering::Relaxed), 2);
    assert_eq!(get(other, at(0x61)), Ok(at(0x67)));
}

#[test]
fn context_id_is_the_drivers() {
    driver();
    let mut id = 0;
    // SAFETY: the pointer is to a local.
    let status = unsafe { context_id(std::ptr::null_mut(), &raw mut id) };
    assert_eq!((status, id), (CUresult::CUDA_SUCCESS, 9));
}

#[test]
fn self_test_answers_for_this_process_and_the_tables_it_hands_out() {
    driver();
    let table = words(INTEGRITY_ID, 3);
    let question = Question {
        driver_version: 13050,
        version: 13052,
        pid: std::process::id(),
        thread: thread(),
        cudart_table: words(CUDART_ID, 13).as_ptr().addr() as u64,
        integrity_table: table.as_ptr().addr() as u64,
        check_function: table[1].addr() as u64,
        unix_seconds: 1_700_000_000,
    };
    let mut answer = [0; 2];
    // SAFETY: the pointer is to a local.
    let status = unsafe { integrity_check(13052, 1_700_000_000, &raw mut answer) };
    assert_eq!(status, CUresult::CUDA_SUCCESS);
    assert_eq!(answer, integrity::answer(&question, &[DEVICE]));
}

static IMAGE: u64 = 0;
static UNSERVED: AtomicUsize = AtomicUsize::new(0);
const PRIMARY: usize = 0x5000;
const CURRENT: usize = 0x5050;
const PANICS: CUdevice = 77;
const DEVICE: DeviceIdentity = DeviceIdentity {
    uuid: [3; 16],
    pci_domain: 0,
    pci_bus: 1,
    pci_device: 2,
};

struct TestDriver;

impl Driver for TestDriver {
    fn version(&self) -> i32 {
        13050
    }

    fn devices(&self) -> Result<Vec<DeviceIdentity>, CUresult> {
        Ok(vec![DEVICE])
    }

    fn primary_context(&self, device: CUdevice) -> Result<CUcontext, CUresult> {
        assert_ne!(device, PANICS, "a mistake in the driver");
        Ok(std::ptr::without_provenance_mut(
            PRIMARY + usize::try_from(device).unwrap(),
        ))
    }

    fn current_context(&self) -> Result<CUcontext, CUresult> {
        Ok(std::ptr::without_provenance_mut(CURRENT))
    }

    fn context_id(&self, _context: CUcontext) -> Result<u64, CUresult> {
        Ok(9)
    }

    unsafe fn load_module(&self, image: *const c_void) -> Result<CUmodule, CUresult> {
        Ok(image.cast_mut().cast())
    }

    fn unserved(&self, table: &'static str, slot: usize) {
        assert_eq!((table, slot), ("identity", 92));
        UNSERVED.fetch_add(1, Ordering::Relaxed);
    }
}

fn driver() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        assert!(install(&TestDriver));
        assert!(!install(&TestDriver));
    });
}

fn words(id: u128, count: usize) -> &'static [*const ()] {
    let table = find(&id.to_be_bytes()).expect("a table of ours");
    // SAFETY: the table is a static of at least `count` words.
    unsafe { std::slice::from_raw_parts(table.cast(), count) }
}

fn get(context: CUcontext, key: *mut c_void) -> Result<*mut c_void, CUresult> {
    let mut value = std::ptr::null_mut();
    // SAFETY: the pointer is to a local.
    match unsafe { local_get(&raw mut value, context, key) } {
        CUresult::CUDA_SUCCESS => Ok(value),
        status => Err(status),
    }
}

/// Stands for an address that only the caller understands.
fn at(address: usize) -> *mut c_void {
    std::ptr::without_provenance_mut(address)
}
