//! Which `.target` and which PTX ISA version an instruction needs.
//!
//! One table, [`RULES`], says it for every form that this front end knows; a form needs the most that any
//! row it matches asks for. The table states what NVIDIA's assembler accepts, which is not always what the
//! ISA's text says: `tests/requirements.rs` holds it to `ptxas` for each form of the instruction table.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::LazyLock;

use super::ast::Instruction;

/// What `.target` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Architecture {
    /// 90 of `sm_90a`.
    pub number: u32,
    /// What code of this target may use, and where it runs.
    pub reach: Reach,
}

/// How far the features of a target reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// `sm_90`: this architecture and all later ones.
    Onwards,
    /// `sm_100f`: this one and the later ones of its family.
    Family,
    /// `sm_90a`: this one alone.
    Exact,
}

impl Architecture {
    /// Takes a target's name apart.
    pub fn parse(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("sm_")?;
        let digits = rest.trim_end_matches(|c: char| c.is_ascii_lowercase());
        let reach = match &rest[digits.len()..] {
            "" => Reach::Onwards,
            "f" => Reach::Family,
            "a" => Reach::Exact,
            _ => return None,
        };
        let number = digits.parse().ok()?;
        Some(Self { number, reach })
    }

    /// Whether code for it runs on a device of this compute capability.
    pub fn runs_on(self, (major, minor): (u32, u32)) -> bool {
        let device = u64::from(major) * 10 + u64::from(minor);
        let number = u64::from(self.number);
        match self.reach {
            Reach::Onwards => number <= device,
            Reach::Family => number <= device && number / 10 == u64::from(major),
            Reach::Exact => number == device,
        }
    }

    /// The PTX ISA version that introduced it; `None` if there is no such target.
    pub fn introduced(self) -> Option<(u32, u32)> {
        let row = TARGETS.iter().find(|row| row.0 == self.number)?;
        match self.reach {
            Reach::Onwards => Some(row.1),
            Reach::Exact => row.2,
            Reach::Family => row.3,
        }
    }
}

/// A unit of PTX, as far as its instructions are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    /// `.version`
    pub version: (u32, u32),
    /// `.target`
    pub architecture: Architecture,
}

/// What an instruction needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// This target or a later one.
    pub target: u32,
    /// And one whose name ends in `a` or `f`.
    pub specific: bool,
    /// This version of the PTX ISA or a later one.
    pub version: (u32, u32),
    /// And before a target this version: what a later architecture had first.
    pub before: Option<(u32, (u32, u32))>,
}

impl Needs {
    /// What an instruction needs.
    pub fn of(instruction: &Instruction<'_>) -> Self {
        Self::matching(instruction.opcode, |rule| {
            rule.conditions.iter().all(|condition| {
                let has = |name: &str| instruction.modifiers.contains(&name);
                match condition.strip_prefix('!') {
                    Some(name) => !has(name),
                    None => condition.split(' ').any(has),
                }
            })
        })
    }

    /// What something needs that no modifier tells: a special register, or a form by its operands.
    pub fn of_name(name: &str) -> Self {
        Self::matching(name, |rule| rule.conditions.is_empty())
    }

    fn matching(key: &str, applies: impl Fn(&Rule) -> bool) -> Self {
        let mut needs = Self::default();
        for rule in INDEX.get(key).into_iter().flatten() {
            if applies(rule) {
                needs.target = needs.target.max(rule.needs.target);
                needs.specific |= rule.needs.specific;
                needs.version = needs.version.max(rule.needs.version);
                needs.before = needs.before.or(rule.needs.before);
            }
        }
        needs
    }

    /// What is wrong with a unit that uses it.
    pub fn missing(self, unit: Unit) -> Option<String> {
        let Architecture { number, reach } = unit.architecture;
        let Self {
            target,
            specific,
            mut version,
            before,
        } = self;
        if let Some((target, early)) = before
            && number < target
        {
            version = version.max(early);
        }
        if specific && (number < target || reach == Reach::Onwards) {
            let suffix = if target < 100 {
                "a"
            } else {
                "a, .target sm_100f"
            };
            return Some(format!(
                "this form requires .target sm_{target}{suffix} or a later one that is as specific"
            ));
        }
        if number < target {
            return Some(format!("this form requires .target sm_{target} or higher"));
        }
        let (major, minor) = version;
        (unit.version < version)
            .then(|| format!("this form requires PTX ISA version {major}.{minor} or later"))
    }
}

/// A row of the table.
struct Rule {
    needs: Needs,
    /// Opcodes, or names, separated by blanks.
    of: &'static str,
    /// All must hold. One of these modifiers, separated by blanks, is there; or, after `!`, one is not.
    conditions: &'static [&'static str],
}

