//! Every mistake in a policy is named with line and remedy, and every verdict with its rule.

use std::path::Path;

use cuda_abi::function::{FUNCTIONS, Group};
use proptest::prelude::*;
use proxy_policy::document::{Mistake, Mistakes};
use proxy_policy::limits::Limits;
use proxy_policy::{Audit, OnLostDevice, Policy, Rule, Verdict};

fn parse(source: &str) -> Result<Policy, Mistakes> {
    Policy::parse(Path::new("policy.toml"), source)
}

fn mistakes(source: &str) -> Vec<Mistake> {
    parse(source).expect_err(source).list
}

const GOOD: &str = "version = 1\n\n[[zone]]\nname = \"a\"\nallow = [\"compute\", \"memory\"]\n";

#[test]
fn a_rule_says_what_it_says_and_where() {
    let policy = parse(&format!(
        "{GOOD}memory = \"2GiB\"\nclients = 3\ndevices = [0]\non_lost_device = \"softgpu\"\naudit = \"summary\"\n[[zone]]\nname = \"b\"\nallow = []\n"
    ))
    .unwrap();
    let expected = Rule {
        zone: "a".into(),
        line: 3,
        groups: Group::Compute.bit() | Group::Memory.bit(),
        memory: Some(2 << 30),
        pinned: None,
        clients: Some(3),
        devices: Some(vec![0]),
        on_lost_device: Some(OnLostDevice::Softgpu),
        audit: Some(Audit::Summary),
        limits: Limits::default(),
    };
    assert_eq!(policy.rule("a"), Some(&expected));
    assert_eq!(policy.rule("b").unwrap().groups, 0);
    assert_eq!(policy.rule("c"), None);
}

#[test]
fn each_mistake_is_named_with_line_key_and_remedy() {
    let table: [(String, usize, &str, &str, &str); 17] = [
        (
            format!("{GOOD}on_lost_device = \"cry\"\n"),
            6,
            "zone[0].on_lost_device",
            "is not known",
            "\"refuse\", \"softgpu\"",
        ),
        (
            GOOD.replace("version = 1", ""),
            1,
            "version",
            "is missing",
            "write version = 1",
        ),
        (
            GOOD.replace("= 1", "= 2"),
            1,
            "version",
            "does not read",
            "write version = 1",
        ),
        (
            GOOD.replace("= 1", "= \"1\""),
            1,
            "version",
            "does not read",
            "write version = 1",
        ),
        (
            GOOD.replace("\"memory\"", "\"memroy\""),
            5,
            "zone[0].allow[1]",
            "no capability group",
            "did you mean \"memory\"?",
        ),
        (
            GOOD.replace("\"memory\"", "\"everything\""),
            5,
            "zone[0].allow[1]",
            "no capability group",
            "compute, memory, pools",
        ),
        (
            GOOD.replace("\"memory\"", "\"cuIpcGetMemHandle\""),
            5,
            "zone[0].allow[1]",
            "no capability group",
            "allow its group, \"ipc\"",
        ),
        (
            GOOD.replace("\"memory\"", "\"cuMemFree_v2\""),
            5,
            "zone[0].allow[1]",
            "no capability group",
            "never refused",
        ),
        (
            GOOD.replace("\"memory\"", "\"query\""),
            5,
            "zone[0].allow[1]",
            "no capability group",
            "never refused",
        ),
        (
            GOOD.replace("\"memory\"", "\"compute\""),
            5,
            "zone[0].allow[1]",
            "listed twice",
            "remove it",
        ),
        (
            GOOD.replace("\"memory\"", "7"),
            5,
            "zone[0].allow[1]",
            "is an integer",
            "write a list",
        ),
        (
            GOOD.replace("[\"compute\", \"memory\"]", "\"all\""),
            5,
            "zone[0].allow",
            "should be a list",
            "write a list",
        ),
        (
            GOOD.replace("allow", "alow"),
            5,
            "zone[0].alow",
            "is not a known key",
            "did you mean allow?",
        ),
        (
            format!("{GOOD}memory = \"4 apples\"\n"),
            6,
            "zone[0].memory",
            "is not a size",
            "4GiB",
        ),
        (
            format!("{GOOD}clients = 0\n"),
            6,
            "zone[0].clients",
            "out of range",
            "from 1 to 1024",
        ),
        (
            format!("{GOOD}devices = []\n"),
            6,
            "zone[0].devices",
            "lists no device",
            "[0, 1]",
        ),
        (
            format!("{GOOD}[[zone]]\nname = \"a\"\nallow = []\n"),
            6,
            "zone[1].name",
            "line 3 is about \"a\" already",
            "one [[zone]]",
        ),
    ];
    for (source, line, key, problem, remedy) in table {
        let found = mistakes(&source);
        let fits = |mistake: &Mistake| {
            (mistake.line, mistake.key.as_str()) == (line, key)
                && mistake.problem.contains(problem)
                && mistake.remedy.contains(remedy)
        };
        assert!(found.iter().any(fits), "{source}\n{found:#?}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let found = mistakes("version = 3\n[[zone]]\nname = \"A\"\nallow = [1, 2]\n");
    let lines: Vec<usize> = found.iter().map(|mistake| mistake.line).collect();
    assert_eq!(lines, [1, 3, 4, 4], "{found:#?}");
}

#[test]
fn a_rule_for_a_zone_that_is_not_there_is_a_mistake() {
    let policy = parse(GOOD).unwrap();
    assert_eq!(policy.check_zones(&["b", "a"]), Ok(()));
    let found = policy.check_zones(&["ab", "other"]).unwrap_err().list;
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].line, found[0].key.as_str()), (3, "zone[0].name"));
    assert!(found[0].remedy.contains("\"ab\""), "{found:?}");
}

