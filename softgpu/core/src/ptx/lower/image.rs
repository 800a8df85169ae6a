//! Texture and surface instructions.
//!
//! Objects are 64-bit values that a program passes to its kernels (the unified mode, which is the default).
//! References declared in the module (`.texref`, `.samplerref`, `.surfref`) are not supported.
#![forbid(unsafe_code)]

use super::super::ast::{Instruction, Operand};
use super::super::ir::*;
use super::super::types::Ty;
use super::Result;
use super::builder::Builder;

const GEOMETRIES: &[(&str, Geometry)] = &[
    (".1d", Geometry::D1),
    (".2d", Geometry::D2),
    (".3d", Geometry::D3),
    (".a1d", Geometry::A1),
    (".a2d", Geometry::A2),
    (".cube", Geometry::Cube),
    (".acube", Geometry::ACube),
];

const CACHES: &[&str] = &[".ca", ".cg", ".cs", ".cv", ".wb", ".wt"];

impl<'a> Builder<'_, 'a> {
    pub(super) fn image(&mut self, i: &Instruction<'a>) -> Result<bool> {
        match i.opcode {
            "tex" | "tld4" => self.fetch(i)?,
            "txq" | "suq" => self.image_query(i)?,
            "suld" => self.surface_load(i)?,
            "sust" => self.surface_store(i)?,
            "sured" => self.surface_reduce(i)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn geometry(&self, modifier: Option<&&'a str>) -> Result<Geometry> {
        let name = modifier.copied().unwrap_or_default();
        let found = GEOMETRIES.iter().find(|(known, _)| *known == name);
        found
            .map(|(_, geometry)| *geometry)
            .ok_or_else(|| self.error(format!("geometry {name} is not supported")))
    }

    fn fetch(&mut self, i: &Instruction<'a>) -> Result<()> {
        let mut modifiers = i.modifiers.iter().copied().peekable();
        let gather = if i.opcode == "tld4" {
            Some(match modifiers.next() {
                Some(".r") => 0,
                Some(".g") => 1,
                Some(".b") => 2,
                Some(".a") => 3,
                _ => return Err(self.error("a component is needed")),
            })
        } else {
            None
        };
        let level = modifiers.next_if(|m| matches!(*m, ".base" | ".level" | ".grad"));
        let geometry = self.geometry(modifiers.next().as_ref())?;
        if gather.is_some() && matches!(geometry, Geometry::D1 | Geometry::D3 | Geometry::A1) {
            return Err(self.error("geometry is not supported"));
        }
        if modifiers.next() != Some(".v4") {
            return Err(self.error("only results of four elements are supported"));
        }
        let (result, coordinate) = (modifiers.next(), modifiers.next());
        if !matches!(result, Some(".f32" | ".s32" | ".u32")) {
            let name = result.unwrap_or_default();
            return Err(self.error(format!("result type {name} is not supported")));
        }
        let integer = match coordinate {
            Some(".f32") => false,
            Some(".s32") if gather.is_none() => true,
            _ => return Err(self.error("coordinate type is not supported")),
        };
        if let Some(other) = modifiers.next() {
            return Err(self.error(format!("modifier {other} is not supported")));
        }
        if integer && matches!(geometry, Geometry::Cube | Geometry::ACube) {
            return Err(self.error("cubes have no integer coordinates"));
        }
        let extra = match level {
            Some(".level") => 1,
            Some(".grad") => 2,
            _ => 0,
        };
        self.arity(i, 2 + extra)?;
        let (object, at) = self.texel(&i.operands[1], geometry, integer)?;
        let level = match level {
            Some(".level") if integer => Some(self.integer_level(&i.operands[2])?),
            Some(".level") => Some(self.w(&i.operands[2], Ty::F32)?),
            Some(".grad") => {
                let d = self.temp_w()?;
                let (dx, dy) = (
                    self.gradient(&i.operands[2], geometry)?,
                    self.gradient(&i.operands[3], geometry)?,
                );
                self.emit(Op::DetailLevel { object, dx, dy, d })?;
                Some(d)
            }
            _ => None,
        };
        let Operand::Vector(list) = &i.operands[0] else {
            return Err(self.error("a vector destination is needed"));
        };
        let d = self.results(list, 4)?;
        let spec = Fetch {
            geometry,
            integer,
            gather,
        };
        self.emit(Op::Fetch {
            spec,
            object,
            at,
            level,
            d,
        })
    }

    /// A level given as an integer, as the floating-point number that other levels are.
    fn integer_level(&mut self, operand: &Operand<'a>) -> Result<W> {
        let (a, d) = (self.w(operand, Ty::S32)?, self.temp_w()?);
        self.emit(Op::Convert {
            spec: Conversion {
                from: Scalar::S32,
                to: Scalar::F32,
                round: Round::Nearest,
                integral: false,
                sat: false,
                relu: false,
                finite: false,
                ftz: false,
            },
            a: AnyReg::W(a),
            d: AnyReg::W(d),
        })?;
        Ok(d)
    }

    fn gradient(&mut self, operand: &Operand<'a>, geometry: Geometry) -> Result<[Option<W>; 3]> {
        let count = match geometry {
            Geometry::D1 | Geometry::A1 => 1,
            Geometry::D2 | Geometry::A2 => 2,
            Geometry::D3 | Geometry::Cube | Geometry::ACube => 3,
        };
        let list = match operand {
            Operand::Vector(list) => &list[..],
            one => std::slice::from_ref(one),
        };
        if list.len() < count {
            return Err(self.error("derivatives are missing"));
        }
        let mut d = [None; 3];
        for (slot, element) in d.iter_mut().zip(&list[..count]) {
            *slot = Some(self.w(element, Ty::F32)?);
        }
        Ok(d)
    }

    /// The object and the coordinates of a texel; vectors may be padded.
    fn texel(
        &mut self,
        operand: &Operand<'a>,
        geometry: Geometry,
        integer: bool,
    ) -> Result<(D, [Option<W>; 4])> {
        let Operand::Texel { object, at: list } = operand else {
            return Err(self.error("a texture or surface and coordinates are needed"));
        };
        let object = self.image_object(object)?;
        let count = geometry.coordinates();
        if list.len() < count || list.len() > count.next_power_of_two() {
            return Err(self.error(format!("{count} coordinates are needed")));
        }
        let mut at = [None; 4];
        for (place, (slot, element)) in at.iter_mut().zip(&list[..count]).enumerate() {
            let layer = place == 0 && geometry.layered();
            let ty = if integer || layer { Ty::S32 } else { Ty::F32 };
            *slot = Some(self.w(element, ty)?);
        }
        Ok((object, at))
    }

    fn image_object(&mut self, operand: &Operand<'a>) -> Result<D> {
        match self.declared(operand)? {
            Some((AnyReg::D(d), _)) => Ok(d),
            _ => Err(self.error(
                "the object is not a 64-bit register; texture and surface references are not supported",
            )),
        }
    }

    fn results(&mut self, list: &[Operand<'a>], count: usize) -> Result<[Option<W>; 4]> {
        if list.len() != count {
            return Err(self.error(format!("{count} registers are needed")));
        }
        let mut d = [None; 4];
        for (slot, element) in d.iter_mut().zip(list) {
            if *element != Operand::Discard {
                *slot = Some(self.dest_w(element)?);
            }
        }
        Ok(d)
    }

    fn image_query(&mut self, i: &Instruction<'a>) -> Result<()> {
        use ImageProperty as Q;
        let texture = i.opcode == "txq";
        let mut modifiers = i.modifiers.iter().copied().peekable();
        let of_level = texture && modifiers.next_if_eq(&".level").is_some();
        let property = match modifiers.next() {
            Some(".width") => Q::Width,
            Some(".height") => Q::Height,
            Some(".depth") => Q::Depth,
            Some(".channel_data_type") if !of_level => Q::ChannelType,
            Some(".channel_order") if !of_level => Q::ChannelOrder,
            Some(".array_size") if !of_level => Q::ArraySize,
            Some(".normalized_coords") if texture && !of_level => Q::NormalizedCoordinates,
            Some(".num_mipmap_levels") if texture && !of_level => Q::LevelCount,
            Some(".num_samples") if texture && !of_level => Q::SampleCount,
            Some(".force_unnormalized_coords") if texture && !of_level => Q::ForceUnnormalized,
            Some(".filter_mode") if texture && !of_level => Q::FilterMode,
            Some(".addr_mode_0") if texture && !of_level => Q::AddressMode(0),
            Some(".addr_mode_1") if texture && !of_level => Q::AddressMode(1),
            Some(".addr_mode_2") if texture && !of_level => Q::AddressMode(2),
            Some(".memory_layout") if !texture => Q::MemoryLayout,
            other => {
                let name = other.unwrap_or_default();
                return Err(self.error(format!("query {name} is not supported")));
            }
        };
        if modifiers.next() != Some(".b32") {
            return Err(self.error("the type must be .b32"));
        }
        self.arity(i, 2 + usize::from(of_level))?;
        let Operand::Address { base, offset: 0 } = &i.operands[1] else {
            return Err(self.error("an object in brackets is needed"));
        };
        let object = self.image_object(base)?;
        let level = match i.operands.get(2) {
            Some(level) => Some(self.w(level, Ty::S32)?),
            None => None,
        };
        let d = self.dest_w(&i.operands[0])?;
        self.emit(Op::ImageQuery {
            property,
            object,
            level,
            d,
        })
    }

    /// Form, geometry, elements, type and what happens outside: the modifiers of surface accesses.
    fn surface(&self, i: &Instruction<'a>) -> Result<(bool, SurfaceAccess, Ty)> {
        let mut modifiers = i.modifiers.iter().copied().peekable();
        let formatted = match modifiers.next() {
            Some(".b") => false,
            Some(".p") => true,
            _ => return Err(self.error("form is not supported")),
        };
        if i.opcode == "sured" {
            // The operation comes next; the caller reads it.
            modifiers.next();
        }
        let geometry = self.geometry(modifiers.next().as_ref())?;
        if matches!(geometry, Geometry::Cube | Geometry::ACube) {
            return Err(self.error("surfaces of cubes are accessed as layers"));
        }
        modifiers.next_if(|m| CACHES.contains(m));
        let count = match modifiers.peek() {
            Some(&".v2") => 2u8,
            Some(&".v4") => 4,
            _ => 1,
        };
        if count > 1 {
            modifiers.next();
        }
        let ty = modifiers.next().and_then(Ty::parse);
        let ty = ty.ok_or_else(|| self.error("a type is needed"))?;
        let outside = match modifiers.next() {
            Some(".trap") => Outside::Trap,
            Some(".clamp") => Outside::Clamp,
            Some(".zero") => Outside::Zero,
            _ => return Err(self.error("what happens outside must be .trap, .clamp or .zero")),
        };
        if let Some(other) = modifiers.next() {
            return Err(self.error(format!("modifier {other} is not supported")));
        }
        // At most 8 bytes an element.
        let bytes = u8::try_from(ty.bytes()).unwrap_or(8).saturating_mul(count);
        if bytes > 16 {
            return Err(self.error("an access has 16 bytes at most"));
        }
        let spec = SurfaceAccess {
            geometry,
            outside,
            bytes: if formatted { 0 } else { bytes },
            count,
        };
        Ok((formatted, spec, ty))
    }

    fn surface_load(&mut self, i: &Instruction<'a>) -> Result<()> {
        self.arity(i, 2)?;
        let (formatted, spec, ty) = self.surface(i)?;
        if formatted {
            return Err(self.error("only the .b form is supported"));
        }
        let list = elements(&i.operands[0]);
        let (object, at) = self.texel(&i.operands[1], spec.geometry, true)?;
        match ty {
            Ty::B8 | Ty::B16 | Ty::B32 => {
                let d = self.results(list, usize::from(spec.count))?;
                self.emit(Op::SurfaceLoad {
                    spec,
                    object,
                    at,
                    d,
                })
            }
            Ty::B64 => {
                if list.len() != usize::from(spec.count) {
                    return Err(self.error(format!("{} registers are needed", spec.count)));
                }
                let (mut d, mut pairs) = ([None; 4], Vec::new());
                for (place, element) in list.iter().enumerate() {
                    let (lo, hi) = (self.temp_w()?, self.temp_w()?);
                    (d[2 * place], d[2 * place + 1]) = (Some(lo), Some(hi));
                    if *element != Operand::Discard {
                        pairs.push((lo, hi, self.dest_d(element)?));
                    }
                }
                let spec = SurfaceAccess {
                    count: 2 * spec.count,
                    ..spec
                };
                self.emit(Op::SurfaceLoad {
                    spec,
                    object,
                    at,
                    d,
                })?;
                for (lo, hi, d) in pairs {
                    self.emit(Op::PackD { lo, hi, d })?;
                }
                Ok(())
            }
            _ => Err(self.error("the type must be .b8, .b16, .b32 or .b64")),
        }
    }

    fn surface_store(&mut self, i: &Instruction<'a>) -> Result<()> {
        self.arity(i, 2)?;
        let (formatted, mut spec, ty) = self.surface(i)?;
        let (object, at) = self.texel(&i.operands[0], spec.geometry, true)?;
        let list = elements(&i.operands[1]);
        if list.len() != usize::from(spec.count) {
            return Err(self.error(format!("{} registers are needed", spec.count)));
        }
        let mut a = [None; 4];
        match ty {
            Ty::B8 | Ty::B16 if !formatted => {
                for (slot, element) in a.iter_mut().zip(list) {
                    *slot = Some(self.w(element, ty)?);
                }
            }
            Ty::B32 => {
                for (slot, element) in a.iter_mut().zip(list) {
                    *slot = Some(self.w(element, ty)?);
                }
            }
            Ty::U32 | Ty::S32 | Ty::F32 if formatted => {
                for (slot, element) in a.iter_mut().zip(list) {
                    *slot = Some(self.w(element, ty)?);
                }
            }
            Ty::B64 if !formatted => {
                for (place, element) in list.iter().enumerate() {
                    let (lo, hi, wide) =
                        (self.temp_w()?, self.temp_w()?, self.d(element, Ty::B64)?);
                    self.emit(Op::UnpackD {
                        a: wide,
                        lo: Some(lo),
                        hi: Some(hi),
                    })?;
                    (a[2 * place], a[2 * place + 1]) = (Some(lo), Some(hi));
                }
                spec.count *= 2;
            }
            _ => return Err(self.error("type is not supported")),
        }
        self.emit(Op::SurfaceStore {
            spec,
            object,
            at,
            a,
        })
    }

    fn surface_reduce(&mut self, i: &Instruction<'a>) -> Result<()> {
        self.arity(i, 2)?;
        let (formatted, spec, ty) = self.surface(i)?;
        if spec.count != 1 {
            return Err(self.error("one element is reduced"));
        }
        if formatted != (ty == Ty::B32) && !matches!(i.modifiers.get(1), Some(&(".and" | ".or"))) {
            return Err(self.error("type is not supported"));
        }
        let signed = matches!(ty, Ty::S32 | Ty::S64);
        let f = match i.modifiers.get(1).copied() {
            Some(".add") => SurfaceOp::Add,
            Some(".min") if signed => SurfaceOp::MinS,
            Some(".min") => SurfaceOp::MinU,
            Some(".max") if signed => SurfaceOp::MaxS,
            Some(".max") => SurfaceOp::MaxU,
            Some(".and") => SurfaceOp::And,
            Some(".or") => SurfaceOp::Or,
            _ => return Err(self.error("operation is not supported")),
        };
        let (object, at) = self.texel(&i.operands[0], spec.geometry, true)?;
        let mut a = [None; 2];
        match ty {
            // Of a formatted one the surface tells the type.
            Ty::U32 | Ty::S32 | Ty::B32 => a[0] = Some(self.w(&i.operands[1], ty)?),
            Ty::U64 | Ty::S64 | Ty::B64 if !formatted => {
                let (lo, hi) = (self.temp_w()?, self.temp_w()?);
                let wide = self.d(&i.operands[1], ty)?;
                self.emit(Op::UnpackD {
                    a: wide,
                    lo: Some(lo),
                    hi: Some(hi),
                })?;
                a = [Some(lo), Some(hi)];
            }
            _ => return Err(self.error("type is not supported")),
        }
        self.emit(Op::SurfaceReduce {
            spec,
            f,
            object,
            at,
            a,
        })
    }
}

fn elements<'i, 'a>(operand: &'i Operand<'a>) -> &'i [Operand<'a>] {
    match operand {
        Operand::Vector(list) => list,
        one => std::slice::from_ref(one),
    }
}
