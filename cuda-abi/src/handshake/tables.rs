//! The tables themselves: arrays of C functions at fixed addresses, which the self-test's answer covers.
//!
//! Word 0 of a table is its size in bytes, except in context-local storage, which has no size and ends
//! with a null. A slot that we do not serve holds a function that says so: a null would crash a
//! runtime that does not look.

use super::Driver;
use super::integrity::{self, Question};
use super::storage::{Destructor, Entry, STORAGE};
use crate::types::{CUcontext, CUdevice, CUmodule, CUresult};
use std::cell::UnsafeCell;
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, OnceLock, PoisonError};

static DRIVER: OnceLock<&'static dyn Driver> = OnceLock::new();

pub(super) fn install(driver: &'static dyn Driver) -> bool {
    DRIVER.set(driver).is_ok()
}

pub(super) fn find(id: &[u8; 16]) -> Option<*const c_void> {
    let words = match u128::from_be_bytes(*id) {
        CUDART_ID => CUDART.as_slice(),
        HOOKS_ID => HOOKS.as_slice(),
        TOOLS_ID => TOOLS.as_slice(),
        LOCAL_STORAGE_ID => LOCAL_STORAGE.as_slice(),
        CHECKS_ID => CHECKS.as_slice(),
        INTEGRITY_ID => INTEGRITY.as_slice(),
        IDENTITY_ID => IDENTITY.as_slice(),
        _ => return None,
    };
    Some(words.as_ptr().cast())
}

pub(super) fn context_destroyed(context: CUcontext) {
    for (key, entry) in STORAGE.take_context(context.addr()) {
        if let Some(destructor) = entry.destructor {
            destructor(context, pointer(key), pointer(entry.value));
        }
    }
}

// The tables' names as the sixteen bytes of their UUIDs read as one number.
const CUDART_ID: u128 = 0x6bd5fb6c_5bf4_e74a_8987_d93912fd9df9;
const HOOKS_ID: u128 = 0xa094798c_2e74_2e74_93f2_0800200c0a66;
const TOOLS_ID: u128 = 0x42d85a81_23f6_cb47_8298_f6e78a3aecdc;
const LOCAL_STORAGE_ID: u128 = 0xc693336e_1121_df11_a8c3_68f355d89593;
const CHECKS_ID: u128 = 0x263e8860_7cd2_6143_92f6_bbd5006dfa7e;
const INTEGRITY_ID: u128 = 0xd4082055_bde6_704b_8d34_ba123c66e1f2;
/// Asked for by cuBLASLt, and by cudart 13.5 at its start.
const IDENTITY_ID: u128 = 0x21318c60_9714_3248_8ca6_41ff7324c8f2;

/// Names for the log, in the order that `unserved` numbers them.
const NAMES: [&str; 6] = [
    "cudart",
    "hooks",
    "tools",
    "checks",
    "integrity",
    "identity",
];

static CUDART: [Word; 13] = table::<0, 13>(&[
    (1, Word::of(load_wrapped as *const ())),
    (2, Word::of(primary_context as *const ())),
    (6, Word::of(load_wrapped_with_options as *const ())),
    (7, Word::of(succeed as *const ())),
    (8, Word::of(load_bare as *const ())),
    (12, Word::of(succeed as *const ())),
]);

static HOOKS: [Word; 7] = table::<1, 7>(&[
    (1, Word::of(succeed as *const ())),
    (2, Word::of(large_scratch as *const ())),
    (4, Word::of(no_subscriber as *const ())),
    (6, Word::of(small_scratch as *const ())),
]);

static TOOLS: [Word; 3] = table::<2, 3>(&[(2, Word::of(current_context as *const ()))]);

static LOCAL_STORAGE: [Word; 4] = [
    Word::of(local_put as *const ()),
    Word::of(local_delete as *const ()),
    Word::of(local_get as *const ()),
    Word::of(std::ptr::null()),
];

