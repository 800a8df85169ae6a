//! Functions that the driver supplies: `vprintf`, `__assertfail`, `malloc` and `free`.
#![forbid(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "arguments are cut to the width the format names"
)]

use super::fault::FaultKind;
use super::grid::Shape;
use super::memory::View;
use crate::ptx::ir::{Builtin, CallSite, Slot};

/// Longest text of one call.
const MAX_TEXT: usize = 1 << 16;
/// Widest field.
const MAX_WIDTH: usize = 1 << 10;

/// Executes a built-in function for one lane.
pub fn builtin(
    shape: &Shape<'_>,
    memory: &mut View<'_>,
    builtin: Builtin,
    site: &CallSite,
    base: u32,
    lane: usize,
) -> Result<(), FaultKind> {
    let argument = |memory: &mut View<'_>, place: usize| {
        let Some(Slot { offset, size }) = site.arguments.get(place) else {
            return 0;
        };
        let mut value = [0; 8];
        if let Some(bytes) = memory.frame(lane, base + offset, *size) {
            value[..bytes.len()].copy_from_slice(bytes);
        }
        u64::from_le_bytes(value)
    };
    let text = |bytes: Vec<u8>| Box::from(String::from_utf8_lossy(&bytes));
    let give = |memory: &mut View<'_>, value: &[u8]| {
        if let Some(Slot { offset, size }) = site.results.first()
            && let Some(bytes) = memory.frame(lane, base + offset, *size)
        {
            let size = bytes.len().min(value.len());
            bytes[..size].copy_from_slice(&value[..size]);
        }
    };
    match builtin {
        Builtin::AssertFail => {
            let [message, file, line, function] = [0, 1, 2, 3].map(|place| argument(memory, place));
            Err(FaultKind::Assert {
                message: text(memory.text(message, lane)),
                file: text(memory.text(file, lane)),
                line: line as u32,
                function: text(memory.text(function, lane)),
            })
        }
        Builtin::Vprintf => {
            let (format, arguments) = (argument(memory, 0), argument(memory, 1));
            let format = memory.text(format, lane);
            let (printed, count) = print(memory, &format, arguments, lane)?;
            (shape.launch.output)(&printed);
            give(memory, &count.to_le_bytes());
            Ok(())
        }
        Builtin::Malloc => {
            let bytes = argument(memory, 0);
            let address = shape.launch.heap.and_then(|heap| heap.allocate(bytes));
            give(memory, &address.unwrap_or(0).to_le_bytes());
            Ok(())
        }
        // A pointer that is none of the heap's ends the kernel, as a GPU's `free` does.
        Builtin::Free => match argument(memory, 0) {
            0 => Ok(()),
            address if shape.launch.heap.is_some_and(|heap| heap.free(address)) => Ok(()),
            _ => Err(FaultKind::Trap),
        },
    }
}

/// A conversion specification.
#[derive(Debug, Default)]
struct Field {
    left: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
}

fn print(
    memory: &mut View<'_>,
    format: &[u8],
    arguments: u64,
    lane: usize,
) -> Result<(Vec<u8>, i32), FaultKind> {
    let (mut out, mut count, mut address) = (Vec::new(), 0, arguments);
    // Arguments lie one after the other, each aligned to its size.
    let mut next = |memory: &mut View<'_>, bytes: u64| {
        address = address.next_multiple_of(bytes);
        let value = memory.peek(address, bytes, lane);
        address += bytes;
        value
    };
    let mut place = 0;
    while place < format.len() && out.len() < MAX_TEXT {
        let byte = format[place];
        place += 1;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let start = place - 1;
        let mut field = Field::default();
        while let Some(flag) = format.get(place) {
            match flag {
                b'-' => field.left = true,
                b'+' => field.plus = true,
                b' ' => field.space = true,
                b'#' => field.alternate = true,
                b'0' => field.zero = true,
                _ => break,
            }
            place += 1;
        }
        let mut number =
            |memory: &mut View<'_>, place: &mut usize| -> Result<Option<i32>, FaultKind> {
                if format.get(*place) == Some(&b'*') {
                    *place += 1;
                    return Ok(Some((next(memory, 4)? as u32).cast_signed()));
                }
                let mut value = None;
                while let Some(digit) = format.get(*place).filter(|byte| byte.is_ascii_digit()) {
                    *place += 1;
                    value = Some(
                        value
                            .unwrap_or(0i32)
                            .saturating_mul(10)
                            .saturating_add(i32::from(digit - b'0')),
                    );
                }
                Ok(value)
            };
        if let Some(width) = number(memory, &mut place)? {
            field.left |= width < 0;
            field.width = (width.unsigned_abs() as usize).min(MAX_WIDTH);
        }
        if format.get(place) == Some(&b'.') {
            place += 1;
            let precision = number(memory, &mut place)?.unwrap_or(0);
            field.precision = usize::try_from(precision)
                .ok()
                .map(|precision| precision.min(MAX_WIDTH));
        }
        let mut bytes = 4;
        while let Some(length) = format.get(place) {
            match length {
                b'l' | b'j' | b'z' | b't' | b'q' => bytes = 8,
                b'h' => bytes = if bytes == 2 { 1 } else { 2 },
                b'L' => {}
                _ => break,
            }
            place += 1;
        }
        let Some(&conversion) = format.get(place) else {
            out.extend_from_slice(&format[start..]);
            break;
        };
        place += 1;
        let text = match conversion {
            b'%' => {
                out.push(b'%');
                continue;
            }
            b'd' | b'i' => {
                let bits = next(memory, if bytes == 8 { 8 } else { 4 })?;
                let value = match bytes {
                    8 => bits.cast_signed(),
                    4 => i64::from((bits as u32).cast_signed()),
                    2 => i64::from((bits as u16).cast_signed()),
                    _ => i64::from((bits as u8).cast_signed()),
                };
                field.number(value < 0, "", &value.unsigned_abs().to_string())
            }
            b'u' | b'x' | b'X' | b'o' => {
                let bits = next(memory, if bytes == 8 { 8 } else { 4 })?;
                let value = if bytes == 8 {
                    bits
                } else {
                    bits & ((1 << (bytes * 8)) - 1)
                };
                let (prefix, digits) = match conversion {
                    b'x' => ("0x", format!("{value:x}")),
                    b'X' => ("0X", format!("{value:X}")),
                    b'o' => ("0", format!("{value:o}")),
                    _ => ("", value.to_string()),
                };
                field.plus = false;
                field.space = false;
                field.number(
                    false,
                    if field.alternate && value != 0 {
                        prefix
                    } else {
                        ""
                    },
                    &digits,
                )
            }
            b'p' => {
                let value = next(memory, 8)?;
                field.pad(format!("{value:#x}"))
            }
            b'c' => {
                let value = next(memory, 4)? as u8;
                field.pad(char::from(value).to_string())
            }
            b's' => {
                let pointer = next(memory, 8)?;
                let text = if pointer == 0 {
                    b"(null)".to_vec()
                } else {
                    memory.text(pointer, lane)
                };
                let text = String::from_utf8_lossy(&text).into_owned();
                let limit = field.precision.unwrap_or(usize::MAX);
                field.pad(text.chars().take(limit).collect())
            }
            b'f' | b'F' | b'e' | b'E' | b'g' | b'G' | b'a' | b'A' => {
                let value = f64::from_bits(next(memory, 8)?);
                field.float(conversion, value)
            }
            _ => {
                out.extend_from_slice(&format[start..place]);
                continue;
            }
        };
        out.extend_from_slice(text.as_bytes());
        count += 1;
    }
    Ok((out, count))
}

