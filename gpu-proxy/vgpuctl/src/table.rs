//! Status for people.

#![forbid(unsafe_code)]

use proxy_channel::admin::{Client, Device, Status, Zone};

/// Lays out everything as text.
pub fn render(status: &Status) -> String {
    let proxy = &status.proxy;
    let driver = &proxy.driver;
    let mut text = format!(
        "gpu-proxy {} ({}, pid {}, up {})\ndriver: {} {}{}\n        {}\n",
        proxy.version,
        proxy.state,
        proxy.pid,
        duration(proxy.uptime_seconds),
        driver.kind,
        driver.path,
        match (driver.version, driver.device_count) {
            (Some(version), Some(count)) => format!(
                ", CUDA {}.{}, {count} device{}",
                version / 1000,
                version % 1000 / 10,
                if count == 1 { "" } else { "s" }
            ),
            _ => String::new(),
        },
        driver.why,
    );
    text.push_str(&match &proxy.policy {
        Some(file) => format!("policy: {file}\n"),
        None => "policy: none, every zone may call everything (proxy.policy names a file)\n".into(),
    });
    let zones = status.zones.iter().map(zone_row).collect();
    text.push('\n');
    text.push_str(&table(
        &[
            "ZONE", "MEMORY", "QUOTA", "FREE", "CLIENTS", "WARM", "ATTACHED", "REFUSED", "SOCKET",
        ],
        zones,
    ));
    if proxy.policy.is_some() {
        for zone in &status.zones {
            let allow = match zone.allow.is_empty() {
                true => "nothing".to_owned(),
                false => zone.allow.join(", "),
            };
            text.push_str(&format!("zone {} is granted {allow}\n", zone.name));
        }
    }
    for zone in &status.zones {
        if let Some(reason) = &zone.fallback {
            let name = &zone.name;
            text.push_str(&format!(
                "zone {name}: the software GPU serves new clients: {reason}\n"
            ));
        }
        if let Some(reason) = &zone.worker_failure {
            text.push_str(&format!("zone {}: no worker: {reason}\n", zone.name));
        }
    }
    for zone in &status.zones {
        if let Some(line) = limits_line(zone) {
            text.push_str(&line);
        }
    }
    for zone in &status.zones {
        if let Some(line) = jail_line(zone) {
            text.push_str(&line);
        }
    }
    if !status.devices.is_empty() {
        let header = [
            "DEVICE", "STATE", "FOR", "LEFT BY", "SCRUBS", "ZEROED", "TOOK", "FAILED",
        ];
        let devices = status.devices.iter().map(device_row).collect();
        text.push('\n');
        text.push_str(&table(&header, devices));
        for device in &status.devices {
            for pid in &device.stuck {
                text.push_str(&format!(
                    "device {}: process {pid} was killed and does not go away\n",
                    device.ordinal
                ));
            }
            if let Some(failure) = &device.failure {
                text.push_str(&format!("device {}: {failure}\n", device.ordinal));
            }
        }
    }
    let clients: Vec<Vec<String>> = status
        .zones
        .iter()
        .flat_map(|zone| {
            zone.clients
                .iter()
                .map(|client| client_row(&zone.name, client))
        })
        .collect();
    text.push('\n');
    if clients.is_empty() {
        text.push_str("no clients\n");
    } else {
        text.push_str(&table(
            &[
                "CLIENT",
                "ZONE",
                "PID",
                "PROGRAM",
                "STATE",
                "UP",
                "WORKER",
                "MEMORY",
                "CALLS",
                "LAUNCHES",
                "ERRORS",
                "TOP KERNELS",
            ],
            clients,
        ));
    }
    text
}

fn zone_row(zone: &Zone) -> Vec<String> {
    vec![
        zone.name.clone(),
        size(zone.memory_used),
        size(zone.memory_limit),
        size(zone.memory_room),
        format!("{}/{}", zone.clients.len(), zone.client_limit),
        match zone.starting_workers {
            0 => zone.warm_workers.to_string(),
            starting => format!("{}+{starting}", zone.warm_workers),
        },
        zone.attached_total.to_string(),
        zone.refused_total.to_string(),
        zone.socket.clone(),
    ]
}

