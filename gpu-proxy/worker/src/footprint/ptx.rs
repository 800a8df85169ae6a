//! The variables that a PTX text declares, and how large they are.
//!
//! This is no parser: it finds `.global` and `.const` declarations wherever they stand and adds up their sizes.
//! What is not a declaration and looks like one is counted too.

#![forbid(unsafe_code)]

use super::{GRAIN, Unbounded};

/// Largest alignment that is believed.
const MOST_ALIGNMENT: u64 = 1 << 20;

/// Device memory of a text: its variables, and its code, which is taken to be no longer than the text.
pub(super) fn bound(text: &[u8]) -> Result<u64, Unbounded> {
    let end = text.iter().position(|&byte| byte == 0);
    let text = &text[..end.unwrap_or(text.len())];
    let code = u64::try_from(text.len()).map_err(|_| Unbounded::TooMuch)?;
    let code = code.next_multiple_of(GRAIN);
    variables(text)?.checked_add(code).ok_or(Unbounded::TooMuch)
}

/// Device memory of the variables alone. The text may stand among other bytes.
pub(super) fn variables(text: &[u8]) -> Result<u64, Unbounded> {
    let mut tokens = Tokens { text, at: 0 };
    let mut total = 0u64;
    let mut before: &[u8] = b"";
    while let Some(token) = tokens.next() {
        // `.param .u64 .ptr .global` says where a parameter points.
        if matches!(token, b".global" | b".const") && before != b".ptr" {
            let more = declaration(&mut tokens)?;
            total = total.checked_add(more).ok_or(Unbounded::TooMuch)?;
        }
        before = token;
    }
    Ok(total)
}

/// Behind `.global`: alignment, type, then one variable or several.
fn declaration(tokens: &mut Tokens<'_>) -> Result<u64, Unbounded> {
    let (mut element, mut alignment, mut total) = (16u64, 1u64, 0u64);
    // Of the variable at hand: how many elements, and whether the text has to tell how many.
    let (mut elements, mut open, mut named) = (1u64, false, false);
    let much = Unbounded::TooMuch;
    loop {
        let at = tokens.at;
        let Some(token) = tokens.next() else {
            break;
        };
        match token {
            b".align" => {
                alignment = tokens
                    .next()
                    .and_then(number)
                    .filter(|wanted| (1..=MOST_ALIGNMENT).contains(wanted))
                    .ok_or(Unbounded::Size(at))?;
            }
            b".attribute" => tokens.skip(b"(", b")"),
            b".v2" => elements = elements.checked_mul(2).ok_or(much)?,
            b".v4" => elements = elements.checked_mul(4).ok_or(much)?,
            b".v8" => elements = elements.checked_mul(8).ok_or(much)?,
            // Old texts name a bank of constants before the type.
            b"[" if !named => tokens.skip_to(b"]"),
            b"[" => match tokens.next() {
                Some(b"]") => open = true,
                Some(count) => {
                    let count = number(count).ok_or(Unbounded::Size(at))?;
                    elements = elements.checked_mul(count).ok_or(much)?;
                    if tokens.next() != Some(b"]") {
                        return Err(Unbounded::Size(at));
                    }
                }
                None => break,
            },
            b"<" => {
                let count = tokens.next().and_then(number);
                elements = elements
                    .checked_mul(count.ok_or(Unbounded::Size(at))?)
                    .ok_or(much)?;
            }
            b"=" => {
                let written = tokens.initializer();
                if std::mem::take(&mut open) {
                    elements = elements.checked_mul(written).ok_or(much)?;
                }
            }
            b"," | b";" => {
                let bytes = elements.checked_mul(element).ok_or(much)?;
                let grain = alignment.max(GRAIN);
                let bytes = bytes.checked_next_multiple_of(grain).ok_or(much)?;
                total = total.checked_add(bytes).ok_or(much)?;
                (open, named) = (false, false);
                elements = 1;
                if token == b";" {
                    break;
                }
            }
            // The beginning of a body, or the end of one: this was none.
            b"{" | b"}" => break,
            directive if directive.starts_with(b".") => {
                element = element_bytes(directive).unwrap_or(element);
            }
            _ => named = true,
        }
    }
    Ok(total)
}

/// Bytes of a type such as `.f32`.
fn element_bytes(directive: &[u8]) -> Option<u64> {
    let name = directive.strip_prefix(b".")?;
    if matches!(name, b"texref" | b"samplerref" | b"surfref") {
        return Some(64);
    }
    let digits = name.iter().position(u8::is_ascii_digit)?;
    let (kind, rest) = name.split_at(digits);
    if !matches!(kind, b"b" | b"u" | b"s" | b"f" | b"bf" | b"tf" | b"e") {
        return None;
    }
    let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let bits = number(rest.get(..length)?)?;
    let pairs = if rest.ends_with(b"x2") { 2 } else { 1 };
    Some(bits.div_ceil(8).clamp(1, 16) * pairs)
}

