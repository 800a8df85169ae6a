//! Attach packets of arbitrary content: what a tenant says first, and what a supervisor answers.

#![no_main]

use idm_protocol::attach::survey::{MAX_DEVICES, MAX_PROCESSES, Survey};
use idm_protocol::attach::{Answer, Header, Hello, Opening, Refusal, Welcome};
use idm_protocol::layout::Layout;
use libfuzzer_sys::fuzz_target;
use zerocopy::IntoBytes;

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
    let opening = Opening::decode(packet);
    assert_eq!(matches!(opening, Ok(Opening::Hello(_))), Hello::decode(packet).is_ok());
    // A survey is longer than the fuzzer's inputs: they are laid over an honest one, behind its header.
    let mut long = Survey::empty().as_bytes().to_vec();
    let body = long.iter_mut().skip(size_of::<Header>());
    body.zip(packet).for_each(|(place, byte)| *place = *byte);
    for survey in [Survey::decode(packet), Survey::decode(&long)].into_iter().flatten() {
        assert!(survey.devices().len() <= MAX_DEVICES);
        assert!(survey.processes().len() <= MAX_PROCESSES);
        let _ = format!("{survey:?}");
    }
    let _ = Welcome::decode(packet);
    let _ = Refusal::decode(packet).map(|refusal| refusal.text.to_string());
});