fn device_row(device: &Device) -> Vec<String> {
    vec![
        device.ordinal.to_string(),
        device.state.clone(),
        device.since_seconds.map_or("-".into(), duration),
        match device.left_by.is_empty() {
            true => "-".into(),
            false => device.left_by.join(", "),
        },
        device.scrubs.to_string(),
        size(device.scrubbed_bytes),
        format!("{} ms", device.scrub_micros / 1000),
        device.failures.to_string(),
    ]
}

/// The limits that are set beside memory and clients, if any.
fn limits_line(zone: &Zone) -> Option<String> {
    let list: Vec<String> = zone
        .limits
        .iter()
        .map(|(key, &number)| match key.as_str() {
            "images" | "context_overhead" | "reserve" => format!("{key} {}", size(number)),
            _ => format!("{key} {number}"),
        })
        .collect();
    (!list.is_empty()).then(|| format!("zone {} is limited: {}\n", zone.name, list.join(", ")))
}

/// The layers of the jail that are not on, if any.
fn jail_line(zone: &Zone) -> Option<String> {
    let missing: Vec<String> = zone
        .jail
        .iter()
        .filter(|layer| layer.state != "on")
        .map(|layer| format!("{} {}", layer.name, layer.state))
        .collect();
    let list = missing.join(", ");
    (!list.is_empty()).then(|| format!("zone {}: jail: {list} (vgpuctl doctor)\n", zone.name))
}

fn client_row(zone: &str, client: &Client) -> Vec<String> {
    let kernels = client.kernels.iter().take(3);
    let kernels: Vec<String> = kernels
        .map(|kernel| format!("{} {}", kernel.name, kernel.launches))
        .collect();
    vec![
        client.id.to_string(),
        zone.to_owned(),
        client.pid.to_string(),
        client.program.clone(),
        client.state.clone(),
        duration(client.attached_seconds),
        client.worker_pid.to_string(),
        size(client.memory_held),
        client.calls.to_string(),
        client.launches.to_string(),
        client.errors.to_string(),
        if kernels.is_empty() {
            "-".into()
        } else {
            kernels.join(", ")
        },
    ]
}

pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut widths: Vec<usize> = header.iter().map(|title| title.len()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let header = header.iter().map(|&title| title.to_owned()).collect();
    for row in std::iter::once(header).chain(rows) {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Three digits and a unit.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut tenths = u128::from(bytes) * 10;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    match tenths % 10 {
        0 => format!("{} {}", tenths / 10, UNITS[unit]),
        rest => format!("{}.{rest} {}", tenths / 10, UNITS[unit]),
    }
}

pub(crate) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proxy_channel::admin::{Driver, Kernel, Layer, Proxy, SCHEMA, Totals};

    use super::*;

    pub(crate) fn status() -> Status {
        let client = Client {
            id: 7,
            pid: 1234,
            uid: 1000,
            program: "vectorAdd".into(),
            worker_pid: 99,
            state: "running".into(),
            attached_seconds: 61,
            memory_granted: 64 << 20,
            memory_measured: None,
            memory_held: 1536 << 10,
            calls: 10,
            launches: 3,
            errors: 0,
            paced_micros: 0,
            kernels: vec![Kernel {
                name: "saxpy".into(),
                launches: 3,
            }],
        };
        Status {
            schema: SCHEMA,
            proxy: Proxy {
                version: "0.1.0".into(),
                pid: 1,
                uptime_seconds: 90_000,
                state: "running".into(),
                driver: Driver {
                    kind: "softgpu".into(),
                    path: "/lib/libsoftcuda.so.1".into(),
                    why: "there is no NVIDIA device".into(),
                    version: Some(13030),
                    device_count: Some(1),
                },
                policy: None,
            },
            devices: Vec::new(),
            audit: None,
            monitor: None,
            api: None,
            zones: vec![Zone {
                name: "a".into(),
                socket: "/run/vgpu/a/gpu.sock".into(),
                memory_limit: 4 << 30,
                memory_used: 64 << 20,
                memory_room: 3 << 30,
                pinned_limit: 1 << 30,
                client_limit: 16,
                limits: [("handles.stream".into(), 8), ("images".into(), 1 << 30)].into(),
                allow: vec!["compute".into(), "memory".into()],
                rule: "policy.toml:3".into(),
                warm_workers: 1,
                starting_workers: 1,
                attached_total: 1,
                refused_total: 0,
                ended_total: [("detached".into(), 1)].into(),
                totals: Totals::default(),
                fallback: None,
                worker_failure: Some("no such device".into()),
                jail: Vec::new(),
                clients: vec![client],
            }],
        }
    }

    #[test]
    fn tables_show_zones_clients_and_why_there_is_no_worker() {
        let expected = "\
gpu-proxy 0.1.0 (running, pid 1, up 1d01h)
driver: softgpu /lib/libsoftcuda.so.1, CUDA 13.3, 1 device
        there is no NVIDIA device
policy: none, every zone may call everything (proxy.policy names a file)

ZONE  MEMORY  QUOTA  FREE   CLIENTS  WARM  ATTACHED  REFUSED  SOCKET
a     64 MiB  4 GiB  3 GiB  1/16     1+1   1         0        /run/vgpu/a/gpu.sock
zone a: no worker: no such device
zone a is limited: handles.stream 8, images 1 GiB

CLIENT  ZONE  PID   PROGRAM    STATE    UP     WORKER  MEMORY   CALLS  LAUNCHES  ERRORS  TOP KERNELS
7       a     1234  vectorAdd  running  1m01s  99      1.5 MiB  10     3         0       saxpy 3
";
        assert_eq!(render(&status()), expected);
    }

    #[test]
    fn layers_of_the_jail_that_are_not_on_are_named() {
        let mut status = status();
        status.zones[0].jail = [("calls", "on"), ("user", "off"), ("landlock", "missing")]
            .map(|(name, state)| Layer {
                name: name.into(),
                state: state.into(),
                why: String::new(),
            })
            .into();
        let line = "\nzone a: jail: user off, landlock missing (vgpuctl doctor)\n";
        assert!(render(&status).contains(line), "{}", render(&status));
    }

    #[test]
    fn with_a_policy_it_says_which_and_what_each_zone_is_granted() {
        let mut status = status();
        status.proxy.policy = Some("/etc/vgpu/policy.toml".into());
        let text = render(&status);
        assert!(text.contains("policy: /etc/vgpu/policy.toml\n"), "{text}");
        assert!(
            text.contains("zone a is granted compute, memory\n"),
            "{text}"
        );
        status.zones[0].allow.clear();
        assert!(render(&status).contains("zone a is granted nothing\n"));
    }

    #[test]
    fn devices_that_processes_share_are_listed_with_what_was_scrubbed() {
        let mut status = status();
        status.devices = vec![Device {
            ordinal: 0,
            state: "dirty".into(),
            since_seconds: Some(7),
            left_by: vec!["a".into()],
            stuck: vec![4711],
            failures: 2,
            failure: Some("it died".into()),
            scrubs: 1,
            scrubbed_bytes: 4 << 30,
            scrub_micros: 12_345,
        }];
        let expected = "
DEVICE  STATE  FOR  LEFT BY  SCRUBS  ZEROED  TOOK   FAILED
0       dirty  7s   a        1       4 GiB   12 ms  2
device 0: process 4711 was killed and does not go away
device 0: it died
";
        assert!(render(&status).contains(expected), "{}", render(&status));
    }

    #[test]
    fn without_clients_it_says_so() {
        let mut status = status();
        status.zones[0].clients.clear();
        assert!(render(&status).ends_with("\nno clients\n"));
    }

    #[test]
    fn sizes_of_every_magnitude_stay_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1 << 10, "1 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
