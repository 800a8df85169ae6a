//! Gives up all capabilities, for good.

use std::io;

use proxy_channel::jail::{Layer, Report, State};

/// The kernel has room for so many.
const MOST: libc::c_ulong = 64;

/// `_LINUX_CAPABILITY_VERSION_3`: 64 bits in two words of each set.
const VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
struct Word {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Empties every set of the calling thread, and so of all threads that it makes from now on.
pub fn drop_all() -> Report {
    forget_for_good();
    match set([Word::default(); 2]).and_then(|()| get()) {
        Ok(sets) if sets == [Word::default(); 2] => Report::on(Layer::CAPABILITIES),
        Ok(_) => Report::new(Layer::CAPABILITIES, State::MISSING, "some are still there"),
        Err(error) => Report::new(Layer::CAPABILITIES, State::MISSING, &error.to_string()),
    }
}

/// Empties the sets that programs started later would draw from. Without capabilities there is nothing to
/// take and the kernel says no; that is as good.
fn forget_for_good() {
    for capability in 0..MOST {
        // SAFETY: plain numbers.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
    let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL;
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, clear, 0, 0, 0) };
}

fn set(sets: [Word; 2]) -> io::Result<()> {
    let header = Header {
        version: VERSION,
        pid: 0,
    };
    // SAFETY: the kernel reads one header and the two words that its version has.
    done(unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) })
}

fn get() -> io::Result<[Word; 2]> {
    let header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut sets = [Word::default(); 2];
    // SAFETY: the kernel reads one header and writes the two words that its version has.
    done(unsafe { libc::syscall(libc::SYS_capget, &raw const header, sets.as_mut_ptr()) })?;
    Ok(sets)
}

fn done(rc: libc::c_long) -> io::Result<()> {
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effective() -> String {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("CapEff:"));
        line.unwrap()
            .trim_start_matches("CapEff:")
            .trim()
            .to_owned()
    }

    #[test]
    fn a_thread_that_dropped_them_has_none_and_the_others_keep_theirs() {
        let before = effective();
        let (report, after) = std::thread::spawn(|| (drop_all(), effective()))
            .join()
            .unwrap();
        assert_eq!(report.state, State::ON);
        assert_eq!(u64::from_str_radix(&after, 16), Ok(0));
        assert_eq!(effective(), before);
    }
}
