//! `libnvidia-ml.so.1` from outside: every name is there, and programs see their zone and nothing else.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use e2e::{Program, Proxy, Setup, Zone, place};

const QUOTA: u64 = 256 << 20;

/// Two zones on two devices: `one` may use the first with [`QUOTA`], `both` both with all there is.
fn two_zones() -> Proxy {
    let one = Zone::new("one").memory("256MiB").set("devices", "[0]");
    let both = Zone::new("both").memory("1GiB");
    Setup::new()
        .zone(one.warm(0))
        .zone(both.warm(0))
        .driver_env("SOFTGPU_DEVICES", "2")
        .driver_env("SOFTGPU_MEMORY", "512M")
        .start()
}

fn c_client(proxy: &Proxy, zone: &str) -> Program {
    let path = place::programs().join("nvml/nvml_clients");
    assert!(
        path.exists(),
        "{} is missing: run `make programs` first",
        path.display()
    );
    proxy.program_in(zone, path)
}

/// Names that the header declares.
fn declared() -> BTreeSet<String> {
    let facts = place::repository().join("cuda-abi/data/nvml-functions.tsv");
    let facts = std::fs::read_to_string(facts).expect("the facts are checked in");
    let rows = facts.lines().filter(|line| !line.starts_with('#'));
    rows.filter_map(|line| Some(line.split_once('\t')?.0.to_owned()))
        .collect()
}

fn readelf(arguments: &[&str]) -> String {
    let output = Command::new("readelf")
        .arg("--wide")
        .args(arguments)
        .arg(place::libvgpu_nvml())
        .output()
        .expect("readelf is there: it comes with the linker that built us");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn every_name_of_the_header_is_exported_and_no_other() {
    let declared = declared();
    assert!(declared.len() > 430, "{}", declared.len());
    let symbols = readelf(&["--dyn-syms"]);
    let exported: BTreeSet<String> = symbols
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // Number, value, size, type, binding, visibility, section, name; ours have no version.
            let [_, _, _, "FUNC", "GLOBAL", "DEFAULT", section, name] = fields[..] else {
                return None;
            };
            (section != "UND").then(|| name.to_owned())
        })
        .collect();
    let difference: Vec<&String> = declared.symmetric_difference(&exported).collect();
    assert!(difference.is_empty(), "{difference:?}");
}

#[test]
fn library_has_its_name_and_stays_loaded() {
    let dynamic = readelf(&["--dynamic"]);
    assert!(dynamic.contains("[libnvidia-ml.so.1]"), "{dynamic}");
    assert!(dynamic.contains("NODELETE"), "{dynamic}");
    assert!(!dynamic.contains("libcuda"), "{dynamic}");
}

#[test]
fn what_pytorch_and_nccl_ask_is_answered_as_libcuda_answers_it() {
    let proxy = two_zones();
    for zone in ["one", "both"] {
        c_client(&proxy, zone).run().expect_success();
    }
}

#[test]
fn looking_makes_nobody_a_client() {
    let proxy = two_zones();
    for _ in 0..10 {
        c_client(&proxy, "one").arg("look").run().expect_success();
    }
    let status = proxy.status();
    let zones = status["zones"].as_array().expect("zones");
    assert_eq!(zones[0]["attached_total"], 0, "{status}");
    assert_eq!(zones[0]["refused_total"], 0, "{status}");
    // One worker told what there is; the other zone has none.
    assert_eq!(zones[0]["warm_workers"], 1, "{status}");
    assert_eq!(zones[1]["warm_workers"], 0, "{status}");
}

#[test]
fn a_zone_sees_its_own_clients_devices_and_memory_only() {
    let proxy = two_zones();
    // The other zone is busy: its client holds memory until its input ends.
    let mut busy = proxy
        .program_in("both", place::client())
        .args(["hold-memory", "67108864"])
        .start();
    busy.wait_for_line("holds");
    // Here nothing of it shows: the C program insists on an empty zone, and on being alone.
    c_client(&proxy, "one").run().expect_success();
    let refused = c_client(&proxy, "both").arg("look").run();
    assert_eq!(refused.code, Some(1), "{}", refused.describe());
    busy.close_input();
    busy.finish().expect_success();
}

#[test]
fn without_a_proxy_there_is_no_driver() {
    let proxy = two_zones();
    let path = place::programs().join("nvml/nvml_clients");
    let finished = Program::new(path)
        .env("LD_LIBRARY_PATH", proxy.library_directory())
        .env("VGPU_SOCKET", "/nowhere/gpu.sock")
        .arg("look")
        .run();
    assert_eq!(finished.code, Some(1), "{}", finished.describe());
    assert!(
        finished.stderr.contains("is gpu-proxy running"),
        "{}",
        finished.describe()
    );
}

#[test]
fn nvidias_python_binding_works() {
    let folder = std::env::var_os("NVML_PYTHON_DIR").map_or_else(
        || place::repository().join("target/nvml-python"),
        PathBuf::from,
    );
    if !folder.join("pynvml.py").exists() {
        assert!(
            std::env::var_os("VGPU_TEST_REQUIRE_CUDA").is_none(),
            "{} is missing: run tests/programs/nvml/fetch.sh first",
            folder.display()
        );
        eprintln!(
            "SKIPPED: nvidia-ml-py is not installed (tests/programs/nvml/fetch.sh fetches it)"
        );
        return;
    }
    let proxy = two_zones();
    let script = place::repository().join("tests/programs/nvml/pynvml_client.py");
    for (zone, quota, devices) in [("one", QUOTA, 1), ("both", 512 << 20, 2)] {
        proxy
            .program_in(zone, "/usr/bin/env")
            .arg("python3")
            .arg(&script)
            .args([quota.to_string(), devices.to_string()])
            .env("PYTHONPATH", &folder)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .run()
            .expect_success();
    }
}
