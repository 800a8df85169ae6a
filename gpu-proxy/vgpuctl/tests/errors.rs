//! What vgpuctl says when there is nothing to talk to.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

fn status(socket: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vgpuctl"))
        .args(["status", "--socket"])
        .arg(socket)
        .args(more)
        .output()
        .unwrap()
}

fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Answers one request with `reply`.
fn answer_once(listener: UnixListener, reply: &'static str) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut request = [0; 9];
        socket.read_exact(&mut request).unwrap();
        assert_eq!(&request, b"status 1\n");
        socket.write_all(reply.as_bytes()).unwrap();
    })
}

#[test]
fn absent_proxy_and_dead_proxy_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let text = complaint(&status(&path, &[]));
    assert!(
        text.contains("start gpu-proxy") && text.contains("--socket"),
        "{text}"
    );
    drop(UnixListener::bind(&path).unwrap());
    let text = complaint(&status(&path, &[]));
    assert!(text.contains("gpu-proxy is not running"), "{text}");
}

#[test]
fn nonsense_and_another_schema_are_told_with_a_remedy() {
    for (reply, expected) in [
        ("", "not understood"),
        ("{\"error\":\"no\"}", "not understood"),
        (
            r#"{"schema":9,"proxy":{"version":"","pid":1,"uptime_seconds":0,"state":"","driver":{"kind":"","path":"","why":"","version":null,"device_count":null}},"zones":[]}"#,
            "schema 9",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let server = answer_once(UnixListener::bind(&path).unwrap(), reply);
        let text = complaint(&status(&path, &[]));
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("install the vgpuctl that matches"), "{text}");
        server.join().unwrap();
    }
}

#[test]
fn json_is_passed_on_with_fields_that_this_build_does_not_know() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let server = answer_once(
        UnixListener::bind(&path).unwrap(),
        r#"{"schema":2,"new":true}"#,
    );
    let output = status(&path, &["--json"]);
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "{\n  \"new\": true,\n  \"schema\": 2\n}\n"
    );
    server.join().unwrap();
}
