//! Which system calls a worker may make once it is sealed, and why.

#![forbid(unsafe_code)]

use proxy_channel::DriverKind;

use super::super::Plan;

/// A system call, and when it passes.
pub(super) type Call = (i64, When);

/// A condition on the arguments, which are counted from zero.
#[derive(Clone, Copy, Debug)]
pub(super) enum When {
    Always,
    /// The argument is one of these.
    Is(u8, &'static [u32]),
    /// The argument has all of these bits.
    All(u8, u32),
    /// The argument has none of these bits.
    None(u8, u32),
    /// The argument is the id of the worker's own process.
    OwnProcess(u8),
    /// Of `prlimit64`: only looks, and at the worker's own.
    OwnLimits,
}

/// Who needs it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Drivers {
    All,
    Nvidia,
    Softgpu,
    /// A software GPU whose devices this process has for itself.
    Own,
    /// A software GPU whose devices several processes share through files.
    Shared,
}

impl Drivers {
    pub(super) fn has(self, plan: &Plan) -> bool {
        let nvidia = plan.driver_kind == DriverKind::NVIDIA;
        let shared = plan.shared_device.is_some();
        match self {
            Self::All => true,
            Self::Nvidia => nvidia,
            Self::Softgpu => !nvidia,
            Self::Own => !nvidia && !shared,
            Self::Shared => !nvidia && shared,
        }
    }
}

/// Calls that pass.
#[derive(Debug)]
#[allow(dead_code, reason = "the reasons are for readers")]
pub(super) struct Allowed {
    pub(super) why: &'static str,
    pub(super) drivers: Drivers,
    pub(super) calls: &'static [Call],
}

/// Calls that are answered with an error: libraries try them and go on without.
#[derive(Debug)]
#[allow(dead_code, reason = "the reasons are for readers")]
pub(super) struct Refused {
    pub(super) why: &'static str,
    pub(super) drivers: Drivers,
    pub(super) errno: i32,
    pub(super) calls: &'static [Call],
}

/// Bits of libc's constants, which are signed though no sign is meant.
const fn bits(value: i32) -> u32 {
    value.cast_unsigned()
}

/// A call without conditions.
const fn free(number: i64) -> Call {
    (number, When::Always)
}

const EXECUTABLE: u32 = bits(libc::PROT_EXEC);

/// What a new thread, as opposed to a new process, shares.
const THREAD: u32 = bits(libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND);

const LOCAL: &[u32] = &[bits(libc::AF_UNIX)];

