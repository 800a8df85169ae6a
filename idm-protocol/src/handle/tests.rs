//! Handles against models, and against those who make them up.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::layout::Limits;

fn limits(each: u32) -> HandleLimits {
    HandleLimits::new(&Limits {
        handles_per_kind: each,
        streams: 2,
        contexts: 1,
        ..Limits::default()
    })
}

#[test]
fn what_cuda_gives_a_meaning_of_its_own_is_no_handle() {
    for value in [0, 1, 2, u64::MAX, 0x7fff_0000_0000, 0xffff_8000_0000_0000] {
        assert_eq!(Handle::from_value(value), None);
    }
}

#[test]
fn no_handle_is_an_address_that_can_be_mapped() {
    let handle = Handle::new(Kind::EVENT, MOST_SLOTS - 1, u32::MAX).unwrap();
    let lowest = Handle::new(Kind::CONTEXT, 0, 1).unwrap();
    for value in [handle.value(), lowest.value()] {
        // Canonical addresses repeat bit 47, or bit 56 with five levels, up to bit 63.
        let top = value.cast_signed() >> 56;
        assert!(top != 0 && top != -1);
    }
}

#[test]
fn parts_out_of_range_make_no_handle() {
    assert_eq!(Handle::new(Kind::EVENT, MOST_SLOTS, 1), None);
    assert_eq!(Handle::new(Kind::EVENT, 0, 0), None);
    assert_eq!(Kind::new(0), None);
    assert_eq!(Kind::new(64), None);
}

#[test]
fn forged_mistyped_stale_and_doubly_bound_handles_are_told_apart() {
    let mut table = WorkerTable::new(limits(4));
    let event = Handle::new(Kind::EVENT, 3, 5).unwrap();
    let value = event.value();
    assert_eq!(table.resolve(7, Kind::EVENT), Err(HandleError::Forged(7)));
    assert_eq!(
        table.resolve(value, Kind::EVENT),
        Err(HandleError::Stale(event))
    );
    assert_eq!(table.bind(value, Kind::EVENT, 'a'), Ok(event));
    let twice = Err((HandleError::Bound(event), 'b'));
    assert_eq!(table.bind(value, Kind::EVENT, 'b'), twice);
    assert_eq!(table.resolve(value, Kind::EVENT), Ok(&'a'));
    let mistyped = HandleError::WrongKind {
        found: event,
        wanted: Kind::STREAM,
    };
    assert_eq!(table.resolve(value, Kind::STREAM), Err(mistyped));
    assert_eq!(table.unbind(value, Kind::EVENT), Ok(Bound::Object('a')));
    assert_eq!(
        table.unbind(value, Kind::EVENT),
        Err(HandleError::Stale(event))
    );
    // The past cannot be bound again, the future can.
    let stale = Err((HandleError::Stale(event), 'c'));
    assert_eq!(table.bind(value, Kind::EVENT, 'c'), stale);
    let next = Handle::new(Kind::EVENT, 3, 6).unwrap();
    assert_eq!(table.bind(next.value(), Kind::EVENT, 'd'), Ok(next));
    assert_eq!(
        table.resolve(value, Kind::EVENT),
        Err(HandleError::Stale(event))
    );
}

#[test]
fn a_slot_beyond_the_limit_is_refused_and_costs_no_memory() {
    let mut table = WorkerTable::new(limits(4));
    let far = Handle::new(Kind::EVENT, 4, 1).unwrap();
    let over = HandleError::OverLimit {
        kind: Kind::EVENT,
        limit: 4,
    };
    assert_eq!(table.bind(far.value(), Kind::EVENT, ()), Err((over, ())));
    let far = Handle::new(Kind::STREAM, 2, 1).unwrap();
    assert!(table.check_free(far.value(), Kind::STREAM).is_err());
}

#[test]
fn a_poisoned_handle_keeps_its_result_until_it_is_destroyed() {
    let mut table: WorkerTable<()> = WorkerTable::new(limits(4));
    let handle = Handle::new(Kind::EVENT, 0, 1).unwrap();
    table.poison(handle.value(), Kind::EVENT, 2).unwrap();
    let poisoned = HandleError::Poisoned { handle, code: 2 };
    assert_eq!(table.resolve(handle.value(), Kind::EVENT), Err(poisoned));
    assert_eq!(
        table.resolve_mut(handle.value(), Kind::EVENT),
        Err(poisoned)
    );
    let bound = table.check_free(handle.value(), Kind::EVENT);
    assert_eq!(bound, Err(HandleError::Bound(handle)));
    assert_eq!(
        table.unbind(handle.value(), Kind::EVENT),
        Ok(Bound::Poisoned(2))
    );
}