/// The target `target` or a later one, and a version.
const fn from(
    target: u32,
    version: (u32, u32),
    of: &'static str,
    conditions: &'static [&'static str],
) -> Rule {
    let needs = Needs {
        target,
        specific: false,
        version,
        before: None,
    };
    Rule {
        needs,
        of,
        conditions,
    }
}

/// As [`from`], but one that is specific to an architecture or a family.
const fn specific(
    target: u32,
    version: (u32, u32),
    of: &'static str,
    conditions: &'static [&'static str],
) -> Rule {
    let mut rule = from(target, version, of, conditions);
    rule.needs.specific = true;
    rule
}

/// As [`from`], with another version for the targets before one.
const fn earlier(mut rule: Rule, target: u32, version: (u32, u32)) -> Rule {
    rule.needs.before = Some((target, version));
    rule
}

static INDEX: LazyLock<HashMap<&str, Vec<&Rule>>> = LazyLock::new(|| {
    let mut index: HashMap<&str, Vec<&Rule>> = HashMap::new();
    for rule in RULES {
        // A name with a blank in it is one name: a form that its operands tell.
        let names: Vec<&str> = match rule.of.split_once(": ") {
            Some(_) => vec![rule.of],
            None => rule.of.split(' ').collect(),
        };
        for name in names {
            index.entry(name).or_default().push(rule);
        }
    }
    index
});

type Version = (u32, u32);

/// Targets, and since when there are `sm_N`, `sm_Na` and `sm_Nf`.
#[rustfmt::skip]
const TARGETS: &[(u32, Version, Option<Version>, Option<Version>)] = &[
    (10, (1, 0), None, None), (11, (1, 0), None, None), (12, (1, 2), None, None), (13, (1, 2), None, None),
    (20, (2, 0), None, None), (30, (3, 0), None, None), (32, (4, 0), None, None), (35, (3, 1), None, None),
    (37, (4, 1), None, None), (50, (4, 0), None, None), (52, (4, 1), None, None), (53, (4, 2), None, None),
    (60, (5, 0), None, None), (61, (5, 0), None, None), (62, (5, 0), None, None), (70, (5, 1), None, None),
    (72, (6, 1), None, None), (75, (6, 3), None, None), (80, (7, 0), None, None), (86, (7, 1), None, None),
    (87, (7, 4), None, None), (88, (9, 0), None, None), (89, (7, 8), None, None),
    (90, (7, 8), Some((8, 0)), None),
    (100, (8, 6), Some((8, 6)), Some((8, 8))),
    (101, (8, 6), Some((8, 6)), Some((8, 8))),
    (103, (8, 8), Some((8, 8)), Some((8, 8))),
    (107, (9, 4), Some((9, 4)), Some((9, 4))),
    (110, (9, 0), Some((9, 0)), Some((9, 0))),
    (120, (8, 7), Some((8, 7)), Some((8, 8))),
    (121, (8, 8), Some((8, 8)), Some((8, 8))),
];

/// Shorthands for conditions.
const HALF: &str = ".f16 .f16x2";
const BRAIN: &str = ".bf16 .bf16x2";
const EIGHT: &str = ".e4m3x2 .e5m2x2";
const SIX: &str = ".e2m3x2 .e3m2x2 .e2m1x2";

