//! Every message survives a round trip, and nothing else is one.

use proptest::prelude::*;

use super::*;
use crate::bound::Bound;
use crate::jail::{Layer, State};

fn text<const N: usize>() -> impl Strategy<Value = Text<N>> {
    "[ -~]{0,500}".prop_map(|text| Text::new(&text))
}

fn from_worker() -> impl Strategy<Value = FromWorker> {
    let ready = (any::<[u64; 2]>(), any::<[u32; 4]>(), text(), text(), text()).prop_map(
        |(
            [table_hash, init_micros],
            [kind, version, device_count, window_mask],
            path,
            release,
            why,
        )| {
            FromWorker::Ready(Ready {
                table_hash,
                init_micros,
                driver_kind: DriverKind(kind),
                driver_version: version,
                device_count,
                window_mask,
                driver_path: path,
                driver_release: release,
                why,
            })
        },
    );
    let device = proptest::collection::vec(any::<u8>(), size_of::<Device>())
        .prop_map(|bytes| FromWorker::Device(Device::read_from_bytes(&bytes).unwrap()));
    let layer = (any::<[u32; 2]>(), text()).prop_map(|([layer, state], why)| {
        FromWorker::Layer(Report {
            layer: Layer(layer),
            state: State(state),
            why,
        })
    });
    prop_oneof![
        ready,
        device,
        layer,
        text().prop_map(|text| FromWorker::Failed { text }),
        Just(FromWorker::Attached),
        Just(FromWorker::Behind),
        text().prop_map(|text| FromWorker::AttachFailed { text }),
        any::<[u32; 2]>()
            .prop_map(|[status, reserved]| FromWorker::Suspect(Suspect { status, reserved })),
        any::<[u64; 2]>()
            .prop_map(|[request_id, bytes]| FromWorker::Charge(Charge { request_id, bytes })),
        any::<u64>().prop_map(|bytes| FromWorker::Release { bytes }),
        (any::<[u64; 3]>(), any::<u8>()).prop_map(|([request_id, bytes, charged], byte)| {
            FromWorker::Share(Share {
                request_id,
                bytes,
                charged,
                handle: [byte; 64],
            })
        }),
        (any::<u64>(), any::<Token>())
            .prop_map(|(request_id, token)| FromWorker::Open(Open { request_id, token })),
        any::<Token>().prop_map(|token| FromWorker::CloseShare { token }),
        (any::<Token>(), any::<u64>())
            .prop_map(|(token, returned)| FromWorker::Withdraw(Withdraw { token, returned })),
        (text(), any::<[u64; 2]>()).prop_map(|(call, [groups, times])| {
            FromWorker::Refused(Refused {
                call,
                groups,
                times,
            })
        }),
        any::<[u64; 3]>().prop_map(|[bound, asked, times]| {
            FromWorker::Denied(Denied {
                bound: Bound(bound),
                asked,
                times,
            })
        }),
        (any::<[u32; 2]>(), any::<[u64; 4]>()).prop_map(
            |([status, reserved], [total, free, zeroed, left])| {
                FromWorker::Scrubbed(Scrubbed {
                    status,
                    reserved,
                    total,
                    free,
                    zeroed,
                    left,
                })
            }
        ),
        (
            text(),
            prop_oneof![
                Just(Ending::Own),
                Just(Ending::Violation),
                Just(Ending::Stuck)
            ]
        )
            .prop_map(|(text, ending)| FromWorker::Ended { text, ending }),
    ]
}

fn to_worker() -> impl Strategy<Value = ToWorker> {
    let assign = (any::<[u64; 4]>(), any::<u32>(), text(), text()).prop_map(
        |([client_id, capabilities, memory_limit, credit_chunk], window, zone, program)| {
            ToWorker::Assign(Assign {
                client_id,
                capabilities,
                memory_limit,
                credit_chunk,
                context_overhead: memory_limit.rotate_left(7),
                images: credit_chunk.rotate_left(9),
                limits: Limits::default(),
                window,
                stuck_after_millis: window.rotate_left(9),
                zone,
                program,
            })
        },
    );
    prop_oneof![
        assign,
        any::<u64>().prop_map(|request_id| ToWorker::Verdict(Verdict {
            request_id,
            outcome: Outcome::Granted
        })),
        any::<[u64; 3]>().prop_map(|[request_id, limit, used]| ToWorker::Verdict(Verdict {
            request_id,
            outcome: Outcome::Refused { limit, used }
        })),
        (any::<[u64; 2]>(), any::<u32>(), any::<Token>(), any::<u8>()).prop_map(
            |([request_id, bytes], outcome, token, byte)| {
                ToWorker::Shared(Shared {
                    request_id,
                    outcome: Sharing(outcome),
                    reserved: 0,
                    bytes,
                    token,
                    handle: [byte; 64],
                })
            }
        ),
        Just(ToWorker::Stop),
    ]
}

proptest! {
    #[test]
    fn every_message_of_a_worker_survives_a_round_trip(message in from_worker()) {
        prop_assert_eq!(FromWorker::decode(message.encode().as_bytes()), Ok(message));
    }

    #[test]
    fn every_message_to_a_worker_survives_a_round_trip(message in to_worker()) {
        prop_assert_eq!(ToWorker::decode(message.encode().as_bytes()), Ok(message));
    }

    #[test]
    fn a_packet_of_any_other_length_is_refused(message in from_worker(), cut in 1usize..64, more in any::<bool>()) {
        let mut bytes = message.encode().as_bytes().to_vec();
        if more { bytes.extend(vec![0; cut]) } else { bytes.truncate(bytes.len().saturating_sub(cut)) }
        prop_assert!(FromWorker::decode(&bytes).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = FromWorker::decode(&bytes);
        let _ = ToWorker::decode(&bytes);
    }
}

#[test]
fn each_direction_refuses_the_messages_of_the_other() {
    let stop = ToWorker::Stop.encode();
    assert_eq!(
        FromWorker::decode(stop.as_bytes()),
        Err(Malformed::Kind(66))
    );
    let attached = FromWorker::Attached.encode();
    assert_eq!(
        ToWorker::decode(attached.as_bytes()),
        Err(Malformed::Kind(3))
    );
}

#[test]
fn an_ending_that_is_none_is_refused() {
    let ended = FromWorker::Ended {
        text: Text::EMPTY,
        ending: Ending::Stuck,
    }
    .encode();
    let mut bytes = ended.as_bytes().to_vec();
    *bytes.last_mut().unwrap() = 3;
    assert!(matches!(
        FromWorker::decode(&bytes),
        Err(Malformed::Body { kind: 7, .. })
    ));
}

#[test]
fn another_version_is_named() {
    let mut bytes = FromWorker::Attached.encode().as_bytes().to_vec();
    bytes[4] = 9;
    assert_eq!(
        FromWorker::decode(&bytes),
        Err(Malformed::Version { found: 9 })
    );
}
