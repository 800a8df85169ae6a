//! Registers and how operations name them.
#![forbid(unsafe_code)]

use std::num::NonZeroU16;

macro_rules! register {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub NonZeroU16);

        impl $name {
            /// The register's place in its file.
            #[inline(always)]
            #[must_use]
            pub fn index(self) -> usize {
                usize::from(self.0.get())
            }
        }

        impl Operand for $name {
            fn visit(&mut self, access: Access, visitor: &mut dyn FnMut(Access, AnyReg) -> AnyReg) {
                if let AnyReg::$name(register) = visitor(access, AnyReg::$name(*self)) {
                    *self = register;
                }
            }
        }
    };
}

register!(
    /// A 32-bit register.
    W
);
register!(
    /// A 64-bit register.
    D
);
register!(
    /// A predicate register.
    P
);

/// A register of any file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AnyReg {
    /// 32 bits.
    W(W),
    /// 64 bits.
    D(D),
    /// A predicate.
    P(P),
}

/// Whether an operation reads or writes a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It is read.
    Read,
    /// It is written in every active lane.
    Write,
}

/// A field of an operation that may name registers.
pub trait Operand {
    /// Shows each register to `visitor` and replaces it by what that returns.
    fn visit(&mut self, access: Access, visitor: &mut dyn FnMut(Access, AnyReg) -> AnyReg);
}

impl<T: Operand> Operand for Option<T> {
    fn visit(&mut self, access: Access, visitor: &mut dyn FnMut(Access, AnyReg) -> AnyReg) {
        if let Some(operand) = self {
            operand.visit(access, visitor);
        }
    }
}

impl<T: Operand, const N: usize> Operand for [T; N] {
    fn visit(&mut self, access: Access, visitor: &mut dyn FnMut(Access, AnyReg) -> AnyReg) {
        for operand in self {
            operand.visit(access, visitor);
        }
    }
}

impl Operand for AnyReg {
    fn visit(&mut self, access: Access, visitor: &mut dyn FnMut(Access, AnyReg) -> AnyReg) {
        *self = visitor(access, *self);
    }
}

/// The register part of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// A 32-bit address, zero-extended.
    W(W),
    /// A 64-bit address.
    D(D),
}

impl Operand for Base {
    fn visit(&mut self, access: Access, visitor: &mut dyn FnMut(Access, AnyReg) -> AnyReg) {
        match self {
            Self::W(register) => register.visit(access, visitor),
            Self::D(register) => register.visit(access, visitor),
        }
    }
}