pub(super) const ALLOWED: &[Allowed] = &[
    Allowed {
        why: "memory: heaps, stacks, device memory of the software GPU, pinned memory",
        drivers: Drivers::All,
        calls: &[
            free(libc::SYS_brk),
            free(libc::SYS_munmap),
            free(libc::SYS_mremap),
            free(libc::SYS_madvise),
            free(libc::SYS_mlock),
            free(libc::SYS_munlock),
            free(libc::SYS_mincore),
            free(libc::SYS_memfd_create),
            free(libc::SYS_ftruncate),
            free(libc::SYS_fallocate),
            free(libc::SYS_membarrier),
        ],
    },
    Allowed {
        why: "mappings without the right to execute: kernels are interpreted",
        drivers: Drivers::Softgpu,
        calls: &[
            (libc::SYS_mmap, When::None(2, EXECUTABLE)),
            (libc::SYS_mprotect, When::None(2, EXECUTABLE)),
        ],
    },
    Allowed {
        why: "mappings of any kind: the driver loads libraries and may generate code",
        drivers: Drivers::Nvidia,
        calls: &[free(libc::SYS_mmap), free(libc::SYS_mprotect)],
    },
    Allowed {
        why: "threads, not processes, and what they wait with",
        drivers: Drivers::All,
        calls: &[
            (libc::SYS_clone, When::All(0, THREAD)),
            free(libc::SYS_futex),
            free(libc::SYS_set_robust_list),
            free(libc::SYS_rseq),
            free(libc::SYS_gettid),
            free(libc::SYS_getpid),
            free(libc::SYS_sched_yield),
            free(libc::SYS_sched_getaffinity),
            free(libc::SYS_getcpu),
            free(libc::SYS_exit),
            free(libc::SYS_exit_group),
            free(libc::SYS_restart_syscall),
        ],
    },
    Allowed {
        why: "names of threads and mappings, for people who look at them",
        drivers: Drivers::All,
        calls: &[(
            libc::SYS_prctl,
            When::Is(
                0,
                &[
                    bits(libc::PR_SET_NAME),
                    bits(libc::PR_GET_NAME),
                    bits(libc::PR_SET_VMA),
                ],
            ),
        )],
    },
    Allowed {
        why: "signals that the worker handles, and its own end by abort()",
        drivers: Drivers::All,
        calls: &[
            free(libc::SYS_rt_sigaction),
            free(libc::SYS_rt_sigprocmask),
            free(libc::SYS_rt_sigreturn),
            free(libc::SYS_sigaltstack),
            (libc::SYS_tgkill, When::OwnProcess(0)),
        ],
    },
    Allowed {
        why: "time, randomness and the size of the machine",
        drivers: Drivers::All,
        calls: &[
            free(libc::SYS_clock_gettime),
            free(libc::SYS_clock_getres),
            free(libc::SYS_clock_nanosleep),
            free(libc::SYS_nanosleep),
            free(libc::SYS_gettimeofday),
            free(libc::SYS_getrandom),
            free(libc::SYS_sysinfo),
            free(libc::SYS_getrusage),
            (libc::SYS_prlimit64, When::OwnLimits),
        ],
    },
    Allowed {
        why: "descriptors that are open already: channel, pipes, memory files, the log",
        drivers: Drivers::All,
        calls: &[
            free(libc::SYS_read),
            free(libc::SYS_readv),
            free(libc::SYS_pread64),
            free(libc::SYS_write),
            free(libc::SYS_writev),
            free(libc::SYS_pwrite64),
            free(libc::SYS_close),
            free(libc::SYS_fstat),
            free(libc::SYS_lseek),
            free(libc::SYS_dup),
            free(libc::SYS_dup3),
            free(libc::SYS_pipe2),
            free(libc::SYS_eventfd2),
            free(libc::SYS_ppoll),
            free(libc::SYS_epoll_create1),
            free(libc::SYS_epoll_ctl),
            free(libc::SYS_epoll_pwait),
            // Not the commands that have signals sent to others.
            (
                libc::SYS_fcntl,
                When::Is(
                    1,
                    &[
                        bits(libc::F_DUPFD_CLOEXEC),
                        bits(libc::F_GETFD),
                        bits(libc::F_SETFD),
                        bits(libc::F_GETFL),
                        bits(libc::F_SETFL),
                        bits(libc::F_ADD_SEALS),
                        bits(libc::F_GET_SEALS),
                        bits(libc::F_GETPIPE_SZ),
                        bits(libc::F_SETPIPE_SZ),
                    ],
                ),
            ),
        ],
    },
    Allowed {
        why: "packets on sockets that are there: the channel, and memory shared in the zone",
        drivers: Drivers::All,
        calls: &[
            free(libc::SYS_sendto),
            free(libc::SYS_sendmsg),
            free(libc::SYS_recvfrom),
            free(libc::SYS_recvmsg),
            free(libc::SYS_getsockopt),
            free(libc::SYS_setsockopt),
            free(libc::SYS_shutdown),
        ],
    },
    Allowed {
        why: "the software GPU passes memory files between the workers of a zone over local sockets",
        drivers: Drivers::Softgpu,
        calls: &[
            (libc::SYS_socket, When::Is(0, LOCAL)),
            (libc::SYS_socketpair, When::Is(0, LOCAL)),
            free(libc::SYS_bind),
            free(libc::SYS_listen),
            free(libc::SYS_accept4),
            free(libc::SYS_connect),
            free(libc::SYS_getsockname),
            free(libc::SYS_getpeername),
            free(libc::SYS_geteuid),
        ],
    },
    Allowed {
        why: "the files of a software GPU that several processes share, and locks on them",
        drivers: Drivers::Shared,
        calls: &[
            free(libc::SYS_openat),
            free(libc::SYS_flock),
            free(libc::SYS_fsync),
        ],
    },
    Allowed {
        why: "not learned on a device yet: what public descriptions of the driver say that it does",
        drivers: Drivers::Nvidia,
        calls: &[
            free(libc::SYS_ioctl),
            free(libc::SYS_openat),
            free(libc::SYS_newfstatat),
            free(libc::SYS_statx),
            free(libc::SYS_readlinkat),
            free(libc::SYS_faccessat),
            free(libc::SYS_faccessat2),
            free(libc::SYS_getdents64),
            free(libc::SYS_statfs),
            free(libc::SYS_fstatfs),
            free(libc::SYS_uname),
            free(libc::SYS_getcwd),
            free(libc::SYS_sched_setaffinity),
            free(libc::SYS_mbind),
            free(libc::SYS_get_mempolicy),
            free(libc::SYS_set_mempolicy),
            free(libc::SYS_geteuid),
            free(libc::SYS_getuid),
            free(libc::SYS_getgid),
            free(libc::SYS_getegid),
        ],
    },
    #[cfg(target_arch = "x86_64")]
    Allowed {
        why: "older names of the above that C libraries still use on this machine",
        drivers: Drivers::All,
        calls: &[
            free(libc::SYS_poll),
            free(libc::SYS_epoll_wait),
            free(libc::SYS_dup2),
            free(libc::SYS_time),
        ],
    },
    #[cfg(target_arch = "x86_64")]
    Allowed {
        why: "older names of what the driver may do",
        drivers: Drivers::Nvidia,
        calls: &[
            free(libc::SYS_open),
            free(libc::SYS_stat),
            free(libc::SYS_lstat),
            free(libc::SYS_access),
            free(libc::SYS_readlink),
        ],
    },
];

