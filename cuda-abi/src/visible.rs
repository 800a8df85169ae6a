//! `CUDA_VISIBLE_DEVICES`: which of a driver's devices a program sees, in which order.
//!
//! The driver reads the variable, not the runtime, so that here is its place. Entries are ordinals or
//! unambiguous prefixes of UUIDs (`GPU-…`). The first entry that names nothing ends the list; a device
//! named twice makes the whole list invalid, and then nothing is visible.

#![forbid(unsafe_code)]

/// The devices to show, as indices into `uuids`; all of them if the variable is not set.
#[must_use]
pub fn visible(variable: Option<&str>, uuids: &[[u8; 16]]) -> Vec<usize> {
    let Some(list) = variable else {
        return (0..uuids.len()).collect();
    };
    let mut shown = Vec::new();
    for entry in list.split(',') {
        let Some(index) = find(entry.trim(), uuids) else {
            break;
        };
        if shown.contains(&index) {
            return Vec::new();
        }
        shown.push(index);
    }
    shown
}

/// `GPU-` and the five groups, as tools print a UUID.
#[must_use]
pub fn uuid_text(uuid: &[u8; 16]) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("GPU-");
    for (at, byte) in uuid.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn find(entry: &str, uuids: &[[u8; 16]]) -> Option<usize> {
    if let Ok(ordinal) = entry.parse::<usize>() {
        return (ordinal < uuids.len()).then_some(ordinal);
    }
    let wanted = entry.strip_prefix("GPU-")?.to_ascii_lowercase();
    let mut matching =
        (0..uuids.len()).filter(|&index| uuid_text(&uuids[index])[4..].starts_with(&wanted));
    match (matching.next(), matching.next()) {
        (Some(index), None) => Some(index),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUIDS: [[u8; 16]; 3] = [[0x11; 16], [0x12; 16], [0xab; 16]];

    #[test]
    fn unset_variable_shows_everything_and_an_empty_one_nothing() {
        assert_eq!(visible(None, &UUIDS), [0, 1, 2]);
        assert!(visible(Some(""), &UUIDS).is_empty());
        assert!(visible(Some("-1"), &UUIDS).is_empty());
        assert!(visible(Some("NoDevFiles"), &UUIDS).is_empty());
    }

    #[test]
    fn ordinals_choose_and_order_and_the_first_unknown_one_ends_the_list() {
        assert_eq!(visible(Some("2, 0"), &UUIDS), [2, 0]);
        assert_eq!(visible(Some("1,7,0"), &UUIDS), [1]);
        assert_eq!(visible(Some("0,-1,1"), &UUIDS), [0]);
    }

    #[test]
    fn uuid_prefixes_choose_when_they_fit_one_device_only() {
        assert_eq!(visible(Some("GPU-AB"), &UUIDS), [2]);
        assert_eq!(visible(Some("GPU-12121212-1212"), &UUIDS), [1]);
        assert!(visible(Some("GPU-1"), &UUIDS).is_empty());
        assert_eq!(visible(Some(&uuid_text(&UUIDS[0])), &UUIDS), [0]);
    }

    #[test]
    fn device_named_twice_hides_all() {
        assert!(visible(Some("0,0"), &UUIDS).is_empty());
        assert!(visible(Some("2,GPU-ab"), &UUIDS).is_empty());
    }
}