#[test]
fn draining_yields_each_object_once() {
    let mut table = WorkerTable::new(limits(4));
    for slot in 0..3u8 {
        let handle = Handle::new(Kind::EVENT, slot.into(), 1).unwrap();
        table.bind(handle.value(), Kind::EVENT, slot).unwrap();
    }
    assert_eq!(table.iter(Kind::EVENT).count(), 3);
    assert_eq!(table.drain(Kind::EVENT).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(table.drain(Kind::EVENT).count(), 0);
}

#[test]
fn a_full_client_table_mints_again_after_a_removal_and_the_old_handle_is_stale() {
    let mut table = ClientTable::new(limits(2));
    let first = table.mint(Kind::EVENT, 'a').unwrap();
    table.mint(Kind::EVENT, 'b').unwrap();
    assert!(matches!(
        table.mint(Kind::EVENT, 'c'),
        Err(HandleError::OverLimit { limit: 2, .. })
    ));
    assert_eq!(table.remove(first.value(), Kind::EVENT), Ok('a'));
    let again = table.mint(Kind::EVENT, 'c').unwrap();
    assert_eq!(again.slot(), first.slot());
    let stale = HandleError::Stale(first);
    assert_eq!(table.resolve(first.value(), Kind::EVENT), Err(stale));
    *table.resolve_mut(again.value(), Kind::EVENT).unwrap().1 = 'd';
    assert_eq!(table.resolve(again.value(), Kind::EVENT), Ok((again, &'d')));
    assert_eq!(table.iter(Kind::EVENT).count(), 2);
}

#[derive(Clone, Debug)]
enum Step {
    Create(u8),
    Destroy(usize),
    Use(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<u8>().prop_map(Step::Create),
        any::<usize>().prop_map(Step::Destroy),
        prop_oneof![
            any::<u64>(),
            (0u64..8).prop_map(|low| 0x8500_0000_0000_0000 | low << 32 | 1)
        ]
        .prop_map(Step::Use),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 256 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_parts_of_a_handle_come_back(kind in 1u8..64, slot in 0..MOST_SLOTS, generation in 1u32..) {
        let kind = Kind::new(kind).unwrap();
        let handle = Handle::new(kind, slot, generation).unwrap();
        let back = Handle::from_value(handle.value()).unwrap();
        prop_assert_eq!((back.kind(), back.slot(), back.generation()), (kind, slot, generation));
    }

    #[test]
    fn any_value_is_a_handle_with_parts_or_none(value: u64) {
        if let Some(handle) = Handle::from_value(value) {
            let again = Handle::new(handle.kind(), handle.slot(), handle.generation());
            prop_assert_eq!(again, Some(handle));
            prop_assert_eq!(handle.value(), value);
        }
    }

    /// Client and worker tables agree with a map, whatever happens in between.
    #[test]
    fn both_tables_agree_with_a_map(steps in prop::collection::vec(step(), 0..200)) {
        let mut client = ClientTable::new(limits(6));
        let mut worker = WorkerTable::new(limits(6));
        let mut model = HashMap::new();
        let mut order = Vec::new();
        for step in steps {
            match step {
                Step::Create(content) => match client.mint(Kind::EVENT, content) {
                    Ok(handle) => {
                        prop_assert!(model.insert(handle.value(), content).is_none());
                        prop_assert_eq!(worker.bind(handle.value(), Kind::EVENT, content), Ok(handle));
                        order.push(handle.value());
                    }
                    Err(_) => prop_assert_eq!(model.len(), 6),
                },
                Step::Destroy(at) if !order.is_empty() => {
                    let value = order.remove(at % order.len());
                    let content = model.remove(&value).unwrap();
                    prop_assert_eq!(client.remove(value, Kind::EVENT), Ok(content));
                    prop_assert_eq!(worker.unbind(value, Kind::EVENT), Ok(Bound::Object(content)));
                }
                Step::Destroy(_) => {}
                Step::Use(value) => {
                    let known = model.get(&value);
                    prop_assert_eq!(worker.resolve(value, Kind::EVENT).ok(), known);
                    let held = client.resolve(value, Kind::EVENT).ok().map(|(_, held)| held);
                    prop_assert_eq!(held, known);
                }
            }
        }
    }
}