pub(super) const REFUSED: &[Refused] = &[
    Refused {
        why: "newer forms whose arguments a filter cannot see; libraries fall back on the older ones",
        drivers: Drivers::All,
        errno: libc::ENOSYS,
        calls: &[free(libc::SYS_clone3)],
    },
    Refused {
        why: "newer form of fstat; the standard library falls back on the older one",
        drivers: Drivers::Softgpu,
        errno: libc::ENOSYS,
        calls: &[free(libc::SYS_statx)],
    },
    Refused {
        why: "libraries look for files (the number of cores, time zones, terminals) and do without",
        drivers: Drivers::Softgpu,
        errno: libc::EACCES,
        calls: &[
            // Without a path it is what C libraries make of fstat.
            (
                libc::SYS_newfstatat,
                When::None(3, bits(libc::AT_EMPTY_PATH)),
            ),
            free(libc::SYS_readlinkat),
            free(libc::SYS_faccessat),
            free(libc::SYS_faccessat2),
            free(libc::SYS_ioctl),
            free(libc::SYS_uname),
            free(libc::SYS_getcwd),
        ],
    },
    Refused {
        why: "the same for opening them",
        drivers: Drivers::Own,
        errno: libc::EACCES,
        calls: &[free(libc::SYS_openat)],
    },
    #[cfg(target_arch = "x86_64")]
    Refused {
        why: "older names of the above",
        drivers: Drivers::Softgpu,
        errno: libc::EACCES,
        calls: &[
            free(libc::SYS_open),
            free(libc::SYS_stat),
            free(libc::SYS_lstat),
            free(libc::SYS_access),
            free(libc::SYS_readlink),
        ],
    },
];
