//! The filter of system calls: [`table`] says which pass, everything else ends the worker.
//!
//! It is sealed over all threads when the driver is initialised. In [`Mode::Log`] nothing is stopped; the
//! kernel's log names what would be, which is how the table of a new driver is learned.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use proxy_channel::jail::{Layer, Mode, Report, State};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter_all_threads,
};

mod table;

use super::Plan;
use table::{ALLOWED, Call, REFUSED, When};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Seals the filter.
pub fn seal(plan: &Plan) -> Report {
    let programs = match programs(plan, std::process::id()) {
        Ok(programs) => programs,
        Err(error) => return Report::new(Layer::CALLS, State::MISSING, &error.to_string()),
    };
    for program in &programs {
        if let Err(error) = apply_filter_all_threads(program) {
            return Report::new(Layer::CALLS, State::MISSING, &error.to_string());
        }
    }
    if plan.mode == Mode::Enforce {
        Report::on(Layer::CALLS)
    } else {
        let why =
            "what is outside the filter is only logged, by the kernel (driver.jail is \"log\")";
        Report::new(Layer::CALLS, State::LOG, why)
    }
}

/// The filters, in the order to install them. The kernel asks all of them and does the worst: a call that one
/// answers with an error and another lets pass gets the error. The last one ends the right to install more.
fn programs(plan: &Plan, pid: u32) -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = |rules, mismatch, action| -> Result<BpfProgram, seccompiler::BackendError> {
        SeccompFilter::new(rules, mismatch, action, arch)?.try_into()
    };
    let mut allowed = Rules::new();
    for group in ALLOWED.iter().filter(|group| group.drivers.has(plan)) {
        add(&mut allowed, group.calls, pid)?;
    }
    let mut programs = Vec::new();
    for group in REFUSED.iter().filter(|group| group.drivers.has(plan)) {
        let mut refused = Rules::new();
        add(&mut refused, group.calls, pid)?;
        // What is answered with an error must get past the filter that kills.
        allowed.extend(refused.keys().map(|&number| (number, Vec::new())));
        let errno = SeccompAction::Errno(group.errno.unsigned_abs());
        if plan.mode == Mode::Enforce {
            programs.push(filter(refused, SeccompAction::Allow, errno)?);
        }
    }
    let otherwise = match plan.mode {
        Mode::Enforce => SeccompAction::KillProcess,
        Mode::Log | Mode::Off => SeccompAction::Log,
    };
    programs.push(filter(allowed, otherwise, SeccompAction::Allow)?);
    Ok(programs)
}

fn add(rules: &mut Rules, calls: &[Call], pid: u32) -> Result<(), seccompiler::BackendError> {
    for &(number, when) in calls {
        let rules = rules.entry(number);
        let alternatives = alternatives(when, pid)?;
        if alternatives.is_empty() {
            rules.insert_entry(Vec::new());
        } else {
            rules.or_default().extend(alternatives);
        }
    }
    Ok(())
}

/// The rules any of which lets a call pass; none at all means that it always does.
fn alternatives(when: When, pid: u32) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let equal = |argument, value| {
        SeccompCondition::new(
            argument,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::Eq,
            u64::from(value),
        )
    };
    let bits = |argument, mask: u32, value: u32| {
        let mask = SeccompCmpOp::MaskedEq(u64::from(mask));
        SeccompCondition::new(argument, SeccompCmpArgLen::Qword, mask, u64::from(value))
    };
    match when {
        When::Always => Ok(Vec::new()),
        When::Is(argument, values) => values
            .iter()
            .map(|&value| SeccompRule::new(vec![equal(argument, value)?]))
            .collect(),
        When::All(argument, mask) => Ok(vec![SeccompRule::new(vec![bits(argument, mask, mask)?])?]),
        When::None(argument, mask) => Ok(vec![SeccompRule::new(vec![bits(argument, mask, 0)?])?]),
        When::OwnProcess(argument) => Ok(vec![SeccompRule::new(vec![equal(argument, pid)?])?]),
        When::OwnLimits => [0, pid]
            .into_iter()
            .map(|own| {
                let reads = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
                SeccompRule::new(vec![equal(0, own)?, reads])
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proxy_channel::DriverKind;

    use super::*;

    fn plans(mode: Mode) -> [Plan; 3] {
        let plan = |driver_kind, shared_device| Plan {
            mode,
            driver_kind,
            driver_path: "/lib/libcuda.so.1".into(),
            shared_device,
        };
        [
            plan(DriverKind::NVIDIA, None),
            plan(DriverKind::SOFTGPU, None),
            plan(DriverKind::SOFTGPU, Some("/run/gpu".into())),
        ]
    }

    #[test]
    fn every_driver_has_a_filter_of_either_mode_that_the_kernel_would_take() {
        for mode in [Mode::Enforce, Mode::Log] {
            for plan in plans(mode) {
                let programs = programs(&plan, 77).unwrap();
                assert!(programs.iter().all(|program| program.len() <= 4096));
                assert_eq!(programs.len() == 1, mode == Mode::Log, "{plan:?}");
            }
        }
    }

    #[test]
    fn nothing_is_both_allowed_and_refused_and_every_group_has_a_reason() {
        let numbers = |calls: &[Call]| {
            calls
                .iter()
                .map(|&(number, _)| number)
                .collect::<BTreeSet<_>>()
        };
        for plan in &plans(Mode::Enforce) {
            let allowed = ALLOWED.iter().filter(|group| group.drivers.has(plan));
            let allowed: BTreeSet<i64> = allowed.flat_map(|group| numbers(group.calls)).collect();
            for group in REFUSED.iter().filter(|group| group.drivers.has(plan)) {
                let both: Vec<_> = numbers(group.calls)
                    .intersection(&allowed)
                    .copied()
                    .collect();
                assert_eq!(both, Vec::<i64>::new(), "{}", group.why);
            }
        }
        assert!(ALLOWED.iter().all(|group| !group.why.is_empty()));
        assert!(REFUSED.iter().all(|group| !group.why.is_empty()));
    }

    #[test]
    fn what_a_jail_is_for_is_in_no_table() {
        let never = [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_kill,
            libc::SYS_tkill,
            libc::SYS_rt_sigqueueinfo,
            libc::SYS_pidfd_open,
            libc::SYS_pidfd_getfd,
            libc::SYS_pidfd_send_signal,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_mount,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_userfaultfd,
            libc::SYS_io_uring_setup,
            libc::SYS_keyctl,
            libc::SYS_seccomp,
            libc::SYS_setuid,
            libc::SYS_capset,
        ];
        let tables = ALLOWED.iter().map(|group| group.calls);
        for &(number, _) in tables
            .chain(REFUSED.iter().map(|group| group.calls))
            .flatten()
        {
            assert!(!never.contains(&number), "system call {number}");
        }
    }
}
