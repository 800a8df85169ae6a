//! What the privileged process is made of, and what it does without (D17).
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;

use e2e::{Proxy, place, system, tool};

#[test]
fn it_links_no_c_library_beyond_libc() {
    let needed = tool::needed_beside_libc(&place::built("gpu-proxy"));
    assert_eq!(needed, Vec::<String>::new());
}

#[test]
fn nothing_that_it_is_made_of_contains_or_builds_c() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let manifest = place::repository().join("Cargo.toml");
    let manifest = manifest.display().to_string();
    let tree = tool::output(
        &cargo,
        &[
            "tree",
            "--locked",
            "--offline",
            "--manifest-path",
            &manifest,
            "--package",
            "supervisor",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
            "--format",
            "{lib}",
        ],
    );
    let crates: BTreeSet<&str> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(crates.contains("proxy_channel"), "{tree}");
    // What compiles or finds C at build time, and by custom what wraps a C library.
    let builders = ["cc", "cmake", "bindgen", "pkg_config", "vcpkg"];
    let c: Vec<&&str> = crates
        .iter()
        .filter(|name| name.ends_with("_sys") || builders.contains(name))
        .collect();
    assert!(c.is_empty(), "{c:?} in\n{tree}");
}

#[test]
fn it_opens_no_network() {
    let proxy = Proxy::start();
    proxy.client("vector-add").run().expect_success();
    for process in proxy.family() {
        let found = system::network_sockets(process.pid);
        assert!(found.is_empty(), "{} has {found:?}", process.name);
        if process.pid == proxy.pid() {
            let sockets = system::descriptors(process.pid);
            assert!(
                sockets.iter().any(|name| name.starts_with("socket:")),
                "{sockets:?}"
            );
        }
    }
}

#[test]
fn the_check_sees_a_network_socket() {
    let own = std::net::UdpSocket::bind("127.0.0.1:0").expect("a loopback");
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&own));
    let link = fs::read_link(link).expect("it is open");
    let link = link.display().to_string();
    assert!(system::network_sockets(std::process::id()).contains(&link));
}
