//! The syntax tree: PTX as written, with nothing resolved. It borrows from the text.
#![forbid(unsafe_code)]

use super::lexer::Pos;

#[derive(Debug, Default)]
pub struct Module<'a> {
    pub version: (u32, u32),
    pub target: Vec<&'a str>,
    pub target_pos: Pos,
    pub version_pos: Pos,
    pub items: Vec<Item<'a>>,
}

#[derive(Debug)]
pub enum Item<'a> {
    Variable(Variable<'a>),
    Function(Function<'a>),
    /// `.alias name, target`
    Alias {
        pos: Pos,
        name: &'a str,
        target: &'a str,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linkage {
    Internal,
    Visible,
    Weak,
    Common,
    Extern,
}

#[derive(Debug)]
pub struct Variable<'a> {
    pub pos: Pos,
    pub linkage: Linkage,
    /// With its dot.
    pub space: &'a str,
    pub align: Option<u32>,
    /// Elements of `.v2` or `.v4`, else 1.
    pub vector: u32,
    /// With its dot.
    pub ty: &'a str,
    pub name: &'a str,
    /// Array dimensions; 0 for `[]`.
    pub dims: Vec<u64>,
    pub init: Option<Init<'a>>,
}

#[derive(Debug)]
pub enum Init<'a> {
    Value(Value<'a>),
    List(Vec<Init<'a>>),
}

/// A constant: a number, or the address of a symbol plus a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    Int(u64),
    F32(u32),
    F64(u64),
    Symbol {
        name: &'a str,
        addend: i64,
        generic: bool,
    },
}

#[derive(Debug)]
pub struct Function<'a> {
    pub pos: Pos,
    pub linkage: Linkage,
    pub entry: bool,
    pub name: &'a str,
    pub returns: Vec<Variable<'a>>,
    pub params: Vec<Variable<'a>>,
    /// Performance directives: name and values.
    pub directives: Vec<(&'a str, Vec<u32>)>,
    pub body: Option<Vec<Statement<'a>>>,
}

#[derive(Debug)]
pub struct Statement<'a> {
    pub pos: Pos,
    pub kind: StatementKind<'a>,
}

#[derive(Debug)]
pub enum StatementKind<'a> {
    /// `{`
    Open,
    /// `}`
    Close,
    Label(&'a str),
    /// `.reg`: type and names, with their count where it is `name<count>`.
    Registers {
        ty: &'a str,
        vector: u32,
        names: Vec<(&'a str, Option<u32>)>,
    },
    Variable(Variable<'a>),
    /// `label: .branchtargets ...` or `.calltargets`
    Targets(Vec<&'a str>),
    /// `label: .callprototype (returns) _ (params)`
    Prototype {
        returns: Vec<Variable<'a>>,
        params: Vec<Variable<'a>>,
    },
    Instruction(Instruction<'a>),
}

#[derive(Debug)]
pub struct Instruction<'a> {
    /// Whether it is negated, and the predicate.
    pub guard: Option<(bool, &'a str)>,
    pub opcode: &'a str,
    /// With their dots.
    pub modifiers: Vec<&'a str>,
    pub operands: Vec<Operand<'a>>,
    /// Opcode and modifiers as written.
    pub text: &'a str,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Operand<'a> {
    /// A register, a symbol or a label; a vector element keeps its suffix.
    Name(&'a str),
    /// `!name`
    Not(&'a str),
    /// `_`
    Discard,
    Value(Value<'a>),
    /// `[base+offset]`
    Address {
        base: Box<Operand<'a>>,
        offset: i64,
    },
    /// `[object, {a, b, ...}]`, a place in a texture or surface
    Texel {
        object: Box<Operand<'a>>,
        at: Vec<Operand<'a>>,
    },
    /// `{a, b, ...}`
    Vector(Vec<Operand<'a>>),
    /// `a|b`
    Pair(Box<Operand<'a>>, Box<Operand<'a>>),
    /// `(a, b, ...)`
    List(Vec<Operand<'a>>),
}