#[test]
fn an_explanation_names_rule_reason_and_remedy() {
    let policy = parse(GOOD).unwrap();
    let explain = |zone, call| policy.explain(zone, call).unwrap();
    let allowed = explain("a", "cuMemAlloc");
    assert_eq!(
        (allowed.call.as_str(), allowed.verdict),
        ("cuMemAlloc_v2", Verdict::Allowed)
    );
    let refused = explain("a", "cuIpcGetMemHandle");
    assert_eq!(refused.verdict, Verdict::Refused);
    let text = refused.to_string();
    for part in [
        "policy.toml:3",
        "compute, memory",
        "ipc",
        "(800)",
        "add \"ipc\"",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert_eq!(explain("a", "cuMemFree").verdict, Verdict::NeverRefused);
    assert_eq!(
        explain("a", "cuStreamSynchronize_ptsz").verdict,
        Verdict::NeverRefused
    );
    assert_eq!(explain("a", "nvmlInit_v2").verdict, Verdict::Refused);
    let stranger = explain("c", "cuMemFree");
    assert_eq!(stranger.verdict, Verdict::Refused);
    assert!(stranger.rule.contains("no [[zone]] names \"c\""));
    let unknown = policy.explain("a", "cudaMalloc").unwrap_err().to_string();
    assert!(unknown.contains("Driver API"), "{unknown}");
    assert!(policy.explain("a", "vgpuNop").is_err());
}

#[test]
fn what_is_not_implemented_is_no_matter_of_policy() {
    let policy = parse(GOOD).unwrap();
    let unsupported = cuda_abi::resolver::EXPORTS
        .iter()
        .filter_map(|export| policy.explain("a", export.name).ok())
        .find(|found| found.verdict == Verdict::NotSupported);
    assert!(unsupported.unwrap().to_string().contains("801"));
}

#[test]
fn the_documentation_shows_the_example_as_it_is_and_every_group() {
    let example = include_str!("../../../deploy/examples/policy.toml");
    let policy = Policy::parse(Path::new("policy.toml"), example).unwrap();
    let page = include_str!("../../../docs/policy.md");
    assert!(page.contains(example));
    for group in Group::ALL {
        assert!(
            page.contains(&format!("| `{}` |", group.name())),
            "{group:?}"
        );
    }
    let explained = policy.explain("inference", "cuMemAllocAsync").unwrap();
    assert!(page.contains(&explained.to_string()), "{explained}");
}

proptest! {
    #[test]
    fn verdicts_follow_from_the_declarations_and_survive_printing(groups in 0..=Group::MASK) {
        let rule = Rule {
            zone: "z".into(),
            line: 3,
            groups,
            memory: Some(1 << 21),
            pinned: Some(1 << 30),
            clients: Some(7),
            devices: Some(vec![1, 0]),
            on_lost_device: Some(OnLostDevice::Refuse),
            audit: Some(Audit::Every),
            limits: Limits {
                calls_per_second: Some(9),
                handles: [("event", 5), ("stream", 7)].into(),
                ..Limits::default()
            },
        };
        let printed = Policy { file: "policy.toml".into(), rules: vec![rule] };
        let policy = parse(&printed.to_string()).unwrap();
        prop_assert_eq!(&policy, &printed);
        for info in FUNCTIONS.iter().filter(|info| info.name.starts_with("cu")) {
            let verdict = policy.explain("z", info.name).unwrap().verdict;
            let expected = match info.requires {
                Some(group) if groups & group.bit() != 0 => Verdict::Allowed,
                Some(_) => Verdict::Refused,
                None if groups & !Group::Nvml.bit() == 0 => Verdict::Refused,
                None => Verdict::NeverRefused,
            };
            prop_assert_eq!(verdict, expected, "{}", info.name);
        }
    }

    #[test]
    fn any_text_is_read_or_refused_with_lines_that_it_has(
        source in "(version = 1\n)?([a-z\\[\\]=\"' \n#{},.0-9]{0,40}\n){0,6}",
    ) {
        if let Err(mistakes) = parse(&source) {
            prop_assert!(!mistakes.list.is_empty());
            let lines = source.matches('\n').count() + 1;
            prop_assert!(mistakes.list.iter().all(|mistake| (1..=lines).contains(&mistake.line)));
        }
    }
}