static CHECKS: [Word; 4] = table::<3, 4>(&[
    (2, Word::of(check_context as *const ())),
    (3, Word::of(succeed as *const ())),
]);

static INTEGRITY: [Word; 3] = table::<4, 3>(&[(1, Word::of(integrity_check as *const ()))]);

static IDENTITY: [Word; 93] = table::<5, 93>(&[(4, Word::of(context_id as *const ()))]);

/// One pointer-sized word of a table.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
struct Word(*const ());

// SAFETY: a word is a size, a null or the address of a function, and is never written.
unsafe impl Sync for Word {}

impl Word {
    const fn of(address: *const ()) -> Self {
        Self(address)
    }
}

/// A table of `N` words: its size, the slots that are served, and refusals in all others.
const fn table<const TABLE: usize, const N: usize>(served: &[(usize, Word)]) -> [Word; N] {
    let refusals = refusals::<TABLE>();
    let mut words = [Word(std::ptr::without_provenance(N * size_of::<Word>())); N];
    let mut slot = 1;
    while slot < N {
        words[slot] = refusals[slot];
        slot += 1;
    }
    let mut next = 0;
    while next < served.len() {
        let (slot, word) = served[next];
        words[slot] = word;
        next += 1;
    }
    words
}

/// A refusal for each slot of the largest table, each a function that knows its own place.
const fn refusals<const TABLE: usize>() -> [Word; 96] {
    macro_rules! rows {
        ($($row:literal)*) => {
            [$(
                Word(refuse::<TABLE, { $row * 8 }> as *const ()),
                Word(refuse::<TABLE, { $row * 8 + 1 }> as *const ()),
                Word(refuse::<TABLE, { $row * 8 + 2 }> as *const ()),
                Word(refuse::<TABLE, { $row * 8 + 3 }> as *const ()),
                Word(refuse::<TABLE, { $row * 8 + 4 }> as *const ()),
                Word(refuse::<TABLE, { $row * 8 + 5 }> as *const ()),
                Word(refuse::<TABLE, { $row * 8 + 6 }> as *const ()),
                Word(refuse::<TABLE, { $row * 8 + 7 }> as *const ()),
            )*]
        };
    }
    rows!(0 1 2 3 4 5 6 7 8 9 10 11)
}

/// Stands in for a function whose arguments nobody has published. It reads none of them.
extern "C" fn refuse<const TABLE: usize, const SLOT: usize>() -> CUresult {
    static SEEN: Mutex<BTreeSet<(usize, usize)>> = Mutex::new(BTreeSet::new());
    edge(|driver| {
        let first = SEEN
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((TABLE, SLOT));
        if first {
            driver.unserved(NAMES[TABLE], SLOT);
        }
        Err(CUresult::CUDA_ERROR_NOT_SUPPORTED)
    })
}

extern "C" fn succeed() -> CUresult {
    CUresult::CUDA_SUCCESS
}

/// # Safety
/// `module` is null or writable; `image` is null or a complete fat binary wrapper.
unsafe extern "C" fn load_wrapped(module: *mut CUmodule, image: *const c_void) -> CUresult {
    // SAFETY: this function's contract is the callee's.
    edge(|driver| unsafe { load(driver, module, image) })
}

/// # Safety
/// As [`load_wrapped`]. What the last three arguments mean is not published: only nulls are accepted.
unsafe extern "C" fn load_wrapped_with_options(
    module: *mut CUmodule,
    image: *const c_void,
    third: *const c_void,
    fourth: *const c_void,
    fifth: u32,
) -> CUresult {
    edge(|driver| {
        if !third.is_null() || !fourth.is_null() || fifth != 0 {
            return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
        }
        // SAFETY: this function's contract is the callee's.
        unsafe { load(driver, module, image) }
    })
}

