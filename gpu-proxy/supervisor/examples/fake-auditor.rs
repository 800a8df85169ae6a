//! An auditor that confirms everything, keeps nothing, and says that zone `a` is full while a file `full` lies in
//! its spool's folder.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use idm_protocol::attach::socket::{receive_with_descriptors, send};
use nix::poll::{PollFd, PollFlags, poll};
use proxy_audit::wire::{FromAuditor, MAX_PACKET_LEN, ToAuditor};

fn main() {
    let mut args = std::env::args().skip_while(|arg| arg != "--spool").skip(1);
    let full = PathBuf::from(args.next().expect("a folder")).join("full");
    let channel = io::stdin();
    let say = |reply: FromAuditor| send(channel.as_fd(), &reply.encode(), &[]).expect("a reader");
    let mut was_full = false;
    loop {
        if full.exists() != was_full {
            was_full = !was_full;
            let zone = "a".parse().expect("a name");
            say(if was_full {
                FromAuditor::Closed { zone }
            } else {
                FromAuditor::Opened { zone }
            });
        }
        let mut watched = [PollFd::new(channel.as_fd(), PollFlags::POLLIN)];
        if poll(&mut watched, 10_u16) == Ok(0) {
            continue;
        }
        let mut buffer = vec![0; MAX_PACKET_LEN];
        // Pages come along, and are of no interest here.
        let packet = receive_with_descriptors(channel.as_fd(), &mut buffer).expect("a packet");
        if packet.len == 0 {
            return;
        }
        say(
            match ToAuditor::decode(&buffer[..packet.len]).expect("a message") {
                ToAuditor::Hello { .. } => FromAuditor::Recorded { next: 0 },
                ToAuditor::Submit(submission) => FromAuditor::Recorded {
                    next: submission.n + 1,
                },
                ToAuditor::Collect(_) => continue,
                ToAuditor::Finish { client } => FromAuditor::Collected { client },
            },
        );
    }
}