/// A plain number: decimal, or in base 16, 8 or 2.
fn number(token: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(token).ok()?;
    let text = text.strip_suffix('U').unwrap_or(text);
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let binary = text.strip_prefix("0b").or_else(|| text.strip_prefix("0B"));
    let (digits, base) = match (hex, binary, text.strip_prefix('0')) {
        (Some(digits), ..) => (digits, 16),
        (_, Some(digits), _) => (digits, 2),
        (_, _, Some(digits)) if !digits.is_empty() => (digits, 8),
        _ => (text, 10),
    };
    // It would take a sign, too.
    let first = digits.bytes().next()?;
    first
        .is_ascii_hexdigit()
        .then(|| u64::from_str_radix(digits, base).ok())?
}

/// Words and single characters, without comments and quoted texts.
struct Tokens<'t> {
    text: &'t [u8],
    at: usize,
}

impl<'t> Tokens<'t> {
    fn rest(&self) -> &'t [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn next(&mut self) -> Option<&'t [u8]> {
        loop {
            let rest = self.rest();
            let first = *rest.first()?;
            if rest.starts_with(b"//") {
                self.pass(b"\n", 2);
            } else if rest.starts_with(b"/*") {
                self.pass(b"*/", 2);
            } else if first == b'"' {
                self.pass(b"\"", 1);
            } else if is_word(first) {
                let length = rest.iter().take_while(|&&byte| is_word(byte)).count();
                self.at += length;
                return rest.get(..length);
            } else {
                self.at += 1;
                if !first.is_ascii_whitespace() {
                    return rest.get(..1);
                }
            }
        }
    }

    /// Goes behind the next `end`, which is looked for from `from` bytes on.
    fn pass(&mut self, end: &[u8], from: usize) {
        let rest = self.rest().get(from..).unwrap_or_default();
        let found = rest.windows(end.len()).position(|window| window == end);
        self.at = match found {
            Some(at) => self.at + from + at + end.len(),
            None => self.text.len(),
        };
    }

    fn skip_to(&mut self, end: &[u8]) {
        while self.next().is_some_and(|token| token != end) {}
    }

    /// Skips what stands between a pair.
    fn skip(&mut self, open: &[u8], close: &[u8]) {
        let mut depth = 0u32;
        while let Some(token) = self.next() {
            if token == open {
                depth += 1;
            } else if token == close {
                depth = depth.saturating_sub(1);
            }
            if depth == 0 {
                break;
            }
        }
    }

    /// Skips what a variable is set to and stays before its `,` or `;`. Tells how many values there are at most.
    fn initializer(&mut self) -> u64 {
        let (mut depth, mut values) = (0u32, 1u64);
        loop {
            let before = self.at;
            match self.next() {
                Some(b"{") => depth += 1,
                Some(b"}") => depth = depth.saturating_sub(1),
                Some(b",") if depth > 0 => values += 1,
                Some(b"," | b";") if depth == 0 => {
                    self.at = before;
                    return values;
                }
                Some(_) => {}
                None => return values,
            }
        }
    }
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'$' | b'%')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_declare_a_variable_is_counted() {
        for (text, bytes) in [
            (".global .u32 a;", 256),
            (".visible .global .align 8 .b8 a[1024];", 1024),
            (".global .f32 a[16][32][4];", 8192),
            (".global .v4 .f32 a[0x100];", 4096),
            (".global .align 4096 .b8 a[1];", 4096),
            (".global .u32 a, b[128], c;", 256 + 512 + 256),
            (".const .u64 a[] = {1, 2, 3, 4};", 256),
            (".const .u64 a[][512] = {{1}, {2}};", 2 * 512 * 8),
            (".const[2] .b8 a[512];", 512),
            (".global .b8 a<4>;", 256),
            (".global .attribute(.managed) .b8 a[1024];", 1024),
            (".global .bf16x2 a[128];", 512),
            ("/* .global .u32 a[999]; */ // .global .u32 b[9999];", 0),
            (".pragma \".global .b8 x[9999];\";", 0),
            ("ld.global.u32 %r1, [%rd1];", 0),
            (".param .u64 .ptr .global .align 16 p", 0),
            (".shared .b8 s[4096];", 0),
            (".global\n.b8/**/ a [ 02000 ] ;", 1024),
        ] {
            assert_eq!(variables(text.as_bytes()), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn a_size_that_cannot_be_told_has_no_bound() {
        for text in [
            ".global .b8 a[1024*1024];",
            ".global .b8 a[N];",
            ".global .b8 a[-1];",
            ".global .align 4294967296 .b8 a[1];",
        ] {
            let found = variables(text.as_bytes());
            assert!(matches!(found, Err(Unbounded::Size(_))), "{text}");
        }
        let text = b".global .b64 a[0xffffffffffffffff][16];";
        assert_eq!(variables(text), Err(Unbounded::TooMuch));
    }

    #[test]
    fn code_is_taken_to_be_as_long_as_its_text() {
        let text = b".version 8.0\n.visible .entry k() { ret; }\n\0.global .b8 unseen[99999];";
        assert_eq!(bound(text), Ok(256));
    }
}