/// # Safety
/// `module` is null or writable; `image` is null or a complete fat binary without a wrapper. What the
/// last three arguments mean is not published: only nulls are accepted.
unsafe extern "C" fn load_bare(
    image: *const c_void,
    module: *mut CUmodule,
    third: *const c_void,
    fourth: *const c_void,
    fifth: u32,
) -> CUresult {
    // SAFETY: the same arguments in the other order, under the same contract.
    unsafe { load_wrapped_with_options(module, image, third, fourth, fifth) }
}

/// # Safety
/// `module` is null or writable; `image` is null or a complete image.
unsafe fn load(
    driver: &dyn Driver,
    module: *mut CUmodule,
    image: *const c_void,
) -> Result<(), CUresult> {
    if module.is_null() || image.is_null() {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: not null, so complete by this function's contract.
    let loaded = unsafe { driver.load_module(image) }?;
    // SAFETY: not null, so writable by this function's contract.
    unsafe { write(module, loaded) }
}

/// # Safety
/// `context` is null or writable.
unsafe extern "C" fn primary_context(context: *mut CUcontext, device: CUdevice) -> CUresult {
    edge(|driver| {
        let primary = driver.primary_context(device)?;
        // SAFETY: this function's contract is the callee's.
        unsafe { write(context, primary) }
    })
}

/// # Safety
/// `buffer` and `size` are null or writable.
unsafe extern "C" fn large_scratch(buffer: *mut *mut c_void, size: *mut usize) -> CUresult {
    static SCRATCH: Scratch<1024> = Scratch::new();
    // SAFETY: this function's contract is the callee's.
    edge(|_| unsafe { SCRATCH.lend(buffer, size) })
}

/// # Safety
/// `buffer` and `size` are null or writable.
unsafe extern "C" fn small_scratch(buffer: *mut *mut c_void, size: *mut usize) -> CUresult {
    static SCRATCH: Scratch<14> = Scratch::new();
    // SAFETY: this function's contract is the callee's.
    edge(|_| unsafe { SCRATCH.lend(buffer, size) })
}

/// Tells the runtime that no tool listens to its calls.
///
/// # Safety
/// `subscriber` is null or writable.
unsafe extern "C" fn no_subscriber(_context: CUcontext, subscriber: *mut u64) -> CUresult {
    // SAFETY: this function's contract is the callee's.
    edge(|_| unsafe { write(subscriber, 0) })
}

/// # Safety
/// `context` is null or writable.
unsafe extern "C" fn current_context(context: *mut CUcontext) -> CUresult {
    edge(|driver| {
        let current = driver.current_context()?;
        // SAFETY: this function's contract is the callee's.
        unsafe { write(context, current) }
    })
}

extern "C" fn local_put(
    context: CUcontext,
    key: *mut c_void,
    value: *mut c_void,
    destructor: Option<Destructor>,
) -> CUresult {
    edge(|driver| {
        let value = value.addr();
        let context = named(driver, context)?;
        STORAGE.put(context, key.addr(), Entry { value, destructor });
        Ok(())
    })
}

extern "C" fn local_delete(context: CUcontext, key: *mut c_void) -> CUresult {
    edge(|driver| {
        let context = named(driver, context)?;
        match STORAGE.remove(context, key.addr()) {
            true => Ok(()),
            false => Err(CUresult::CUDA_ERROR_INVALID_HANDLE),
        }
    })
}

/// # Safety
/// `value` is null or writable.
unsafe extern "C" fn local_get(
    value: *mut *mut c_void,
    context: CUcontext,
    key: *mut c_void,
) -> CUresult {
    edge(|driver| {
        let context = named(driver, context)?;
        let found = STORAGE
            .value(context, key.addr())
            .ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)?;
        // SAFETY: this function's contract is the callee's.
        unsafe { write(value, pointer(found)) }
    })
}

/// # Safety
/// `flags` and `state` are null or writable.
unsafe extern "C" fn check_context(
    _context: CUcontext,
    flags: *mut u32,
    state: *mut *mut c_void,
) -> CUresult {
    edge(|_| {
        // SAFETY: this function's contract is the callee's.
        unsafe { write(flags, 0) }?;
        // SAFETY: this function's contract is the callee's.
        unsafe { write(state, std::ptr::null_mut()) }
    })
}

