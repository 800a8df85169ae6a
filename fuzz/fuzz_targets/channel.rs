//! Packets of arbitrary content on the worker channel, in both directions, and on those of monitor and api: whatever is
//! understood encodes to the same bytes again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_channel::api::FromApi;
use proxy_channel::companion::Message;
use proxy_channel::message::{FromWorker, ToWorker};
use proxy_channel::monitor::FromMonitor;

fuzz_target!(|packet: &[u8]| {
    if let Ok(message) = FromWorker::decode(packet) {
        assert_eq!(message.encode().as_bytes(), packet);
        let _ = format!("{message:?}");
    }
    if let Ok(message) = FromMonitor::decode(packet) {
        assert_eq!(message.encode(), packet);
        let _ = format!("{message:?}");
    }
    if let Ok(message) = FromApi::decode(packet) {
        assert_eq!(message.encode(), packet);
        let _ = format!("{message:?}");
    }
    if let Ok(message) = ToWorker::decode(packet) {
        let again = message.encode();
        assert_eq!(ToWorker::decode(again.as_bytes()), Ok(message));
        let _ = format!("{message:?}");
    }
});
