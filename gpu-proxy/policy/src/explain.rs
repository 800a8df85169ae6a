//! What a policy makes of one call, and why.

#![forbid(unsafe_code)]

use std::fmt;

use cuda_abi::function::{FunctionInfo, Group};
use cuda_abi::resolver::EXPORTS;

use crate::{Policy, group_names};

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The zone is granted its group.
    Allowed,
    /// It needs no grant.
    NeverRefused,
    /// The tenant gets `CUDA_ERROR_NOT_PERMITTED` (of NVML, `NVML_ERROR_NO_PERMISSION`).
    Refused,
    /// No policy can allow it: it is not implemented.
    NotSupported,
}

/// A verdict and its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The zone.
    pub zone: String,
    /// The call, as the library exports it.
    pub call: String,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Which rule decides, and where it stands.
    pub rule: String,
    /// Why it does.
    pub why: String,
    /// What to change if it should be otherwise.
    pub remedy: Option<String>,
}

/// There is no such call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownCall(String);

impl fmt::Display for UnknownCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let call = &self.0;
        write!(f, "{call} is no function of the Driver API or of NVML")?;
        if call.starts_with("cuda") {
            f.write_str("; the runtime makes calls of the Driver API: name one of those")?;
        }
        Ok(())
    }
}

impl std::error::Error for UnknownCall {}

/// What is known about a name.
enum Call {
    Declared(&'static FunctionInfo),
    /// Exported, and refused whatever the policy says.
    Unimplemented(&'static str),
    Nvml,
}

impl Policy {
    /// What the policy makes of a call in a zone.
    ///
    /// # Errors
    /// [`UnknownCall`].
    pub fn explain(&self, zone: &str, call: &str) -> Result<Explanation, UnknownCall> {
        let found = find(call).ok_or_else(|| UnknownCall(call.to_owned()))?;
        let file = self.file.display();
        let rule = self.rule(zone);
        let groups = rule.map_or(0, |rule| rule.groups);
        let place = match rule {
            Some(rule) => format!(
                "{file}:{}: zone \"{zone}\" is granted {}",
                rule.line,
                group_names(groups)
            ),
            None => format!("{file}: no [[zone]] names \"{zone}\", so it is granted nothing"),
        };
        let explanation = |call: &str, verdict, why: String, remedy| Explanation {
            zone: zone.to_owned(),
            call: call.to_owned(),
            verdict,
            rule: place.clone(),
            why,
            remedy,
        };
        let (name, required, audit) = match found {
            Call::Unimplemented(name) => {
                let why = "the function is not implemented: CUDA_ERROR_NOT_SUPPORTED".to_owned();
                return Ok(explanation(name, Verdict::NotSupported, why, None));
            }
            Call::Declared(info) => (info.name, info.requires, info.audit_class()),
            Call::Nvml => (call, Some(Group::Nvml), None),
        };
        let does = audit.map_or_else(
            || "it asks what NVML tells".to_owned(),
            |class| format!("it {} (audit class {})", class.about, class.name),
        );
        Ok(match required {
            Some(group) if groups & group.bit() != 0 => {
                let why = format!(
                    "{does} and belongs to group {}, which is granted",
                    belongs(group)
                );
                explanation(name, Verdict::Allowed, why, None)
            }
            Some(group) => {
                let why = format!(
                    "{does} and belongs to group {}, which is not granted",
                    belongs(group)
                );
                let remedy = match rule {
                    Some(rule) => format!(
                        "add \"{}\" to allow in the [[zone]] at line {}, then vgpuctl policy reload",
                        group.name(),
                        rule.line
                    ),
                    None => format!(
                        "add a [[zone]] with name = \"{zone}\" and allow = [\"{}\"], then vgpuctl policy reload",
                        group.name()
                    ),
                };
                explanation(name, Verdict::Refused, why, Some(remedy))
            }
            None if groups & !Group::Nvml.bit() == 0 => {
                let why = format!(
                    "{does}, which a program that is attached may always do, but in a zone that is granted nothing (or nvml alone) no program attaches: cuInit is refused"
                );
                let remedy = format!("allow zone \"{zone}\" a group, then vgpuctl policy reload");
                explanation(name, Verdict::Refused, why, Some(remedy))
            }
            None => {
                let why = format!("{does}; that acquires and runs nothing and needs no grant");
                explanation(name, Verdict::NeverRefused, why, None)
            }
        })
    }
}

fn belongs(group: Group) -> String {
    format!("{} ({})", group.name(), group.about())
}

/// Looks a name up as programs and people write it: `cuMemAlloc_v2`, `cuMemAlloc`, `cuStreamSynchronize_ptsz`.
fn find(call: &str) -> Option<Call> {
    if let Some(info) = declared(call) {
        return Some(Call::Declared(info));
    }
    if call.starts_with("nvml")
        && call.len() > 4
        && call.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    {
        return Some(Call::Nvml);
    }
    let exported = EXPORTS.iter().find(|export| export.name == call);
    let base = exported.map_or(call, |export| export.base);
    // The header's macros make the newest form of a plain name.
    let newest = EXPORTS
        .iter()
        .filter(|export| export.base == base)
        .filter_map(|export| declared(export.name))
        .next_back();
    match (newest, exported) {
        (Some(info), _) => Some(Call::Declared(info)),
        (None, Some(export)) => Some(Call::Unimplemented(export.name)),
        (None, None) => None,
    }
}

/// The declaration behind an exported name, of our own protocol's records none.
fn declared(name: &str) -> Option<&'static FunctionInfo> {
    let plain = name.trim_end_matches("_ptds").trim_end_matches("_ptsz");
    FunctionInfo::named(plain).filter(|_| plain.starts_with("cu"))
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            zone,
            call,
            verdict,
            rule,
            why,
            remedy,
        } = self;
        let verdict = match verdict {
            Verdict::Allowed => "allowed",
            Verdict::NeverRefused => "allowed, as always",
            Verdict::Refused if call.starts_with("nvml") => "refused with NVML_ERROR_NO_PERMISSION",
            Verdict::Refused => "refused with CUDA_ERROR_NOT_PERMITTED (800)",
            Verdict::NotSupported => "refused with CUDA_ERROR_NOT_SUPPORTED (801)",
        };
        write!(
            f,
            "{call} in zone \"{zone}\": {verdict}\nrule: {rule}\nwhy: {why}"
        )?;
        if let Some(remedy) = remedy {
            write!(f, "\nremedy: {remedy}")?;
        }
        Ok(())
    }
}
