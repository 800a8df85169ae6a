//! What the privileged process is made of, and what it does without (D17).
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use e2e::{Proxy, place, tool};

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

/// The sockets of the internet families in a process's network namespace, by inode.
fn network_sockets(process: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (table, column) in [
        ("tcp", 9),
        ("tcp6", 9),
        ("udp", 9),
        ("udp6", 9),
        ("raw", 9),
        ("raw6", 9),
        ("packet", 8),
        ("netlink", 9),
    ] {
        // A kernel without the family has no table.
        let text = fs::read_to_string(process.join("net").join(table)).unwrap_or_default();
        let inodes = text
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().nth(column));
        found.extend(inodes.map(|inode| format!("socket:[{inode}]")));
    }
    found
}

#[test]
fn it_opens_no_network() {
    let proxy = Proxy::start();
    proxy.client("vector-add").run().expect_success();
    for process in proxy.family() {
        let folder = Path::new("/proc").join(process.pid.to_string());
        let network = network_sockets(&folder);
        let open = fs::read_dir(folder.join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        let open: Vec<String> = open
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .map(|target| target.display().to_string())
            .collect();
        let found: Vec<&String> = open.iter().filter(|name| network.contains(*name)).collect();
        assert!(
            found.is_empty(),
            "{} has {found:?} of {network:?}",
            process.name
        );
        if process.pid == proxy.pid() {
            assert!(
                open.iter().any(|name| name.starts_with("socket:")),
                "{open:?}"
            );
        }
    }
}

#[test]
fn the_check_sees_a_network_socket() {
    let own = std::net::UdpSocket::bind("127.0.0.1:0").expect("a loopback");
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&own));
    let link = fs::read_link(link)
        .expect("it is open")
        .display()
        .to_string();
    assert!(network_sockets(Path::new("/proc/self")).contains(&link));
}
