//! Attach packets of arbitrary content: what a tenant says first, and what a supervisor answers.

#![no_main]

use idm_protocol::attach::{Answer, Hello, Refusal, Welcome};
use idm_protocol::layout::Layout;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|packet: &[u8]| {
    if let Ok(hello) = Hello::decode(packet) {
        let name = hello.name.to_string();
        assert!(name.len() <= 64 && name.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    }
    if let Ok(Answer::Welcome(welcome)) = Answer::decode(packet) {
        // Limits that pass are limits that can be laid out.
        if let Ok(layout) = Layout::new(&welcome.limits) {
            assert!(layout.byte_len() > 0);
        }
    }
    let _ = Welcome::decode(packet);
    let _ = Refusal::decode(packet).map(|refusal| refusal.text.to_string());
});
