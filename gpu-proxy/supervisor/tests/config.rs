//! Every mistake in a configuration is named with line, key and remedy, and all of them at once.

use std::path::Path;

use proptest::prelude::*;
use supervisor::config::{Config, Installation, Mistake, Mistakes};

fn parse(source: &str) -> Result<Config, Mistakes> {
    let installation = Installation {
        executable_dir: "/opt/vgpu".into(),
    };
    Config::parse(Path::new("gpu-proxy.toml"), source, &installation)
}

fn mistakes(source: &str) -> Vec<Mistake> {
    parse(source).expect_err(source).list
}

const ZONE: &str = "[[zone]]\nname = \"a\"\nmemory = \"4GiB\"\n";

#[test]
fn each_mistake_is_named_with_line_key_and_remedy() {
    // The table: what is written after a good zone (three lines) or instead of it, then line, key, problem
    // and remedy of the one mistake.
    let long = "x".repeat(120);
    let after_zone: Vec<(String, usize, &str, &str, &str)> = [
        (
            "clients = 0",
            4,
            "zone[0].clients",
            "0 is out of range",
            "from 1 to 1024",
        ),
        (
            "clients = -1",
            4,
            "zone[0].clients",
            "-1 is out of range",
            "from 1 to 1024",
        ),
        (
            "clients = \"4\"",
            4,
            "zone[0].clients",
            "is a string",
            "write a whole number",
        ),
        (
            "client = 4",
            4,
            "zone[0].client",
            "is not a known key",
            "did you mean clients?",
        ),
        (
            "colour = 4",
            4,
            "zone[0].colour",
            "is not a known key",
            "known here: name, memory",
        ),
        (
            "clients = 2\nwarm_workers = 3",
            1,
            "zone[0].warm_workers",
            "3 would wait",
            "raise clients",
        ),
        (
            "pinned = \"1MiB\"",
            4,
            "zone[0].pinned",
            "out of range",
            "from 16MiB to 1TiB",
        ),
        (
            "pinned = \"17000001B\"",
            4,
            "zone[0].pinned",
            "out of range",
            "whole 4KiB pages",
        ),
        (
            "pinned = 5",
            4,
            "zone[0].pinned",
            "is an integer",
            "write it like \"4GiB\"",
        ),
        (
            "mode = \"0777\"",
            4,
            "zone[0].mode",
            "not a permission for a socket",
            "such as \"0660\"",
        ),
        (
            "mode = \"0440\"",
            4,
            "zone[0].mode",
            "not a permission",
            "the owner may write",
        ),
        ("mode = 660", 4, "zone[0].mode", "is an integer", "\"0660\""),
        (
            "uid = 4294967295",
            4,
            "zone[0].uid",
            "out of range",
            "from 0 to 4294967294",
        ),
        (
            "devices = 0",
            4,
            "zone[0].devices",
            "should be a list",
            "[0, 1]",
        ),
        (
            "devices = []",
            4,
            "zone[0].devices",
            "lists no device",
            "leave the key out",
        ),
        (
            "devices = [0, 64]",
            4,
            "zone[0].devices[1]",
            "64 is out of range",
            "from 0 to 63",
        ),
        (
            "devices = [1, 1]",
            4,
            "zone[0].devices[1]",
            "1 is listed twice",
            "list of ordinals",
        ),
        (
            "clients = 1\nclients = 2",
            5,
            "",
            "duplicate key",
            "toml.io",
        ),
        ("clients =", 4, "", "", "toml.io"),
        (
            "[proxy]\nrun_dir = \"/x\"",
            5,
            "proxy.run_dir",
            "is not a known key",
            "runtime_dir",
        ),
        (
            "[proxy]\nruntime_dir = \"run\"",
            5,
            "proxy.runtime_dir",
            "not an absolute path",
            "from / on",
        ),
        (
            "[proxy]\nlog_level = \"loud\"",
            5,
            "proxy.log_level",
            "\"loud\" is not known",
            "\"error\", \"warn\"",
        ),
        (
            "[proxy]\nlog_format = 1",
            5,
            "proxy.log_format",
            "is an integer",
            "\"text\"",
        ),
        (
            "[proxy]\nstop_grace = \"2\"",
            5,
            "proxy.stop_grace",
            "not a duration",
            "such as \"2s\"",
        ),
        (
            "[proxy]\nstop_grace = \"2h\"",
            5,
            "proxy.stop_grace",
            "not a duration",
            "ms, s or m",
        ),
        (
            "[proxy]\nhello_timeout = \"1ms\"",
            5,
            "proxy.hello_timeout",
            "out of range",
            "from 10ms to 60s",
        ),
        (
            "[driver]\nkind = \"amd\"",
            5,
            "driver.kind",
            "\"amd\" is not known",
            "\"auto\", \"nvidia\", \"softgpu\"",
        ),
        (
            "[driver]\nkind = \"nvidia\"\nlibrary = \"libcuda.so.1\"",
            6,
            "driver.library",
            "not an absolute path",
            "from / on",
        ),
        (
            "[driver]\njail = \"strict\"",
            5,
            "driver.jail",
            "\"strict\" is not known",
            "write one of \"enforce\", \"log\", \"off\"",
        ),
        (
            "[driver]\nlibrary = \"/l.so\"",
            4,
            "driver.library",
            "driver.kind is \"auto\"",
            "set driver.kind",
        ),
        (
            "[driver.env]\nLD_PRELOAD = \"/x\"",
            5,
            "driver.env.LD_PRELOAD",
            "may not be set",
            "driver.library",
        ),
        (
            "[driver.env]\nCUDA_VISIBLE_DEVICES = \"0\"",
            5,
            "driver.env.CUDA_VISIBLE_DEVICES",
            "may not be set",
            "use devices",
        ),
        (
            "[driver.env]\n\"A B\" = \"x\"",
            5,
            "driver.env.A B",
            "not a name",
            "letters, digits",
        ),
        (
            "[driver.env]\nA = 1",
            5,
            "driver.env.A",
            "is an integer",
            "A = \"...\"",
        ),
        (
            "[driver]\nenv = 1",
            5,
            "driver.env",
            "should be a table",
            "write [driver.env]",
        ),
        (
            "[audit]\nspol = \"/x\"",
            5,
            "audit.spol",
            "is not a known key",
            "did you mean spool?",
        ),
        (
            "[audit]\nspool = \"log\"",
            5,
            "audit.spool",
            "not an absolute path",
            "from / on",
        ),
        (
            "[audit]\nname = \"a b\"",
            5,
            "audit.name",
            "cannot be the name of a key",
            "neither space nor plus",
        ),
        (
            "[audit]\nshare = \"1KiB\"",
            5,
            "audit.share",
            "is no size from 1MiB",
            "\"64MiB\"",
        ),
        (
            "[audit]\nwhen_full = \"panic\"",
            5,
            "audit.when_full",
            "\"panic\" is not known",
            "\"fail-closed\", \"drop-with-gap-record\"",
        ),
        (
            "[audit]\ncheckpoint_after = \"1h\"",
            5,
            "audit.checkpoint_after",
            "not a duration",
            "ms, s or m",
        ),
        (
            "[monitor]\nmode = \"kill\"",
            5,
            "monitor.mode",
            "\"kill\" is not known",
            "\"enforce\", \"report\", \"off\"",
        ),
        (
            "[monitor]\nallowance = \"12\"",
            5,
            "monitor.allowance",
            "is no size from 1MiB to 1PiB",
            "such as \"1GiB\"",
        ),
        (
            "[api]\nlisten = \"localhost:9464\"",
            5,
            "api.listen",
            "\"localhost:9464\" is no address with a port",
            "names are not looked up",
        ),
        (
            "[audit.kafka]\ntopic = \"a\"",
            4,
            "audit.kafka.brokers",
            "is missing",
            "kafka1.example.com:9093",
        ),
        (
            "[audit.kafka]\nbrokers = \"a:1, b:2\"",
            5,
            "audit.kafka.brokers",
            "is no list of brokers",
            "no spaces",
        ),
        (
            "[audit.kafka]\nbrokers = \"a:1\"\ntopic = \"a b\"",
            6,
            "audit.kafka.topic",
            "cannot be the name of a topic",
            "249 letters",
        ),
        (
            "[audit.kafka]\nbrokers = \"a:1\"\npassword = \"x\"",
            6,
            "audit.kafka.password",
            "is not a known key",
            "",
        ),
        (
            "[audit.kafka]\nbrokers = \"a:1\"\nsettings = \"kafka.conf\"",
            6,
            "audit.kafka.settings",
            "not an absolute path",
            "from / on",
        ),
        (
            "[audit.kafka]\nbrokers = \"a:1\"\ntopic = \"x\"\ncheckpoints = \"x\"",
            4,
            "audit.kafka.checkpoints",
            "is the topic of the blocks",
            "name another",
        ),
        (
            "[zones]\nx = 1",
            4,
            "zones",
            "is not a known key",
            "did you mean zone?",
        ),
        (
            "[[zone]]\nname = \"a\"\nmemory = \"1GiB\"",
            4,
            "zone[1].name",
            "name of an earlier zone",
            "a name of its own",
        ),
        (
            "[[zone]]\nmemory = \"1GiB\"",
            4,
            "zone[1].name",
            "is missing",
            "name = \"tenant-a\"",
        ),
        (
            "[[zone]]\nname = \"b\"",
            4,
            "zone[1].memory",
            "is missing",
            "memory = \"4GiB\"",
        ),
        (
            "[[zone]]\nname = \"b\"\nmemory = \"4G\"",
            6,
            "zone[1].memory",
            "\"4G\" is not a size",
            "\"4GiB\"",
        ),
        (
            "[[zone]]\nname = \"b\"\nmemory = \"0B\"",
            6,
            "zone[1].memory",
            "out of range",
            "from 1MiB",
        ),
        (
            "[[zone]]\nname = \"../b\"\nmemory = \"1GiB\"",
            5,
            "zone[1].name",
            "cannot be the name",
            "a-z, 0-9",
        ),
        (
            "[[zone]]\nname = \"-b\"\nmemory = \"1GiB\"",
            5,
            "zone[1].name",
            "cannot be the name",
            "beginning with",
        ),
    ]
    .map(|(text, line, key, problem, remedy)| {
        (format!("{ZONE}{text}\n"), line, key, problem, remedy)
    })
    .into();
    let instead: Vec<(String, usize, &str, &str, &str)> = vec![
        (
            String::new(),
            1,
            "zone",
            "nobody could attach",
            "add a [[zone]]",
        ),
        (
            "zone = 1\n".into(),
            1,
            "zone",
            "should be a list of tables",
            "write [[zone]]",
        ),
        (
            "[zone]\nname = \"a\"\n".into(),
            1,
            "zone",
            "is a table and should be a list",
            "[[zone]]",
        ),
        (
            format!("proxy = 1\n{ZONE}"),
            1,
            "proxy",
            "should be a table",
            "write [proxy]",
        ),
        (
            format!("[proxy]\nruntime_dir = \"/{long}\"\nadmin_socket = \"/a.sock\"\n{ZONE}"),
            5,
            "zone[0].name",
            "too long for the system",
            "shorten proxy.runtime_dir",
        ),
    ];
    for (source, line, key, problem, remedy) in after_zone.into_iter().chain(instead) {
        let list = mistakes(&source);
        let [found] = list.as_slice() else {
            panic!("{source}\n{list:#?}")
        };
        assert_eq!(
            (found.line, found.key.as_str()),
            (line, key),
            "{source}\n{found:?}"
        );
        assert!(found.problem.contains(problem), "{source}\n{found:?}");
        assert!(found.remedy.contains(remedy), "{source}\n{found:?}");
    }
}

