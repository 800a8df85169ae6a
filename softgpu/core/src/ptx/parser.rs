//! Tokens to syntax tree.
//!
//! Nested scopes are flat statements, and initialisers and constant expressions may nest only to
//! [`MAX_DEPTH`], so that no text can exhaust the stack.
#![forbid(unsafe_code)]

mod expression;

use super::ast::*;
use super::lexer::{Kind, LexError, Lexer, Pos, Token};
use super::{CompileError, ErrorKind};

/// How deep initialisers and constant expressions may nest.
const MAX_DEPTH: u32 = 32;

type Result<T> = std::result::Result<T, CompileError>;

/// Parses a module.
pub fn parse(text: &str) -> Result<Module<'_>> {
    let mut lexer = Lexer::new(text);
    let token = lexer.next().map_err(lexical)?;
    Parser {
        text,
        lexer,
        token,
        end: 0,
    }
    .module()
}

struct Parser<'a> {
    text: &'a str,
    lexer: Lexer<'a>,
    /// The token not yet taken.
    token: Token<'a>,
    /// Where the last token taken ended.
    end: usize,
}

fn lexical(error: LexError) -> CompileError {
    failure(error.pos, error.reason.to_owned())
}

fn failure(pos: Pos, reason: String) -> CompileError {
    CompileError {
        kind: ErrorKind::InvalidPtx,
        line: pos.line,
        column: pos.column,
        instruction: String::new(),
        reason,
    }
}

