//! How far a sink is that cannot say what it has: a small file in the spool's folder.

use std::path::Path;

use proxy_audit::hash::LogId;
use proxy_audit::spool::Marker;
use serde::{Deserialize, Serialize};

use super::SinkError;

/// What a sink has safely.
#[derive(Debug)]
pub(super) struct Position {
    marker: Marker,
    kept: Kept,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    log: LogId,
    /// Where it goes: another place has nothing yet.
    to: String,
    /// The first leaf that it does not have.
    leaf: u64,
}

impl Position {
    /// Goes on where the file says, or at the beginning if it is of another log or another place.
    pub(super) fn open(
        folder: &Path,
        name: &'static str,
        log: LogId,
        to: String,
    ) -> Result<Self, SinkError> {
        let fail = |error| SinkError(format!("{error}"));
        let (marker, held) = Marker::open(folder, name).map_err(fail)?;
        let kept = Kept { log, to, leaf: 0 };
        let mut position = Self { marker, kept };
        // One that is not understood costs sending again what is still there.
        if let Ok(kept) = serde_json::from_slice::<Kept>(&held)
            && kept.log == position.kept.log
            && kept.to == position.kept.to
        {
            position.kept = kept;
        }
        Ok(position)
    }

    /// The first leaf that the sink does not have.
    pub(super) fn leaf(&self) -> u64 {
        self.kept.leaf
    }

    /// The sink has everything before `leaf`.
    pub(super) fn advance(&mut self, leaf: u64) -> Result<(), SinkError> {
        if leaf <= self.kept.leaf {
            return Ok(());
        }
        let kept = Kept {
            leaf,
            ..self.kept.clone()
        };
        let text = serde_json::to_vec(&kept).map_err(|error| SinkError(error.to_string()))?;
        self.marker
            .set(&text)
            .map_err(|error| SinkError(error.to_string()))?;
        self.kept = kept;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_where_it_was_and_begins_anew_for_another_log_or_place() {
        let folder = tempfile::tempdir().unwrap();
        let open = |log: u8, to: &str| {
            let log = LogId([log; 16]);
            Position::open(folder.path(), "sent", log, to.into()).unwrap()
        };
        let mut position = open(1, "a");
        position.advance(7).unwrap();
        position.advance(3).unwrap();
        assert_eq!((open(1, "a").leaf(), open(1, "b").leaf()), (7, 0));
        assert_eq!(open(2, "a").leaf(), 0);
        std::fs::write(folder.path().join("sent"), b"{").unwrap();
        assert_eq!(open(1, "a").leaf(), 0);
    }
}
