//! Gives up all capabilities, for good.

#![forbid(unsafe_code)]

use caps::CapSet;
use caps::errors::CapsError;
use proxy_channel::jail::{Layer, Report, State};

/// Whose loss is the layer, the permitted ones last: nothing can be given up without them.
const HELD: [CapSet; 3] = [CapSet::Effective, CapSet::Inheritable, CapSet::Permitted];

/// Empties every set of the calling thread, and so of all threads that it makes from now on.
pub fn drop_all() -> Report {
    for drawn_from in [CapSet::Bounding, CapSet::Ambient] {
        // What programs started later would draw from. Without capabilities there is nothing to take and the
        // kernel says no; that is as good.
        let _ = caps::clear(None, drawn_from);
    }
    match empty() {
        Ok(true) => Report::on(Layer::CAPABILITIES),
        Ok(false) => Report::new(Layer::CAPABILITIES, State::MISSING, "some are still there"),
        Err(error) => Report::new(Layer::CAPABILITIES, State::MISSING, &error.to_string()),
    }
}

/// Whether none is left.
fn empty() -> Result<bool, CapsError> {
    for set in HELD {
        caps::clear(None, set)?;
    }
    let mut left = 0;
    for set in HELD {
        left += caps::read(None, set)?.len();
    }
    Ok(left == 0)
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
