//! Whatever lies in a spool, a topic or a file that somebody hands over: blocks, lines, notes, keys, proofs; and what
//! supervisor and auditor say to each other.
//! What is understood says the same again in the same bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_audit::block::Block;
use proxy_audit::checkpoint::Checkpoint;
use proxy_audit::export::Line;
use proxy_audit::note::{Note, PublicKey};
use proxy_audit::proof::Proof;
use proxy_audit::spool::split_notes;
use proxy_audit::text::Text;
use proxy_audit::wire::{FromAuditor, ToAuditor};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(block) = Block::parse(bytes) {
        assert_eq!(block.to_bytes(), bytes);
    }
    if let Ok(message) = ToAuditor::decode(bytes) {
        // What was written without escapes may not fit with them.
        if let Ok(again) = message.encode() {
            assert_eq!(ToAuditor::decode(&again).ok(), Some(message));
        }
    }
    if let Ok(reply) = FromAuditor::decode(bytes) {
        assert_eq!(reply.encode().as_slice(), bytes);
    }
    let text = Text::new(bytes);
    assert_eq!(Text::recorded(text.as_str()), Ok(text));
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(line) = Line::parse(text) {
        let again = line.to_text();
        assert_eq!(Line::parse(again.trim_end_matches('\n')).ok(), Some(line));
    }
    if let Ok(note) = Note::parse(text) {
        let _ = Checkpoint::parse(note.unverified_text());
    }
    if let Ok(key) = text.parse::<PublicKey>() {
        assert_eq!(key.to_string().parse(), Ok(key));
    }
    if let Ok(proof) = Proof::parse(text) {
        assert_eq!(Proof::parse(&proof.to_string()).ok(), Some(proof));
    }
    let (_, whole) = split_notes(text);
    assert!(whole <= text.len());
});