impl Field {
    fn pad(&self, text: String) -> String {
        let missing = self.width.saturating_sub(text.chars().count());
        let blanks = " ".repeat(missing);
        if self.left {
            text + &blanks
        } else {
            blanks + &text
        }
    }

    fn number(&self, negative: bool, prefix: &str, digits: &str) -> String {
        let digits = match self.precision {
            Some(0) if digits == "0" => String::new(),
            Some(precision) => format!("{digits:0>precision$}"),
            None => digits.to_owned(),
        };
        self.signed(
            negative,
            prefix,
            &digits,
            self.zero && self.precision.is_none(),
        )
    }

    fn signed(&self, negative: bool, prefix: &str, digits: &str, zero: bool) -> String {
        let sign = match (negative, self.plus, self.space) {
            (true, ..) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        };
        let used = sign.len() + prefix.len() + digits.len();
        let zeros = if zero && !self.left {
            "0".repeat(self.width.saturating_sub(used))
        } else {
            String::new()
        };
        self.pad(format!("{sign}{prefix}{zeros}{digits}"))
    }

    fn float(&self, conversion: u8, value: f64) -> String {
        let upper = conversion.is_ascii_uppercase();
        let magnitude = value.abs();
        let precision = self.precision.unwrap_or(6);
        let digits = if magnitude.is_nan() {
            "nan".to_owned()
        } else if magnitude.is_infinite() {
            "inf".to_owned()
        } else {
            match conversion.to_ascii_lowercase() {
                b'f' => format!("{magnitude:.precision$}"),
                b'e' => exponential(magnitude, precision),
                b'g' => general(magnitude, precision.max(1), self.alternate),
                _ => hexadecimal(magnitude),
            }
        };
        let digits = if upper { digits.to_uppercase() } else { digits };
        self.signed(
            value.is_sign_negative() && !value.is_nan(),
            "",
            &digits,
            self.zero && magnitude.is_finite(),
        )
    }
}

/// As C's `%e`: an exponent of two digits at least.
fn exponential(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

fn general(value: f64, precision: usize, keep: bool) -> String {
    let text = exponential(value, precision - 1);
    let exponent = text
        .split_once('e')
        .and_then(|(_, exponent)| exponent.parse::<i32>().ok())
        .unwrap_or(0);
    let trim = |text: &str| {
        if keep || !text.contains('.') {
            return text.to_owned();
        }
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    let limit = i32::try_from(precision).unwrap_or(i32::MAX);
    if exponent < -4 || exponent >= limit {
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "+00"));
        return format!("{}e{exponent}", trim(mantissa));
    }
    let places = usize::try_from(limit - 1 - exponent).unwrap_or(0);
    trim(&format!("{value:.places$}"))
}

fn hexadecimal(value: f64) -> String {
    let bits = value.to_bits();
    let (fraction, biased) = (bits & ((1 << 52) - 1), bits >> 52 & 0x7ff);
    let (lead, exponent) = match (biased, fraction) {
        (0, 0) => (0, 0),
        (0, _) => (0, -1022),
        _ => (1, i32::try_from(biased).unwrap_or(0) - 1023),
    };
    let digits = format!("{fraction:013x}");
    let digits = digits.trim_end_matches('0');
    let point = if digits.is_empty() { "" } else { "." };
    format!("0x{lead}{point}{digits}p{exponent:+}")
}