impl<'a> Parser<'a> {
    fn module(mut self) -> Result<Module<'a>> {
        let mut module = Module::default();
        while self.token.kind != Kind::End {
            let pos = self.token.pos;
            match self.token.text {
                ".version" => {
                    self.take()?;
                    module.version_pos = pos;
                    module.version = self.version()?;
                }
                ".target" => {
                    self.take()?;
                    module.target_pos = pos;
                    loop {
                        module.target.push(self.word()?);
                        if !self.accept(",")? {
                            break;
                        }
                    }
                }
                ".address_size" => {
                    self.take()?;
                    if self.integer()? != 64 {
                        return Err(failure(pos, "only 64-bit addresses are supported".into()));
                    }
                }
                ".file" | ".loc" => self.skip_line_info()?,
                ".section" => self.skip_section()?,
                ".pragma" => self.skip_past_semicolon()?,
                ";" => {
                    self.take()?;
                }
                _ => self.item(&mut module.items)?,
            }
        }
        Ok(module)
    }

    fn version(&mut self) -> Result<(u32, u32)> {
        let token = self.take()?;
        let parts = token.text.split_once('.');
        match parts.map(|(major, minor)| (major.parse(), minor.parse())) {
            Some((Ok(major), Ok(minor))) => Ok((major, minor)),
            _ => Err(failure(token.pos, "malformed version".into())),
        }
    }

    fn item(&mut self, items: &mut Vec<Item<'a>>) -> Result<()> {
        let pos = self.token.pos;
        let linkage = self.linkage()?;
        match self.token.text {
            ".entry" | ".func" => items.push(Item::Function(self.function(pos, linkage)?)),
            ".alias" => {
                self.take()?;
                let name = self.word()?;
                self.expect(",")?;
                let target = self.word()?;
                self.expect(";")?;
                items.push(Item::Alias { pos, name, target });
            }
            ".global" | ".const" | ".shared" => {
                let space = self.take()?.text;
                self.variables(pos, linkage, space, &mut |variable| {
                    items.push(Item::Variable(variable));
                })?;
            }
            other => {
                let reason = match self.token.kind {
                    Kind::Dotted => format!("directive {other} is not supported here"),
                    _ => format!("expected a directive, found `{}`", shorten(other)),
                };
                return Err(failure(self.token.pos, reason));
            }
        }
        Ok(())
    }

    fn linkage(&mut self) -> Result<Linkage> {
        let mut linkage = Linkage::Internal;
        loop {
            linkage = match self.token.text {
                ".visible" => Linkage::Visible,
                ".extern" => Linkage::Extern,
                ".weak" => Linkage::Weak,
                ".common" => Linkage::Common,
                _ => return Ok(linkage),
            };
            self.take()?;
        }
    }

    fn function(&mut self, pos: Pos, linkage: Linkage) -> Result<Function<'a>> {
        let entry = self.take()?.text == ".entry";
        let mut returns = Vec::new();
        while self.token.text == ".attribute" {
            self.skip_attribute()?;
        }
        if !entry && self.token.text == "(" {
            returns = self.parameters()?;
        }
        let name = self.word()?;
        let params = if self.token.text == "(" {
            self.parameters()?
        } else {
            Vec::new()
        };
        let mut directives = Vec::new();
        loop {
            match self.token.text {
                ".pragma" => self.skip_past_semicolon()?,
                ".maxntid"
                | ".reqntid"
                | ".minnctapersm"
                | ".maxnctapersm"
                | ".maxnreg"
                | ".noreturn"
                | ".maxclusterrank"
                | ".explicitcluster"
                | ".reqnctapercluster"
                | ".unique"
                | ".abi_preserve"
                | ".abi_preserve_control" => {
                    let directive = self.take()?.text;
                    let mut values = Vec::new();
                    while let Kind::Int(value, _) = self.token.kind {
                        let out_of_range = |_| failure(self.token.pos, "value out of range".into());
                        values.push(u32::try_from(value).map_err(out_of_range)?);
                        self.take()?;
                        if !self.accept(",")? {
                            break;
                        }
                    }
                    directives.push((directive, values));
                }
                _ => break,
            }
        }
        let body = match self.token.text {
            "{" => Some(self.body()?),
            _ => {
                self.expect(";")?;
                None
            }
        };
        Ok(Function {
            pos,
            linkage,
            entry,
            name,
            returns,
            params,
            directives,
            body,
        })
    }

    /// `(.param .b32 a, .reg .u32 b)`
    fn parameters(&mut self) -> Result<Vec<Variable<'a>>> {
        self.expect("(")?;
        let mut parameters = Vec::new();
        while self.token.text != ")" {
            let pos = self.token.pos;
            let space = self.take()?.text;
            if !matches!(space, ".param" | ".reg") {
                return Err(failure(
                    pos,
                    format!("expected a parameter, found `{}`", shorten(space)),
                ));
            }
            parameters.push(self.variable(pos, Linkage::Internal, space)?);
            if !self.accept(",")? {
                break;
            }
        }
        self.expect(")")?;
        Ok(parameters)
    }

    fn variables(
        &mut self,
        pos: Pos,
        linkage: Linkage,
        space: &'a str,
        sink: &mut dyn FnMut(Variable<'a>),
    ) -> Result<()> {
        let first = self.variable(pos, linkage, space)?;
        let (align, vector, ty) = (first.align, first.vector, first.ty);
        sink(first);
        while self.accept(",")? {
            let pos = self.token.pos;
            sink(self.declarator(pos, linkage, space, align, vector, ty)?);
        }
        self.expect(";")?;
        Ok(())
    }

    fn variable(&mut self, pos: Pos, linkage: Linkage, space: &'a str) -> Result<Variable<'a>> {
        let (mut align, mut vector, mut ty) = (None, 1, None);
        loop {
            match self.token.text {
                ".align" => {
                    self.take()?;
                    align = Some(self.alignment()?);
                }
                ".v2" => {
                    self.take()?;
                    vector = 2;
                }
                ".v4" => {
                    self.take()?;
                    vector = 4;
                }
                ".attribute" => self.skip_attribute()?,
                // Hints about what a pointer parameter points to.
                ".ptr" => {
                    self.take()?;
                    while matches!(self.token.text, ".global" | ".const" | ".local" | ".shared") {
                        self.take()?;
                    }
                    if self.accept(".align")? {
                        self.alignment()?;
                    }
                }
                text if self.token.kind == Kind::Dotted && ty.is_none() => {
                    ty = Some(text);
                    self.take()?;
                }
                _ => break,
            }
        }
        let ty = ty.ok_or_else(|| failure(self.token.pos, "expected a type".into()))?;
        self.declarator(pos, linkage, space, align, vector, ty)
    }

    fn alignment(&mut self) -> Result<u32> {
        let pos = self.token.pos;
        match u32::try_from(self.integer()?) {
            Ok(align) if align.is_power_of_two() && align <= 1024 => Ok(align),
            _ => Err(failure(
                pos,
                "alignment must be a power of two up to 1024".into(),
            )),
        }
    }

    fn declarator(
        &mut self,
        pos: Pos,
        linkage: Linkage,
        space: &'a str,
        align: Option<u32>,
        vector: u32,
        ty: &'a str,
    ) -> Result<Variable<'a>> {
        let name = self.word()?;
        let mut dims = Vec::new();
        while self.accept("[")? {
            dims.push(if self.token.text == "]" {
                0
            } else {
                self.integer()?
            });
            self.expect("]")?;
            if dims.len() > 8 {
                return Err(failure(pos, "more than 8 array dimensions".into()));
            }
        }
        let init = if self.accept("=")? {
            Some(self.initializer(0)?)
        } else {
            None
        };
        Ok(Variable {
            pos,
            linkage,
            space,
            align,
            vector,
            ty,
            name,
            dims,
            init,
        })
    }

    fn initializer(&mut self, depth: u32) -> Result<Init<'a>> {
        self.check_depth(depth)?;
        if !self.accept("{")? {
            return Ok(Init::Value(self.value(0)?));
        }
        let mut list = Vec::new();
        while self.token.text != "}" {
            list.push(self.initializer(depth + 1)?);
            if !self.accept(",")? {
                break;
            }
        }
        self.expect("}")?;
        Ok(Init::List(list))
    }

    fn body(&mut self) -> Result<Vec<Statement<'a>>> {
        self.expect("{")?;
        let mut statements = Vec::new();
        let mut depth = 0u32;
        loop {
            let pos = self.token.pos;
            match self.token.text {
                "{" => {
                    self.take()?;
                    depth += 1;
                    statements.push(Statement {
                        pos,
                        kind: StatementKind::Open,
                    });
                }
                "}" => {
                    self.take()?;
                    if depth == 0 {
                        return Ok(statements);
                    }
                    depth -= 1;
                    statements.push(Statement {
                        pos,
                        kind: StatementKind::Close,
                    });
                }
                ";" => {
                    self.take()?;
                }
                ".loc" | ".file" => self.skip_line_info()?,
                ".pragma" => self.skip_past_semicolon()?,
                _ => self.statement(pos, &mut statements)?,
            }
        }
    }

    fn statement(&mut self, pos: Pos, statements: &mut Vec<Statement<'a>>) -> Result<()> {
        match self.token.kind {
            Kind::End => return Err(failure(pos, "function body without an end".into())),
            Kind::Dotted if self.token.text == ".reg" => {
                self.take()?;
                let vector = match self.token.text {
                    ".v2" => 2,
                    ".v4" => 4,
                    _ => 1,
                };
                if vector > 1 {
                    self.take()?;
                }
                let ty = self.take()?;
                if ty.kind != Kind::Dotted {
                    return Err(failure(ty.pos, "expected a type".into()));
                }
                let mut names = Vec::new();
                loop {
                    let name = self.word()?;
                    let mut count = None;
                    if self.accept("<")? {
                        let pos = self.token.pos;
                        let value = u32::try_from(self.single_integer()?);
                        count = Some(value.map_err(|_| failure(pos, "value out of range".into()))?);
                        self.expect(">")?;
                    }
                    names.push((name, count));
                    if !self.accept(",")? {
                        break;
                    }
                }
                self.expect(";")?;
                let kind = StatementKind::Registers {
                    ty: ty.text,
                    vector,
                    names,
                };
                statements.push(Statement { pos, kind });
            }
            Kind::Dotted => {
                let space = self.take()?.text;
                if !matches!(
                    space,
                    ".local" | ".shared" | ".param" | ".const" | ".global"
                ) {
                    return Err(failure(
                        pos,
                        format!("directive {space} is not supported here"),
                    ));
                }
                self.variables(pos, Linkage::Internal, space, &mut |variable| {
                    let kind = StatementKind::Variable(variable);
                    statements.push(Statement { pos, kind });
                })?;
            }
            Kind::Word => {
                let word = self.take()?;
                if !self.accept(":")? {
                    let kind = StatementKind::Instruction(self.instruction(None, word)?);
                    statements.push(Statement { pos, kind });
                    return Ok(());
                }
                statements.push(Statement {
                    pos,
                    kind: StatementKind::Label(word.text),
                });
                if matches!(self.token.text, ".branchtargets" | ".calltargets") {
                    self.take()?;
                    let mut targets = Vec::new();
                    loop {
                        targets.push(self.word()?);
                        if !self.accept(",")? {
                            break;
                        }
                    }
                    self.expect(";")?;
                    statements.push(Statement {
                        pos,
                        kind: StatementKind::Targets(targets),
                    });
                } else if self.token.text == ".callprototype" {
                    self.take()?;
                    let returns = if self.token.text == "(" {
                        self.parameters()?
                    } else {
                        Vec::new()
                    };
                    self.word()?;
                    let params = if self.token.text == "(" {
                        self.parameters()?
                    } else {
                        Vec::new()
                    };
                    self.accept(".noreturn")?;
                    self.expect(";")?;
                    let kind = StatementKind::Prototype { returns, params };
                    statements.push(Statement { pos, kind });
                }
            }
            _ if self.token.text == "@" => {
                self.take()?;
                let negate = self.accept("!")?;
                let predicate = self.word()?;
                let word = self.take()?;
                if word.kind != Kind::Word {
                    return Err(failure(word.pos, "expected an instruction".into()));
                }
                let guard = Some((negate, predicate));
                let kind = StatementKind::Instruction(self.instruction(guard, word)?);
                statements.push(Statement { pos, kind });
            }
            _ => {
                let text = shorten(self.token.text);
                return Err(failure(
                    pos,
                    format!("expected a statement, found `{text}`"),
                ));
            }
        }
        Ok(())
    }

    fn instruction(
        &mut self,
        guard: Option<(bool, &'a str)>,
        opcode: Token<'a>,
    ) -> Result<Instruction<'a>> {
        let mut modifiers = Vec::new();
        while self.token.kind == Kind::Dotted {
            modifiers.push(self.take()?.text);
        }
        let text = &self.text[opcode.offset..self.end];
        let mut operands = Vec::new();
        if self.token.text != ";" {
            loop {
                operands.push(self.operand(opcode.text == "call")?);
                if !self.accept(",")? {
                    break;
                }
            }
        }
        self.expect(";")?;
        Ok(Instruction {
            guard,
            opcode: opcode.text,
            modifiers,
            operands,
            text,
        })
    }

    fn operand(&mut self, call: bool) -> Result<Operand<'a>> {
        let pos = self.token.pos;
        let operand = match (self.token.kind, self.token.text) {
            (Kind::Punct, "[") => {
                self.take()?;
                let base = match self.token.kind {
                    Kind::Word => Operand::Name(self.name()?),
                    _ => Operand::Value(self.value(0)?),
                };
                let mut offset = 0i64;
                while matches!(self.token.text, "+" | "-") {
                    let negate = self.take()?.text == "-";
                    let Value::Int(value) = self.unary(0)? else {
                        return Err(failure(pos, "address offset must be an integer".into()));
                    };
                    let value = value.cast_signed();
                    offset = if negate {
                        offset.wrapping_sub(value)
                    } else {
                        offset.wrapping_add(value)
                    };
                }
                if offset == 0 && self.accept(",")? {
                    let at = match self.operand(false)? {
                        Operand::Vector(at) => at,
                        one => vec![one],
                    };
                    self.expect("]")?;
                    return Ok(Operand::Texel {
                        object: Box::new(base),
                        at,
                    });
                }
                self.expect("]")?;
                Operand::Address {
                    base: Box::new(base),
                    offset,
                }
            }
            (Kind::Punct, "{") => {
                self.take()?;
                Operand::Vector(self.simple_list("}")?)
            }
            (Kind::Punct, "(") if call => {
                self.take()?;
                Operand::List(self.simple_list(")")?)
            }
            _ => self.simple_operand()?,
        };
        if self.accept("|")? {
            let second = self.simple_operand()?;
            return Ok(Operand::Pair(Box::new(operand), Box::new(second)));
        }
        Ok(operand)
    }

    fn simple_list(&mut self, end: &str) -> Result<Vec<Operand<'a>>> {
        let mut list = Vec::new();
        while self.token.text != end {
            list.push(self.simple_operand()?);
            if !self.accept(",")? {
                break;
            }
        }
        self.expect(end)?;
        Ok(list)
    }

    fn simple_operand(&mut self) -> Result<Operand<'a>> {
        match (self.token.kind, self.token.text) {
            (Kind::Word, "_") => {
                self.take()?;
                Ok(Operand::Discard)
            }
            (Kind::Word, "generic") => Ok(Operand::Value(self.value(0)?)),
            (Kind::Word, _) => {
                let name = self.name()?;
                if !matches!(self.token.text, "+" | "-") {
                    return Ok(Operand::Name(name));
                }
                let negate = self.take()?.text == "-";
                let pos = self.token.pos;
                let Value::Int(value) = self.unary(0)? else {
                    return Err(failure(pos, "symbol offset must be an integer".into()));
                };
                let value = value.cast_signed();
                let addend = if negate { value.wrapping_neg() } else { value };
                Ok(Operand::Value(Value::Symbol {
                    name,
                    addend,
                    generic: false,
                }))
            }
            (Kind::Punct, "!") => {
                self.take()?;
                match self.token.kind {
                    Kind::Word => Ok(Operand::Not(self.name()?)),
                    _ => match self.unary(0)? {
                        Value::Int(value) => Ok(Operand::Value(Value::Int(u64::from(value == 0)))),
                        other => Ok(Operand::Value(other)),
                    },
                }
            }
            _ => Ok(Operand::Value(self.value(0)?)),
        }
    }

    /// A name with its element suffix, as in `%tid.x`.
    fn name(&mut self) -> Result<&'a str> {
        let start = self.token.offset;
        self.word()?;
        if self.token.kind == Kind::Dotted && self.token.offset == self.end {
            self.take()?;
        }
        Ok(&self.text[start..self.end])
    }

    /// An integer without operators: in `%r<5>` the `>` ends it.
    fn single_integer(&mut self) -> Result<u64> {
        let pos = self.token.pos;
        match self.unary(0)? {
            Value::Int(value) => Ok(value),
            _ => Err(failure(pos, "expected an integer".into())),
        }
    }

    fn integer(&mut self) -> Result<u64> {
        let pos = self.token.pos;
        match self.value(0)? {
            Value::Int(value) => Ok(value),
            _ => Err(failure(pos, "expected an integer".into())),
        }
    }

    fn check_depth(&self, depth: u32) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(failure(self.token.pos, "nested too deeply".into()));
        }
        Ok(())
    }

    fn take(&mut self) -> Result<Token<'a>> {
        let token = self.token;
        self.end = token.offset + token.text.len();
        self.token = self.lexer.next().map_err(lexical)?;
        Ok(token)
    }

    fn accept(&mut self, text: &str) -> Result<bool> {
        let found = self.token.text == text;
        if found {
            self.take()?;
        }
        Ok(found)
    }

    fn expect(&mut self, text: &str) -> Result<()> {
        if self.accept(text)? {
            return Ok(());
        }
        let found = match self.token.kind {
            Kind::End => "the end of the text".to_owned(),
            _ => format!("`{}`", shorten(self.token.text)),
        };
        Err(failure(
            self.token.pos,
            format!("expected `{text}`, found {found}"),
        ))
    }

    fn word(&mut self) -> Result<&'a str> {
        match self.token.kind {
            Kind::Word => Ok(self.take()?.text),
            _ => {
                let text = shorten(self.token.text);
                Err(failure(
                    self.token.pos,
                    format!("expected a name, found `{text}`"),
                ))
            }
        }
    }

    fn skip_past_semicolon(&mut self) -> Result<()> {
        while !matches!(self.token.text, ";") && self.token.kind != Kind::End {
            self.take()?;
        }
        self.expect(";")
    }

    /// `.attribute(.managed)`: managed memory is ordinary memory here.
    fn skip_attribute(&mut self) -> Result<()> {
        self.take()?;
        self.expect("(")?;
        while self.token.text != ")" && self.token.kind != Kind::End {
            self.take()?;
        }
        self.expect(")")
    }

    /// `.file 1 "name", 3, 4` and `.loc 1 2 3, function_name $x, inlined_at 1 2 3`
    fn skip_line_info(&mut self) -> Result<()> {
        self.take()?;
        loop {
            match self.token.kind {
                Kind::Int(..) | Kind::Text => {}
                Kind::Punct if matches!(self.token.text, "," | "+") => {}
                Kind::Word if matches!(self.token.text, "function_name" | "inlined_at") => {
                    if self.take()?.text == "function_name" {
                        self.word()?;
                    }
                    continue;
                }
                _ => return Ok(()),
            }
            self.take()?;
        }
    }

    /// `.section .debug_info { ... }`
    fn skip_section(&mut self) -> Result<()> {
        while self.token.text != "{" && self.token.kind != Kind::End {
            self.take()?;
        }
        self.expect("{")?;
        while self.token.text != "}" && self.token.kind != Kind::End {
            self.take()?;
        }
        self.expect("}")
    }
}

/// Text for a message, cut to a sensible length.
fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}
