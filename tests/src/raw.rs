//! Driver functions called by name with any words for arguments: what a wrong program does.
//!
//! Whatever the words are is the driver's to refuse, or the process's end; both are what tests look at.

use std::ffi::{CString, c_void};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

/// No function has more parameters.
pub const MOST_WORDS: usize = 15;

type Function = unsafe extern "C" fn(
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
) -> u32;

/// The library as the loader finds it.
#[derive(Debug)]
pub struct Driver {
    library: Library,
}

impl Driver {
    /// Loads `libcuda.so.1`.
    ///
    /// # Errors
    /// The loader's words.
    pub fn find() -> Result<Self, String> {
        // SAFETY: a driver's constructors are what a program that uses it runs.
        let library = unsafe { Library::open(Some("libcuda.so.1"), RTLD_NOW | RTLD_LOCAL) };
        let library = library.map_err(|error| format!("cannot load libcuda.so.1: {error}"))?;
        Ok(Self { library })
    }

    /// Calls a function by its name; missing words are 0. A function that is not there is `u32::MAX`.
    ///
    /// # Panics
    /// If there are more words than any function takes.
    pub fn call(&self, name: &str, words: &[u64]) -> u32 {
        let name = CString::new(name).expect("a name holds no NUL");
        // SAFETY: any function may be looked at as one that takes words: the calling convention passes
        // integers and pointers alike, and lets a callee leave arguments alone.
        let function = unsafe { self.library.get::<Function>(name.as_bytes_with_nul()) };
        let Ok(function) = function else {
            return u32::MAX;
        };
        let mut all = [0; MOST_WORDS];
        all[..words.len()].copy_from_slice(words);
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o] = all;
        // SAFETY: what the words point to is the caller's affair, and wrong on purpose: the process that
        // calls does nothing else.
        unsafe { function(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o) }
    }
}

/// A word that points to memory of this program's, which stays as long as it runs.
pub fn leak<T>(value: T) -> u64 {
    let place: *mut T = Box::leak(Box::new(value));
    place.cast::<c_void>() as u64
}

/// The word that a driver wrote where [`leak`] pointed.
pub fn read(place: u64) -> u64 {
    // SAFETY: callers pass what `leak` returned for at least one word.
    unsafe { (place as *const u64).read() }
}

/// Ends the process at once, running nothing that was registered for its end.
pub fn leave() -> ! {
    // SAFETY: it takes a status and does not return.
    unsafe { libc::_exit(0) }
}