/// What forms need, by opcode. What is not here, every target from sm_50 on has in every version from 4.0 on.
#[rustfmt::skip]
const RULES: &[Rule] = &[
    // Integers, bits and moves.
    from(0, (4, 3), "add sub mad addc subc madc", &[".cc", ".u64 .s64"]),
    from(0, (4, 3), "addc subc madc", &[".u64 .s64"]),
    from(0, (4, 3), "lop3", &[]),
    from(70, (8, 2), "lop3", &[".or .and"]),
    from(61, (5, 0), "dp4a dp2a", &[]),
    from(70, (7, 6), "szext bmsk", &[]),
    from(0, (6, 0), "fns", &[]),
    from(90, (8, 0), "add min max", &[".u16x2 .s16x2"]),
    from(90, (8, 0), "min max", &[".relu"]),
    from(0, (4, 1), "%total_smem_size %dynamic_smem_size", &[]),
    from(0, (5, 0), "%clock_hi", &[]),
    from(90, (8, 1), "%aggr_smem_size", &[]),
    from(80, (7, 6), "%reserved_smem_offset_begin %reserved_smem_offset_end %reserved_smem_offset_cap \
                      %reserved_smem_offset_0 %reserved_smem_offset_1", &[]),
    from(90, (7, 8), "%clusterid %nclusterid %cluster_ctaid %cluster_nctaid %cluster_ctarank %cluster_nctarank \
                      %is_explicit_cluster", &[]),

    // Floating point.
    from(53, (4, 2), "add sub mul fma setp", &[HALF]),
    from(53, (4, 2), "set", &[HALF]),
    from(53, (6, 5), "set", &[HALF, ".u16 .s16 .u32 .s32"]),
    from(53, (6, 0), "neg", &[HALF]),
    from(53, (6, 5), "abs", &[HALF]),
    from(80, (7, 0), "min max", &[".f16 .f16x2 .bf16 .bf16x2 .NaN"]),
    from(86, (7, 2), "min max", &[".xorsign"]),
    from(80, (7, 0), "fma abs neg", &[BRAIN]),
    from(80, (7, 0), "fma", &[".relu"]),
    from(90, (7, 8), "add sub mul setp set", &[BRAIN]),
    from(75, (7, 0), "ex2", &[HALF]),
    from(90, (7, 8), "ex2 tanh", &[BRAIN]),
    from(75, (7, 0), "tanh", &[]),
    from(100, (8, 6), "add sub mul fma", &[".f32x2"]),

    // Conversions.
    from(80, (7, 0), "cvt", &[".bf16 .bf16x2", ".f32"]),
    from(80, (7, 1), "cvt", &[".bf16", ".f32", "!.rn", "!.rz"]),
    from(80, (7, 0), "cvt", &[".f16x2", ".f32"]),
    from(80, (7, 0), "cvt", &[".relu", ".f16 .bf16 .f16x2 .bf16x2"]),
    from(70, (8, 1), "cvt", &[".satfinite", ".f32", ".f16 .bf16 .f16x2 .bf16x2"]),
    from(90, (7, 8), "cvt", &[".bf16", "!.f32"]),
    from(80, (7, 0), "cvt", &[".tf32"]),
    from(80, (8, 1), "cvt", &[".tf32", ".satfinite"]),
    from(90, (7, 8), "cvt", &[".tf32", ".rn .rz"]),
    earlier(from(89, (7, 8), "cvt", &[EIGHT]), 90, (8, 1)),
    specific(100, (8, 6), "cvt", &[".e2m3x2 .e3m2x2 .e2m1x2 .ue8m0x2"]),
    specific(100, (9, 1), "cvt", &[SIX, ".satfinite", ".f16x2 .bf16x2"]),
    specific(100, (9, 1), "cvt", &[EIGHT, ".satfinite", ".bf16x2"]),
    specific(100, (9, 2), "cvt", &[".e4m3x2 .e5m2x2 .e2m3x2 .e3m2x2 .e2m1x2", ".bf16x2", "!.satfinite"]),
    from(72, (6, 5), "cvt", &[".pack"]),
    from(75, (6, 5), "cvt", &[".pack", ".u4 .s4 .u2 .s2"]),

    // Memory.
    from(70, (6, 0), "ld st atom red", &[".weak .relaxed .acquire .release .acq_rel"]),
    from(70, (7, 4), "ld st", &[".L1::evict_normal .L1::evict_unchanged .L1::evict_first .L1::evict_last .L1::no_allocate"]),
    from(75, (7, 4), "ld", &[".L2::64B .L2::128B"]),
    from(80, (7, 4), "ld", &[".L2::256B"]),
    from(80, (7, 4), "ld st atom red", &[".L2::cache_hint"]),
    from(60, (5, 0), "atom red", &[".add", ".f64"]),
    from(60, (6, 2), "atom red", &[".add", ".f16x2"]),
    from(70, (6, 3), "atom red", &[".add", ".f16"]),
    from(90, (7, 8), "atom red", &[".add", BRAIN]),
    from(70, (6, 3), "atom", &[".cas", ".b16"]),
    from(90, (8, 1), "atom red", &[".v2 .v4 .v8"]),
    from(100, (8, 8), "ld st", &[".v8"]),
    from(100, (8, 8), "ld st", &[".v4", ".b64 .u64 .s64 .f64"]),
    from(70, (8, 3), ".reg: .b128", &[]),
    from(70, (8, 3), "ld st mov", &[".b128"]),
    from(70, (8, 4), "ld st", &[".b128", ".acquire .release"]),
    from(90, (8, 3), "atom", &[".b128"]),
    from(90, (8, 4), "atom", &[".b128", ".release .acq_rel"]),
    from(70, (6, 0), "fence", &[]),
    from(90, (7, 8), "fence", &[".cluster"]),
    from(70, (7, 5), "fence", &[".proxy"]),
    from(90, (8, 0), "fence", &[".async .mbarrier_init"]),
    from(90, (8, 3), "fence", &[".tensormap::generic"]),
    from(80, (7, 4), "prefetch", &[".L2::evict_last .L2::evict_normal"]),
    from(90, (8, 0), "prefetch", &[".tensormap"]),
    from(80, (7, 4), "applypriority discard createpolicy", &[]),
    from(0, (7, 8), "isspacep", &[".shared::cta"]),
    from(70, (7, 7), "isspacep", &[".param"]),
    from(90, (7, 8), "isspacep", &[".shared::cluster"]),
    from(90, (7, 8), "mapa getctarank", &[]),
    from(52, (7, 3), "alloca stacksave stackrestore", &[]),
    from(0, (4, 1), "txq", &[".array_size .num_mipmap_levels"]),
    from(0, (4, 1), "suq", &[".array_size"]),

    // Control, barriers and what goes across a warp.
    from(0, (6, 0), "brx barrier", &[]),
    from(0, (7, 8), "bar barrier", &[".cta"]),
    from(0, (6, 0), "bar", &[".warp"]),
    from(0, (6, 0), "shfl vote match", &[".sync"]),
    from(70, (6, 0), "match", &[]),
    from(0, (6, 2), "activemask", &[]),
    from(70, (6, 2), "nanosleep", &[]),
    from(80, (7, 0), "redux", &[]),
    from(90, (8, 0), "elect", &[]),
    from(90, (7, 8), "griddepcontrol", &[]),
    specific(90, (8, 0), "setmaxnreg", &[]),

    // Matrices.
    from(70, (6, 3), "wmma", &[]),
    from(72, (6, 3), "wmma", &[".u8 .s8 .s32"]),
    from(75, (6, 3), "wmma", &[".m8n8k32 .m8n8k128"]),
    from(80, (7, 0), "wmma", &[".bf16 .tf32 .f64 .m16n16k8 .m8n8k4"]),
    from(80, (7, 1), "wmma mma", &[".and"]),
    from(70, (6, 4), "mma", &[]),
    from(75, (6, 5), "mma", &[".m16n8k8 .m8n8k16 .m8n8k32"]),
    from(75, (7, 0), "mma", &[".m8n8k128"]),
    from(80, (7, 0), "mma", &[".m16n8k16 .m16n8k32 .m16n8k64 .m16n8k128 .m16n8k256 .bf16 .tf32 .f64"]),
    from(89, (8, 4), "mma", &[".e4m3 .e5m2"]),
    from(89, (8, 7), "mma", &[".e4m3 .e5m2", ".m16n8k16 .f16"]),
    from(90, (7, 8), "mma", &[".f64", ".m16n8k4 .m16n8k8 .m16n8k16"]),
    from(75, (6, 5), "ldmatrix", &[]),
    from(75, (7, 8), "ldmatrix", &[".shared::cta"]),
    from(90, (7, 8), "stmatrix", &[]),
    from(75, (7, 8), "movmatrix", &[]),

    // Asynchronous copies and their barriers.
    from(80, (7, 0), "cp mbarrier", &[]),
    from(80, (7, 4), "cp", &[".L2::64B .L2::128B .L2::256B .L2::cache_hint"]),
    from(80, (7, 5), "cp.async: ignore-src", &[]),
    from(80, (7, 8), "cp", &[".mbarrier", ".shared::cta"]),
    from(90, (8, 0), "cp", &[".bulk"]),
    from(90, (8, 6), "cp", &[".bulk", ".shared::cta", ".mbarrier::complete_tx::bytes", "!.shared::cluster"]),
    from(80, (7, 1), "mbarrier.arrive: no state", &[]),
    from(80, (7, 1), "mbarrier", &[".parity"]),
    from(80, (7, 8), "mbarrier", &[".shared::cta"]),
    from(90, (7, 8), "mbarrier.arrive: a count", &[]),
    from(90, (7, 8), "mbarrier", &[".try_wait"]),
    from(80, (8, 0), "mbarrier", &[".release .acquire"]),
    from(90, (8, 0), "mbarrier", &[".expect_tx .complete_tx .shared::cluster .cluster"]),
    from(90, (8, 6), "mbarrier", &[".relaxed", ".arrive .arrive_drop .test_wait .try_wait"]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_run_where_their_names_say() {
        let runs =
            |name: &str, device| Architecture::parse(name).is_some_and(|a| a.runs_on(device));
        assert!(runs("sm_75", (9, 0)) && runs("sm_90", (9, 0)) && !runs("sm_100", (9, 0)));
        assert!(runs("sm_90a", (9, 0)) && !runs("sm_90a", (10, 0)));
        assert!(runs("sm_100f", (10, 3)) && !runs("sm_100f", (12, 0)) && !runs("sm_103f", (10, 0)));
        assert!(Architecture::parse("compute_90").is_none());
        assert!(Architecture::parse("sm_90x").is_none());
    }

    #[test]
    fn targets_are_known_since_the_version_that_introduced_them() {
        let since = |name: &str| Architecture::parse(name).and_then(Architecture::introduced);
        assert_eq!(since("sm_75"), Some((6, 3)));
        assert_eq!(since("sm_90a"), Some((8, 0)));
        assert_eq!(since("sm_100f"), Some((8, 8)));
        assert_eq!(since("sm_75a"), None);
        assert_eq!(since("sm_33"), None);
    }
}
