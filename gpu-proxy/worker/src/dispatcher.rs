//! The one thread that takes records from the ring, in order, and runs or hands on each (D5, D6).

#![forbid(unsafe_code)]

use std::time::Duration;

use cuda_abi::function::{Class, OPCODES};
use cuda_abi::types::CUresult;
use idm_protocol::memory::Mapped;
use idm_protocol::record::{Flags, Record};
use idm_protocol::ring::{Consumer, Next};
use idm_protocol::wait::Patience;

use crate::errors::Violation;
use crate::lanes::{Job, Lanes};
use crate::pace::Pace;
use crate::session::{Prepared, Scratch, Session, Turn};

/// Runs until the session's stop flag is raised.
///
/// # Errors
/// [`Violation`]: the client must be ended.
pub fn run(
    session: &'static Session,
    mut submissions: Consumer<Mapped>,
    mut lanes: Lanes,
) -> Result<(), Violation> {
    let classes = Classes::new();
    let mut record = Record::new();
    let mut scratch = Scratch::default();
    // Idle for as long as the client likes: the end of the channel ends the process.
    let patience = session.patience.unsliced();
    // The client now waits for a lane's thread: spinning here would only keep a core from it.
    let giving_way = Patience {
        spin: Duration::ZERO,
        ..patience
    };
    let at_once = Patience::none();
    let mut handed_on = false;
    let mut pace = Pace::new();
    loop {
        let patience = if submissions.is_crowded() {
            &at_once
        } else if handed_on {
            &giving_way
        } else {
            &patience
        };
        match submissions.next(&mut record, patience, &*session.stop)? {
            Next::Record => {}
            Next::Ended => return Ok(()),
        }
        handed_on = false;
        session.parts.stats.count_call();
        let head = record.head();
        let lane = session.parts.control.lane(head.lane)?;
        let pending = match head.flags.contains(Flags::REPLY) {
            true => Some(lane.claim(record.sequence())?),
            false => None,
        };
        let class = classes.of(head.opcode);
        pace.wait(session, head.opcode, class.required != 0);
        if !session.grants(class.required) {
            session.refuse(&record, lane, pending, &mut scratch)?;
            continue;
        }
        if !class.blocks && !head.flags.contains(Flags::LANE) {
            session.execute(&record, lane, pending, Prepared::Nothing, &mut scratch)?;
            continue;
        }
        let later = match session.prepare(&record) {
            Turn::Now(outcome) => {
                session.finish(&record, lane, pending, outcome, &mut scratch)?;
                None
            }
            Turn::Here(prepared) => {
                session.execute(&record, lane, pending, prepared, &mut scratch)?
            }
            Turn::Later(prepared) => Some((pending, prepared)),
        };
        if let Some((pending, prepared)) = later {
            handed_on = true;
            let job = Job {
                record: record.clone(),
                pending,
                prepared,
            };
            if let Err(error) = lanes.submit(lane, job) {
                tracing::error!(%error, lane = lane.index(), "no thread for the lane");
                let outcome = Err(CUresult::CUDA_ERROR_OPERATING_SYSTEM.into());
                session.finish(&record, lane, None, outcome, &mut scratch)?;
            }
        }
    }
}

/// What the dispatcher must know of an opcode: a table for the way through every record.
#[derive(Debug)]
struct Classes(Vec<OpcodeClass>);

#[derive(Clone, Copy, Debug, Default)]
struct OpcodeClass {
    blocks: bool,
    /// Bits of the capability page.
    required: u64,
}

impl Classes {
    fn new() -> Self {
        let count = OPCODES
            .iter()
            .map(|(opcode, _)| usize::from(*opcode) + 1)
            .max();
        let mut classes = vec![OpcodeClass::default(); count.unwrap_or(0)];
        for (opcode, function) in OPCODES.iter() {
            classes[usize::from(*opcode)] = OpcodeClass {
                blocks: function.info().class == Class::Blocking,
                required: function.info().required_bits(),
            };
        }
        Self(classes)
    }

    /// An unknown opcode blocks nothing and needs nothing: executing it is a refusal.
    #[inline]
    fn of(&self, opcode: u16) -> OpcodeClass {
        self.0.get(usize::from(opcode)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cuda_abi::function::Group;
    use idm_protocol::record::Request;
    use idm_protocol::wire;

    #[test]
    fn what_may_block_and_what_needs_a_grant_is_what_the_declarations_say() {
        let classes = Classes::new();
        let blocks = |opcode| classes.of(opcode).blocks;
        assert!(blocks(wire::CuMemAllocV2::OPCODE));
        assert!(blocks(wire::CuStreamSynchronize::OPCODE));
        assert!(!blocks(wire::CuLaunchKernel::OPCODE));
        assert!(!blocks(wire::VgpuNop::OPCODE));
        assert!(!blocks(u16::MAX));
        let required = |opcode| classes.of(opcode).required;
        assert_eq!(required(wire::CuLaunchKernel::OPCODE), Group::Compute.bit());
        assert_eq!(required(wire::CuIpcGetMemHandle::OPCODE), Group::Ipc.bit());
        assert_eq!(required(wire::CuIpcCloseMemHandle::OPCODE), 0);
        assert_eq!(required(wire::CuMemFreeV2::OPCODE), 0);
        assert_eq!(required(wire::VgpuNop::OPCODE), 0);
        assert_eq!(required(u16::MAX), 0);
    }
}
