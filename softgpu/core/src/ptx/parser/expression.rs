//! Constant expressions.
#![forbid(unsafe_code)]

use super::super::ast::*;
use super::super::lexer::{Kind, Token};
use super::{Parser, Result, failure, shorten};

impl<'a> Parser<'a> {
    pub(super) fn value(&mut self, depth: u32) -> Result<Value<'a>> {
        let value = self.binary(depth, 0)?;
        if self.token.text != "?" {
            return Ok(value);
        }
        let pos = self.take()?.pos;
        let (yes, no);
        yes = self.value(depth + 1)?;
        self.expect(":")?;
        no = self.value(depth + 1)?;
        match value {
            Value::Int(condition) => Ok(if condition != 0 { yes } else { no }),
            _ => Err(failure(pos, "condition must be an integer".into())),
        }
    }

    /// Precedence climbing.
    fn binary(&mut self, depth: u32, minimum: u32) -> Result<Value<'a>> {
        self.check_depth(depth)?;
        let mut left = self.unary(depth)?;
        loop {
            let operator = self.token;
            let precedence = match operator.text {
                "||" => 1,
                "&&" => 2,
                "|" => 3,
                "^" => 4,
                "&" => 5,
                "==" | "!=" => 6,
                "<" | "<=" | ">" | ">=" => 7,
                "<<" | ">>" => 8,
                "+" | "-" => 9,
                "*" | "/" | "%" => 10,
                _ => return Ok(left),
            };
            if operator.kind != Kind::Punct || precedence <= minimum {
                return Ok(left);
            }
            self.take()?;
            let right = self.binary(depth + 1, precedence)?;
            left = fold(operator, left, right)?;
        }
    }

    pub(super) fn unary(&mut self, depth: u32) -> Result<Value<'a>> {
        self.check_depth(depth)?;
        let token = self.token;
        match (token.kind, token.text) {
            (Kind::Int(value, _), _) => {
                self.take()?;
                Ok(Value::Int(value))
            }
            (Kind::F32(bits), _) => {
                self.take()?;
                Ok(Value::F32(bits))
            }
            (Kind::F64(bits), _) => {
                self.take()?;
                Ok(Value::F64(bits))
            }
            (Kind::Punct, "-") => {
                self.take()?;
                Ok(match self.unary(depth + 1)? {
                    Value::Int(value) => Value::Int(value.wrapping_neg()),
                    Value::F32(bits) => Value::F32(bits ^ 1 << 31),
                    Value::F64(bits) => Value::F64(bits ^ 1 << 63),
                    Value::Symbol { .. } => {
                        return Err(failure(token.pos, "an address cannot be negated".into()));
                    }
                })
            }
            (Kind::Punct, "+") => {
                self.take()?;
                self.unary(depth + 1)
            }
            (Kind::Punct, "~" | "!") => {
                self.take()?;
                match self.unary(depth + 1)? {
                    Value::Int(value) if token.text == "~" => Ok(Value::Int(!value)),
                    Value::Int(value) => Ok(Value::Int(u64::from(value == 0))),
                    _ => Err(failure(token.pos, "operand must be an integer".into())),
                }
            }
            (Kind::Punct, "(") => {
                self.take()?;
                if matches!(self.token.text, ".s64" | ".u64") {
                    self.take()?;
                    self.expect(")")?;
                    return self.unary(depth + 1);
                }
                let value = self.value(depth + 1)?;
                self.expect(")")?;
                Ok(value)
            }
            (Kind::Word, "generic") => {
                self.take()?;
                self.expect("(")?;
                let name = self.name()?;
                let mut addend = 0;
                if self.accept("+")?
                    && let Value::Int(value) = self.unary(depth + 1)?
                {
                    addend = value.cast_signed();
                }
                self.expect(")")?;
                Ok(Value::Symbol {
                    name,
                    addend,
                    generic: true,
                })
            }
            (Kind::Word, "WARP_SZ") => {
                self.take()?;
                Ok(Value::Int(32))
            }
            (Kind::Word, _) => {
                let name = self.name()?;
                Ok(Value::Symbol {
                    name,
                    addend: 0,
                    generic: false,
                })
            }
            (_, text) => Err(failure(
                token.pos,
                format!("expected a value, found `{}`", shorten(text)),
            )),
        }
    }
}

fn fold<'a>(operator: Token<'a>, left: Value<'a>, right: Value<'a>) -> Result<Value<'a>> {
    let invalid = || {
        failure(
            operator.pos,
            format!("`{}` does not take these operands", operator.text),
        )
    };
    let (a, b) = match (left, right) {
        (
            Value::Symbol {
                name,
                addend,
                generic,
            },
            Value::Int(value),
        ) => {
            let addend = match operator.text {
                "+" => addend.wrapping_add(value.cast_signed()),
                "-" => addend.wrapping_sub(value.cast_signed()),
                _ => return Err(invalid()),
            };
            return Ok(Value::Symbol {
                name,
                addend,
                generic,
            });
        }
        (Value::F64(a), Value::F64(b)) => {
            let (a, b) = (f64::from_bits(a), f64::from_bits(b));
            let value = match operator.text {
                "+" => a + b,
                "-" => a - b,
                "*" => a * b,
                "/" => a / b,
                _ => return Err(invalid()),
            };
            return Ok(Value::F64(value.to_bits()));
        }
        (Value::Int(a), Value::Int(b)) => (a, b),
        _ => return Err(invalid()),
    };
    let (s, t) = (a.cast_signed(), b.cast_signed());
    let shift = u32::try_from(b).unwrap_or(64);
    Ok(Value::Int(match operator.text {
        "||" => u64::from(a != 0 || b != 0),
        "&&" => u64::from(a != 0 && b != 0),
        "|" => a | b,
        "^" => a ^ b,
        "&" => a & b,
        "==" => u64::from(a == b),
        "!=" => u64::from(a != b),
        "<" => u64::from(s < t),
        "<=" => u64::from(s <= t),
        ">" => u64::from(s > t),
        ">=" => u64::from(s >= t),
        "<<" => a.checked_shl(shift).unwrap_or(0),
        ">>" => s.checked_shr(shift).unwrap_or(s >> 63).cast_unsigned(),
        "+" => a.wrapping_add(b),
        "-" => a.wrapping_sub(b),
        "*" => a.wrapping_mul(b),
        _ if b == 0 => return Err(failure(operator.pos, "division by zero".into())),
        "/" => s.wrapping_div(t).cast_unsigned(),
        _ => s.wrapping_rem(t).cast_unsigned(),
    }))
}
