//! `vgpuctl doctor`: which layers of the workers' jail are on, and what to do about the others.

#![forbid(unsafe_code)]

use std::fmt::Write as _;

use proxy_channel::admin::{Layer, Status};

/// What a layer is for, and how to get it.
struct Advice {
    layer: &'static str,
    stops: &'static str,
    remedy: &'static str,
}

const USER_NAMESPACES: &str = "permit user namespaces: user.max_user_namespaces > 0, on Debian \
    kernel.unprivileged_userns_clone = 1, on Ubuntu an AppArmor profile with \"userns\"; in a container a \
    seccomp profile that lets unshare pass";

const ADVICE: [Advice; 11] = [
    Advice {
        layer: "user",
        stops: "reaching other zones' workers and anything of the proxy's user",
        remedy: "run gpu-proxy as root and give each zone a worker_uid (and worker_gid) that nothing else runs as",
    },
    Advice {
        layer: "process",
        stops: "debuggers, core files, programs with more rights",
        remedy: "it is always on; report this as a bug",
    },
    Advice {
        layer: "limits",
        stops: "using up descriptors and threads",
        remedy: "set worker_uid and permit user namespaces, so that threads can be counted per worker",
    },
    Advice {
        layer: "capabilities",
        stops: "everything that root may do",
        remedy: "it needs nothing; report this as a bug",
    },
    Advice {
        layer: "user-namespace",
        stops: "being anybody outside, whatever the user",
        remedy: USER_NAMESPACES,
    },
    Advice {
        layer: "root",
        stops: "seeing any file",
        remedy: USER_NAMESPACES,
    },
    Advice {
        layer: "network",
        stops: "reaching any network",
        remedy: USER_NAMESPACES,
    },
    Advice {
        layer: "ipc",
        stops: "shared memory and queues of other processes",
        remedy: USER_NAMESPACES,
    },
    Advice {
        layer: "processes",
        stops: "naming other processes",
        remedy: "run gpu-proxy as root with CAP_SYS_ADMIN",
    },
    Advice {
        layer: "landlock",
        stops: "opening files, TCP, signals to other processes",
        remedy: "Linux 5.13 or newer (6.12 for all of it) with landlock among the modules of lsm=",
    },
    Advice {
        layer: "calls",
        stops: "every system call that serving does not need",
        remedy: "a kernel with CONFIG_SECCOMP_FILTER on x86-64 or ARM64",
    },
];

/// Lays out the jail of every zone.
pub fn render(status: &Status) -> String {
    let mut text = String::new();
    for zone in &status.zones {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "zone {}", zone.name);
        if zone.jail.is_empty() {
            text.push_str("  no worker has become ready yet\n");
        }
        for layer in &zone.jail {
            render_layer(layer, &mut text);
        }
    }
    let missing = (status.zones.iter().flat_map(|zone| &zone.jail))
        .filter(|layer| layer.state == "missing")
        .count();
    let _ = match missing {
        0 => writeln!(text, "\nevery layer that is wanted is on"),
        1 => writeln!(text, "\n1 layer is missing that this host does not offer"),
        many => writeln!(
            text,
            "\n{many} layers are missing that this host does not offer"
        ),
    };
    text
}

fn render_layer(layer: &Layer, text: &mut String) {
    let advice = ADVICE.iter().find(|advice| advice.layer == layer.name);
    let stops = advice.map_or("", |advice| advice.stops);
    let _ = writeln!(text, "  {:7}  {:14}  {stops}", layer.state, layer.name);
    if !layer.why.is_empty() {
        let _ = writeln!(text, "{:27}{}", "", layer.why);
    }
    let remedy = match layer.state.as_str() {
        "missing" => advice.map(|advice| advice.remedy),
        "off" if layer.name == "user" => advice.map(|advice| advice.remedy),
        "log" => Some(
            "learn the driver's system calls (docs/jail.md), then set driver.jail = \"enforce\"",
        ),
        _ => None,
    };
    if let Some(remedy) = remedy {
        let _ = writeln!(text, "{:27}to do: {remedy}", "");
    }
}

#[cfg(test)]
mod tests {
    use proxy_channel::jail;

    use super::*;
    use crate::table::tests::status;

    fn layer(name: &str, state: &str, why: &str) -> Layer {
        Layer {
            name: name.into(),
            state: state.into(),
            why: why.into(),
        }
    }

    #[test]
    fn there_is_advice_for_every_layer_in_order() {
        let known: Vec<&str> = jail::Layer::NAMES.iter().map(|(_, name)| *name).collect();
        let advised: Vec<&str> = ADVICE.iter().map(|advice| advice.layer).collect();
        assert_eq!(advised, known);
    }

    #[test]
    fn what_is_missing_comes_with_a_reason_and_something_to_do() {
        let mut status = status();
        status.zones[0].jail = vec![
            layer("landlock", "missing", "the kernel has none"),
            layer("calls", "on", ""),
        ];
        let text = render(&status);
        for part in [
            "zone a\n",
            "  missing  landlock        opening files, TCP, signals to other processes\n",
            "the kernel has none\n",
            "to do: Linux 5.13",
            "  on       calls  ",
            "\n1 layer is missing",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert_eq!(text.matches("to do").count(), 1);
    }

    #[test]
    fn a_zone_without_a_worker_yet_says_so() {
        assert!(render(&status()).contains("no worker has become ready yet"));
    }
}