#[test]
fn all_mistakes_are_reported_in_the_order_of_the_file() {
    let source = "\
[proxy]
log_level = \"loud\"
colour = 1

[[zone]]
name = \"A\"
memory = \"4G\"
clients = 0
";
    let mistakes = parse(source).unwrap_err();
    let expected = "\
gpu-proxy.toml:2: proxy.log_level: \"loud\" is not known; write one of \"error\", \"warn\", \"info\", \"debug\", \"trace\"
gpu-proxy.toml:3: proxy.colour: is not a known key; remove it; known here: runtime_dir, worker, admin_socket, policy, log_level, log_format, stop_grace, hello_timeout, start_timeout, scrub_patience, scrubber_uid, scrubber_gid
gpu-proxy.toml:6: zone[0].name: \"A\" cannot be the name of a zone; use at most 32 of a-z, 0-9, - and _, beginning with a letter or digit
gpu-proxy.toml:7: zone[0].memory: \"4G\" is not a size; write a whole number with KiB, MiB, GiB or TiB, such as \"4GiB\"
gpu-proxy.toml:8: zone[0].clients: 0 is out of range; write a whole number from 1 to 1024";
    assert_eq!(mistakes.to_string(), expected);
}

#[test]
fn the_shortest_configuration_gets_every_documented_default() {
    let expected = "\
[proxy]
runtime_dir = \"/run/vgpu\"
worker = \"/opt/vgpu/vgpu-worker\"
admin_socket = \"/run/vgpu/admin.sock\"
log_level = \"info\"
log_format = \"text\"
stop_grace = \"2s\"
hello_timeout = \"2s\"
start_timeout = \"60s\"
scrub_patience = \"30s\"

[driver]
kind = \"auto\"

[monitor]
monitor = \"/opt/vgpu/vgpu-monitor\"
interval = \"1s\"
allowance = \"1GiB\"

[[zone]]
name = \"a\"
memory = \"4GiB\"
pinned = \"1GiB\"
clients = 16
warm_workers = 1
mode = \"0600\"
";
    assert_eq!(parse(ZONE).unwrap().to_string(), expected);
}

