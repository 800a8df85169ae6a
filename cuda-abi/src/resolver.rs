//! `cuGetProcAddress`: from a base name, a version and flags to an exported name.

use core::ffi::c_void;

pub use crate::generated::exports::EXPORTS;

/// Which default stream an exported form means by stream 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultStream {
    /// The legacy default stream, which synchronises with blocking streams.
    Legacy,
    /// The calling thread's own default stream (`_ptds`, `_ptsz`).
    PerThread,
}

/// One exported name.
#[derive(Debug, Clone, Copy)]
pub struct Export {
    pub name: &'static str,
    /// The name that `cuGetProcAddress` takes.
    pub base: &'static str,
    /// First CUDA version of this form (1000 * major + 10 * minor); 0: reached by `dlsym` only.
    pub since: u32,
    pub default_stream: DefaultStream,
}

/// The address of an exported function, or NULL.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct Address(*const c_void);

// SAFETY: the pointer is the address of a function, which is immutable and lives as long as the program.
unsafe impl Sync for Address {}

impl Address {
    pub const NULL: Self = Self(core::ptr::null());

    #[must_use]
    pub const fn new(pointer: *const c_void) -> Self {
        Self(pointer)
    }

    #[must_use]
    pub const fn pointer(self) -> *const c_void {
        self.0
    }
}

/// What a lookup found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// Index into [`EXPORTS`] and into an address table.
    Found(usize),
    /// No function has this base name.
    Unknown,
    /// The function exists, but not yet at the version asked for.
    VersionTooOld,
}

/// Finds the newest form of `base` that is not newer than `version`.
///
/// With `per_thread`, a per-thread form is preferred where the function has one. The form decides by flag
/// and not by version, because some callers ask for per-thread forms with the legacy form's version.
#[must_use]
pub fn lookup(base: &str, version: u32, per_thread: bool) -> Lookup {
    let mut known = false;
    let mut best: [Option<(u32, usize)>; 2] = [None, None];
    let start = EXPORTS.partition_point(|export| export.name < base);
    for (index, export) in EXPORTS.iter().enumerate().skip(start) {
        if !export.name.starts_with(base) {
            break;
        }
        if export.base != base || export.since == 0 {
            continue;
        }
        known = true;
        let slot = usize::from(export.default_stream == DefaultStream::PerThread);
        // A per-thread form carries a version of its own (7000 at least); what counts is the legacy one.
        let since = if slot == 1 {
            legacy_version(export)
        } else {
            export.since
        };
        if since <= version && best[slot].is_none_or(|(newest, _)| newest < since) {
            best[slot] = Some((since, index));
        }
    }
    let chosen = match (per_thread, best) {
        (true, [legacy, per_thread]) => match (legacy, per_thread) {
            // An old per-thread form must not hide a newer legacy-only one.
            (Some(left), Some(right)) if left.0 > right.0 => Some(left),
            (left, right) => right.or(left),
        },
        (false, [legacy, _]) => legacy,
    };
    match chosen {
        Some((_, index)) => Lookup::Found(index),
        None if known => Lookup::VersionTooOld,
        None => Lookup::Unknown,
    }
}

/// Index of an exported name in [`EXPORTS`].
#[must_use]
pub fn index_of(name: &str) -> Option<usize> {
    EXPORTS
        .binary_search_by_key(&name, |export| export.name)
        .ok()
}

fn legacy_version(export: &Export) -> u32 {
    let plain = export
        .name
        .trim_end_matches("_ptds")
        .trim_end_matches("_ptsz");
    index_of(plain).map_or(export.since, |index| EXPORTS[index].since)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(base: &str, version: u32, per_thread: bool) -> &'static str {
        match lookup(base, version, per_thread) {
            Lookup::Found(index) => EXPORTS[index].name,
            Lookup::Unknown => "unknown",
            Lookup::VersionTooOld => "too old",
        }
    }

    #[test]
    fn lookup_returns_the_newest_form_not_newer_than_the_version() {
        assert_eq!(name("cuMemAlloc", 2000, false), "cuMemAlloc");
        assert_eq!(name("cuMemAlloc", 3020, false), "cuMemAlloc_v2");
        assert_eq!(name("cuCtxGetDevice", 12090, false), "cuCtxGetDevice");
        assert_eq!(name("cuCtxGetDevice", 13000, false), "cuCtxGetDevice_v2");
        assert_eq!(name("cuCtxCreate", 11040, false), "cuCtxCreate_v3");
        assert_eq!(
            name("cuStreamGetCaptureInfo", 11030, false),
            "cuStreamGetCaptureInfo_v2"
        );
    }

    #[test]
    fn lookup_with_per_thread_flag_prefers_per_thread_forms() {
        assert_eq!(name("cuMemcpyHtoD", 7000, true), "cuMemcpyHtoD_v2_ptds");
        assert_eq!(name("cuMemcpyHtoD", 4000, true), "cuMemcpyHtoD_v2_ptds");
        assert_eq!(name("cuLaunchKernel", 4000, true), "cuLaunchKernel_ptsz");
        assert_eq!(name("cuMemAlloc", 7000, true), "cuMemAlloc_v2");
    }

    #[test]
    fn lookup_tells_unknown_names_from_versions_that_are_too_old() {
        assert_eq!(lookup("", 0, false), Lookup::Unknown);
        assert_eq!(lookup("cuNoSuchThing", 13000, false), Lookup::Unknown);
        assert_eq!(
            lookup("cuLaunchKernelEx", 11000, false),
            Lookup::VersionTooOld
        );
    }

    #[test]
    fn exports_are_sorted_and_unique() {
        assert!(EXPORTS.windows(2).all(|pair| pair[0].name < pair[1].name));
    }
}
