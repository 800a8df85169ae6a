//! Text to tokens.
#![forbid(unsafe_code)]

/// A place in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pos {
    pub line: u32,
    pub column: u32,
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// An identifier, a register name or an opcode's first part.
    Word,
    /// A dot and what follows it.
    Dotted,
    /// An integer; `true` if it was marked unsigned.
    Int(u64, bool),
    /// A single-precision literal's bits.
    F32(u32),
    /// A double-precision literal's bits.
    F64(u64),
    /// A string, its quotes included.
    Text,
    /// Punctuation; the token's text says which.
    Punct,
    /// The end of the text.
    End,
}

/// A token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Token<'a> {
    pub kind: Kind,
    pub text: &'a str,
    pub pos: Pos,
    /// Byte offset in the text.
    pub offset: usize,
}

/// A token that cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LexError {
    pub pos: Pos,
    pub reason: &'static str,
}

/// The tokens of a text, one at a time.
#[derive(Debug, Clone)]
pub struct Lexer<'a> {
    text: &'a str,
    offset: usize,
    line: u32,
    line_start: usize,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str) -> Self {
        Self {
            text,
            offset: 0,
            line: 1,
            line_start: 0,
        }
    }

    /// The next token; [`Kind::End`] for ever after the last.
    pub fn next(&mut self) -> Result<Token<'a>, LexError> {
        self.skip_blank()?;
        let (start, pos) = (self.offset, self.pos());
        let bytes = self.text.as_bytes();
        let Some(&first) = bytes.get(start) else {
            return Ok(self.token(Kind::End, start, pos));
        };
        let second = bytes.get(start + 1).copied().unwrap_or(0);
        let kind = match first {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$' => {
                self.take_word();
                Kind::Word
            }
            b'%' if is_word(second) => {
                self.offset += 1;
                self.take_word();
                Kind::Word
            }
            b'.' if is_word(second) => {
                self.offset += 1;
                self.take_word();
                while self.rest().starts_with("::") {
                    self.offset += 2;
                    self.take_word();
                }
                Kind::Dotted
            }
            b'0'..=b'9' => self.number(pos)?,
            b'"' => {
                let Some(length) = self.text[start + 1..].find('"') else {
                    return Err(LexError {
                        pos,
                        reason: "string without an end",
                    });
                };
                self.offset += length + 2;
                let lines = self.text[start..self.offset].matches('\n').count();
                self.line = self
                    .line
                    .saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
                Kind::Text
            }
            _ if first.is_ascii_punctuation() => {
                let double = matches!(
                    (first, second),
                    (b'<', b'<')
                        | (b'>', b'>')
                        | (b'=', b'=')
                        | (b'!', b'=')
                        | (b'<', b'=')
                        | (b'>', b'=')
                        | (b'&', b'&')
                        | (b'|', b'|')
                );
                self.offset += if double { 2 } else { 1 };
                Kind::Punct
            }
            _ => {
                return Err(LexError {
                    pos,
                    reason: "unexpected character",
                });
            }
        };
        Ok(self.token(kind, start, pos))
    }

    fn token(&self, kind: Kind, start: usize, pos: Pos) -> Token<'a> {
        Token {
            kind,
            text: &self.text[start..self.offset],
            pos,
            offset: start,
        }
    }

    fn pos(&self) -> Pos {
        Pos {
            line: self.line,
            column: u32::try_from(self.offset - self.line_start + 1).unwrap_or(u32::MAX),
        }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.offset..]
    }

    fn take_word(&mut self) {
        let length = self
            .rest()
            .bytes()
            .take_while(|&byte| is_word(byte))
            .count();
        self.offset += length;
    }

    fn skip_blank(&mut self) -> Result<(), LexError> {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.offset) {
            match byte {
                b'\n' => self.new_line(),
                b' ' | b'\t' | b'\r' | b'\x0b' | b'\x0c' | 0 => self.offset += 1,
                b'/' if bytes.get(self.offset + 1) == Some(&b'/') => {
                    self.offset += self.rest().find('\n').unwrap_or(self.rest().len());
                }
                b'/' if bytes.get(self.offset + 1) == Some(&b'*') => {
                    let pos = self.pos();
                    let Some(length) = self.text[self.offset + 2..].find("*/") else {
                        return Err(LexError {
                            pos,
                            reason: "comment without an end",
                        });
                    };
                    let end = self.offset + 2 + length + 2;
                    while self.offset < end {
                        if bytes[self.offset] == b'\n' {
                            self.new_line();
                        } else {
                            self.offset += 1;
                        }
                    }
                }
                _ => break,
            }
        }
        Ok(())
    }

    fn new_line(&mut self) {
        self.offset += 1;
        self.line = self.line.saturating_add(1);
        self.line_start = self.offset;
    }

    fn number(&mut self, pos: Pos) -> Result<Kind, LexError> {
        let error = |reason| LexError { pos, reason };
        let start = self.offset;
        self.take_word();
        let word = &self.text[start..self.offset];
        let lower = word.as_bytes().get(1).map(u8::to_ascii_lowercase);
        if word.starts_with('0') && lower == Some(b'f') {
            return match u32::from_str_radix(&word[2..], 16) {
                Ok(bits) if word.len() == 10 => Ok(Kind::F32(bits)),
                _ => Err(error("0f needs eight hexadecimal digits")),
            };
        }
        if word.starts_with('0') && lower == Some(b'd') {
            return match u64::from_str_radix(&word[2..], 16) {
                Ok(bits) if word.len() == 18 => Ok(Kind::F64(bits)),
                _ => Err(error("0d needs sixteen hexadecimal digits")),
            };
        }
        let hexadecimal = word.starts_with('0') && lower == Some(b'x');
        let next = self.text.as_bytes().get(self.offset).copied();
        let exponent = !hexadecimal && word.ends_with(['e', 'E']);
        if !hexadecimal && (next == Some(b'.') || exponent || word.contains(['e', 'E'])) {
            if next == Some(b'.') {
                self.offset += 1;
                self.take_word();
            }
            let signed = matches!(self.rest().as_bytes().first(), Some(b'+' | b'-'));
            if self.text[start..self.offset].ends_with(['e', 'E']) && signed {
                self.offset += 1;
                self.take_word();
            }
            return match self.text[start..self.offset].parse::<f64>() {
                Ok(value) => Ok(Kind::F64(value.to_bits())),
                Err(_) => Err(error("malformed number")),
            };
        }
        let unsigned = word.ends_with(['u', 'U']);
        let digits = word.strip_suffix(['u', 'U']).unwrap_or(word);
        let (digits, radix) = match digits.as_bytes() {
            [b'0', b'x' | b'X', ..] => (&digits[2..], 16),
            [b'0', b'b' | b'B', ..] => (&digits[2..], 2),
            [b'0', _, ..] => (&digits[1..], 8),
            _ => (digits, 10),
        };
        match u64::from_str_radix(digits, radix) {
            Ok(value) => Ok(Kind::Int(value, unsigned)),
            Err(_) => Err(error("malformed number")),
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<Kind> {
        let mut lexer = Lexer::new(text);
        let mut kinds = Vec::new();
        loop {
            match lexer.next().unwrap().kind {
                Kind::End => return kinds,
                kind => kinds.push(kind),
            }
        }
    }

    #[test]
    fn numbers_of_every_form_have_their_value() {
        assert_eq!(
            kinds("10 0x1F 017 0b101 7U 0f3F800000 0d3FF0000000000000 1.5 2e3 1.0e-2"),
            [
                Kind::Int(10, false),
                Kind::Int(31, false),
                Kind::Int(15, false),
                Kind::Int(5, false),
                Kind::Int(7, true),
                Kind::F32(0x3f80_0000),
                Kind::F64(1f64.to_bits()),
                Kind::F64(1.5f64.to_bits()),
                Kind::F64(2000f64.to_bits()),
                Kind::F64(0.01f64.to_bits()),
            ]
        );
    }

    #[test]
    fn positions_count_lines_and_columns_from_one() {
        let mut lexer = Lexer::new("/* a\n b */ mov.u32 // c\n  %r1");
        let mut place = || {
            let token = lexer.next().unwrap();
            (token.text, token.pos.line, token.pos.column)
        };
        assert_eq!(place(), ("mov", 2, 7));
        assert_eq!(place(), (".u32", 2, 10));
        assert_eq!(place(), ("%r1", 3, 3));
    }

    #[test]
    fn malformed_tokens_are_refused() {
        for text in [
            "0f12",
            "0d1",
            "\"abc",
            "/* abc",
            "99999999999999999999",
            "\u{e9}",
        ] {
            let mut lexer = Lexer::new(text);
            assert!(lexer.next().is_err(), "{text}");
        }
    }
}