#[test]
fn what_is_printed_reads_back_as_the_same() {
    let source = "\
[proxy]
runtime_dir = \"/run/a \\\"quoted\\\" folder\"
worker = \"/opt/worker\"
policy = \"/etc/vgpu/policy.toml\"
log_level = \"trace\"
log_format = \"json\"
stop_grace = \"250ms\"
[driver]
kind = \"softgpu\"
jail = \"log\"
library = \"/opt/libsoftcuda.so.1\"
env = { SOFTGPU_MEMORY = \"8GiB\", SOFTGPU_NOTE = \"a\\tb\\\\c\" }
[audit]
name = \"node1.example/audit\"
json_lines = \"/var/log/a \\\"b\\\"\"
retain = \"3GiB\"
when_full = \"drop-with-gap-record\"
uid = 7
[audit.kafka]
brokers = \"[::1]:9093,kafka2:1\"
checkpoints = \"notes\"
settings = \"/etc/vgpu/kafka.conf\"
inspector = \"/etc/vgpu/looks.conf\"
retention_days = 400
[monitor]
mode = \"enforce\"
library = \"/opt/libnvidia-ml.so.1\"
interval = \"50ms\"
allowance = \"64MiB\"
uid = 8
[api]
listen = \"[::1]:80\"
gid = 9
[[zone]]
name = \"a\"
memory = \"512MiB\"
gid = 44
devices = [1, 0x0]
[[zone]]
name = \"b_2-c\"
memory = \"4097KiB\"
pinned = \"16MiB\"
clients = 1
warm_workers = 0
uid = 1000
mode = \"0666\"
worker_uid = 2000
worker_gid = 2000
";
    let config = parse(&source.replace("4097KiB", "4100KiB")).unwrap();
    assert_eq!(
        config.zones[0].mode, 0o660,
        "a group is given, so it may connect"
    );
    assert_eq!(parse(&config.to_string()).unwrap(), config);
}

#[test]
fn shipped_examples_are_correct() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            let source = std::fs::read_to_string(&path).unwrap();
            let is_policy = path.file_name().is_some_and(|name| name == "policy.toml");
            let read = match is_policy {
                true => proxy_policy::Policy::parse(&path, &source).map(drop),
                false => parse(&source).map(drop),
            };
            if let Err(mistakes) = read {
                panic!("{}: {mistakes}", path.display());
            }
            count += 1;
        }
    }
    assert!(count >= 2);
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn arbitrary_values_never_panic_and_mistakes_stay_within_the_file(
        key in "name|memory|pinned|clients|warm_workers|uid|gid|mode|devices|worker_uid|[a-z]{1,8}",
        value in "-?[0-9]{1,20}|\"[ -!#-\\[\\]-~]{0,40}\"|true|1\\.5|\\[[0-9, ]{0,8}\\]|\\{\\}|1979-05-27|0x[0-9a-f]{1,20}",
    ) {
        let source = format!("[[zone]]\n{key} = {value}\n");
        if let Err(mistakes) = parse(&source) {
            for mistake in mistakes.list {
                prop_assert!((1..=3).contains(&mistake.line));
            }
        }
    }
}
