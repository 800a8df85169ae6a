//! Sizes and durations with their units.

#![forbid(unsafe_code)]

use std::time::Duration;

const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

const DURATIONS: [(&str, u64); 3] = [("ms", 1), ("s", 1_000), ("m", 60_000)];

/// Bytes of a text such as `4GiB`; the unit is not optional and letters are not guessed at.
#[must_use]
pub fn size(text: &str) -> Option<u64> {
    scaled(text, &SIZES)
}

/// A duration such as `2s` or `500ms`.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    scaled(text, &DURATIONS).map(Duration::from_millis)
}

/// A size as one would write it: the largest binary unit that it is a whole number of.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    let (unit, scale) = SIZES[..4]
        .iter()
        .find(|(_, scale)| bytes != 0 && bytes.is_multiple_of(*scale))
        .unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / scale)
}

/// A duration as one would write it.
#[must_use]
pub fn duration_text(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis.is_multiple_of(1000) {
        format!("{}s", millis / 1000)
    } else {
        format!("{millis}ms")
    }
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|character: char| !character.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_need_a_number_and_a_known_unit() {
        for (text, bytes) in [
            ("4GiB", 4 << 30),
            ("512 MiB", 512 << 20),
            (" 1TB ", 1_000_000_000_000),
            ("0B", 0),
            ("16777215TiB", 16_777_215 << 40),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in [
            "",
            "4",
            "GiB",
            "4G",
            "4gib",
            "4.5GiB",
            "-1GiB",
            "4GiB/s",
            "16777216TiB",
            "4 G iB",
        ] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn printed_sizes_and_durations_read_back(bytes: u64, millis in 0u64..1 << 40) {
            prop_assert_eq!(size(&size_text(bytes)), Some(bytes));
            let time = Duration::from_millis(millis);
            prop_assert_eq!(duration(&duration_text(time)), Some(time));
        }
    }
}