/// # Safety
/// `answer` is null or writable.
unsafe extern "C" fn integrity_check(
    version: u32,
    unix_seconds: u64,
    answer: *mut [u64; 2],
) -> CUresult {
    edge(|driver| {
        let question = Question {
            driver_version: driver.version().cast_unsigned(),
            version,
            pid: std::process::id(),
            thread: thread(),
            cudart_table: CUDART.as_ptr().addr() as u64,
            integrity_table: INTEGRITY.as_ptr().addr() as u64,
            check_function: INTEGRITY[1].0.addr() as u64,
            unix_seconds,
        };
        let words = integrity::answer(&question, &driver.devices()?);
        // SAFETY: this function's contract is the callee's.
        unsafe { write(answer, words) }
    })
}

/// # Safety
/// `id` is null or writable.
unsafe extern "C" fn context_id(context: CUcontext, id: *mut u64) -> CUresult {
    edge(|driver| {
        let found = driver.context_id(context)?;
        // SAFETY: this function's contract is the callee's.
        unsafe { write(id, found) }
    })
}

/// The context that a storage call means: null, and all ones, name the current one.
fn named(driver: &dyn Driver, context: CUcontext) -> Result<usize, CUresult> {
    match context.addr() {
        0 | usize::MAX => match driver.current_context()?.addr() {
            0 => Err(CUresult::CUDA_ERROR_INVALID_HANDLE),
            current => Ok(current),
        },
        context => Ok(context),
    }
}

/// Runs a slot's body for C: no panic crosses, and without a driver nothing is answered.
fn edge(body: impl FnOnce(&dyn Driver) -> Result<(), CUresult>) -> CUresult {
    let Some(&driver) = DRIVER.get() else {
        return CUresult::CUDA_ERROR_NOT_INITIALIZED;
    };
    match catch_unwind(AssertUnwindSafe(|| body(driver))) {
        Ok(Ok(())) => CUresult::CUDA_SUCCESS,
        Ok(Err(status)) => status,
        Err(_) => CUresult::CUDA_ERROR_UNKNOWN,
    }
}

/// # Safety
/// `place` is null or writable.
unsafe fn write<T>(place: *mut T, value: T) -> Result<(), CUresult> {
    if place.is_null() {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: not null, so writable by this function's contract.
    unsafe { place.write_unaligned(value) };
    Ok(())
}

fn pointer(bits: usize) -> *mut c_void {
    std::ptr::with_exposed_provenance_mut(bits)
}

fn thread() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    let thread = unsafe { libc::pthread_self() };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the low half is what is asked for"
    )]
    {
        thread as u32
    }
}

/// `N` zeroed entries that the runtime may use as it likes. We never look at them.
///
/// The size it is told counts entries and not bytes: cudart 13.5 was observed to read a 32-bit entry at
/// byte 0x6e0 of the 1024. How wide an entry is nobody says, so each gets 64 bits.
#[repr(C, align(16))]
struct Scratch<const N: usize>(UnsafeCell<[u64; N]>);

// SAFETY: no Rust code reads or writes the entries; only their address is handed out.
unsafe impl<const N: usize> Sync for Scratch<N> {}

impl<const N: usize> Scratch<N> {
    const fn new() -> Self {
        Self(UnsafeCell::new([0; N]))
    }

    /// # Safety
    /// `buffer` and `size` are null or writable.
    unsafe fn lend(&self, buffer: *mut *mut c_void, size: *mut usize) -> Result<(), CUresult> {
        // SAFETY: this function's contract is the callee's.
        unsafe { write(buffer, self.0.get().cast()) }?;
        // SAFETY: this function's contract is the callee's.
        unsafe { write(size, N) }
    }
}

#[cfg(test)]
mod tests;
