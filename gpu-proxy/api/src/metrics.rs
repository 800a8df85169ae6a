//! The supervisor's status as metrics, in the text form of OpenMetrics. `docs/metrics.md` lists them.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use proxy_channel::admin::{Device, Status, Zone};

/// Everything, as it stands in the status.
///
/// # Errors
/// What the encoder does not take.
pub fn render(status: &Status) -> Result<String, fmt::Error> {
    let mut families = of_proxy(status);
    families.extend(of_companions(status));
    families.extend(of_devices(&status.devices));
    families.extend(of_zones(status));
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// Metrics of one name.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    kind: MetricType,
    samples: Vec<Sample>,
}

#[derive(Debug)]
struct Sample {
    labels: Vec<(&'static str, String)>,
    value: f64,
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for family in self.0.iter().filter(|family| !family.samples.is_empty()) {
            let Family {
                name,
                help,
                unit,
                kind,
                ..
            } = family;
            let mut metric = encoder.encode_descriptor(name, help, unit.as_ref(), *kind)?;
            for Sample { labels, value } in &family.samples {
                match kind {
                    MetricType::Info => metric.encode_info(labels)?,
                    _ if labels.is_empty() => write(&mut metric, *kind, *value)?,
                    _ => write(&mut metric.encode_family(labels)?, *kind, *value)?,
                }
            }
        }
        Ok(())
    }
}

fn write(
    metric: &mut prometheus_client::encoding::MetricEncoder<'_>,
    kind: MetricType,
    value: f64,
) -> fmt::Result {
    match kind {
        MetricType::Counter => metric.encode_counter::<NoLabelSet, _, f64>(&value, None),
        _ => metric.encode_gauge(&value),
    }
}

fn gauge(name: &'static str, help: &'static str, samples: Vec<Sample>) -> Family {
    Family {
        name,
        help,
        unit: None,
        kind: MetricType::Gauge,
        samples,
    }
}

fn counter(name: &'static str, help: &'static str, samples: Vec<Sample>) -> Family {
    let kind = MetricType::Counter;
    Family {
        kind,
        ..gauge(name, help, samples)
    }
}

fn info(name: &'static str, help: &'static str, label: &'static str, value: &str) -> Family {
    let labels = vec![(label, value.to_owned())];
    let kind = MetricType::Info;
    Family {
        kind,
        ..gauge(name, help, vec![Sample { labels, value: 1.0 }])
    }
}

impl Family {
    fn in_unit(self, unit: Unit) -> Self {
        Self {
            unit: Some(unit),
            ..self
        }
    }
}

/// A sample without labels; none of what is not there.
fn alone(value: Option<f64>) -> Vec<Sample> {
    let labels = Vec::new();
    value
        .map(|value| Sample { labels, value })
        .into_iter()
        .collect()
}

/// A sample of each.
fn one_each<T>(
    all: &[T],
    label: impl Fn(&T) -> (&'static str, String),
    value: fn(&T) -> f64,
) -> Vec<Sample> {
    let sample = |one| Sample {
        labels: vec![label(one)],
        value: value(one),
    };
    all.iter().map(sample).collect()
}

fn flag(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}

/// Exact up to 2^53: 8 PiB, or 285 years in microseconds.
#[allow(clippy::cast_precision_loss, reason = "said above")]
fn float(value: u64) -> f64 {
    value as f64
}

fn of_proxy(status: &Status) -> Vec<Family> {
    let proxy = &status.proxy;
    vec![
        info("vgpu_build", "The proxy's build", "version", &proxy.version),
        info(
            "vgpu_driver",
            "The driver that workers load",
            "kind",
            &proxy.driver.kind,
        ),
        gauge(
            "vgpu_uptime",
            "How long the proxy has been running",
            alone(Some(float(proxy.uptime_seconds))),
        )
        .in_unit(Unit::Seconds),
        gauge(
            "vgpu_stopping",
            "Whether the proxy waits for its workers to end, and lets nobody attach",
            alone(Some(flag(proxy.state == "stopping"))),
        ),
    ]
}

fn of_companions(status: &Status) -> Vec<Family> {
    let audit = status.audit.as_ref();
    let monitor = status.monitor.as_ref();
    let monitor = monitor.filter(|monitor| monitor.mode != "off");
    let swept = monitor.and_then(|monitor| monitor.swept_millis_ago);
    vec![
        gauge(
            "vgpu_auditor_up",
            "Whether an auditor keeps the audit log; absent where nothing is recorded",
            alone(audit.map(|audit| flag(audit.away_seconds.is_none()))),
        ),
        gauge(
            "vgpu_audit_waiting_events",
            "Events that wait for the auditor",
            alone(audit.map(|audit| float(audit.waiting))),
        ),
        gauge(
            "vgpu_monitor_up",
            "Whether a monitor compares what workers hold with what the driver says; absent where none is to",
            alone(monitor.map(|monitor| flag(monitor.devices.is_some()))),
        ),
        gauge(
            "vgpu_monitor_sweep_age",
            "How long ago the monitor last looked at all devices",
            alone(swept.map(|millis| float(millis) / 1e3)),
        )
        .in_unit(Unit::Seconds),
    ]
}

fn of_devices(devices: &[Device]) -> Vec<Family> {
    const STATES: [&str; 5] = ["clean", "dirty", "scrubbing", "quarantined", "lost"];
    let label = |device: &Device| ("device", device.ordinal.to_string());
    let each = |value: fn(&Device) -> f64| one_each(devices, label, value);
    let states = devices.iter().flat_map(|device| {
        STATES.map(|state| Sample {
            labels: vec![label(device), ("state", state.to_owned())],
            value: flag(device.state == state),
        })
    });
    vec![
        gauge(
            "vgpu_device_state",
            "1 for the state of a device whose memory processes share, 0 for all others",
            states.collect(),
        ),
        gauge(
            "vgpu_device_stuck_workers",
            "Workers that were killed and do not go",
            each(|device| float(device.stuck.len() as u64)),
        ),
        gauge(
            "vgpu_device_scrub_failures",
            "Scrubs, or probes, that failed in a row",
            each(|device| device.failures.into()),
        ),
        counter(
            "vgpu_device_scrubs",
            "Scrubs that were done",
            each(|device| float(device.scrubs)),
        ),
        counter(
            "vgpu_device_scrubbed",
            "Device memory that scrubs zeroed",
            each(|device| float(device.scrubbed_bytes)),
        )
        .in_unit(Unit::Bytes),
        counter(
            "vgpu_device_scrub",
            "How long scrubs took",
            each(|device| float(device.scrub_micros) / 1e6),
        )
        .in_unit(Unit::Seconds),
    ]
}

fn of_zones(status: &Status) -> Vec<Family> {
    let zones = &status.zones;
    let label = |zone: &Zone| ("zone", zone.name.clone());
    let each = |value: fn(&Zone) -> f64| one_each(zones, label, value);
    let by = |what: &'static str, count: fn(&Zone) -> BTreeMap<&str, u64>| {
        let of_zone = |zone| {
            let counts = count(zone).into_iter();
            counts.map(move |(which, count)| Sample {
                labels: vec![label(zone), (what, which.to_owned())],
                value: float(count),
            })
        };
        zones.iter().flat_map(of_zone).collect::<Vec<_>>()
    };
    let closed = status.audit.as_ref().map(|audit| &audit.closed);
    let closed = closed.into_iter().flat_map(|closed| {
        zones.iter().map(|zone| Sample {
            labels: vec![label(zone)],
            value: flag(closed.contains(&zone.name)),
        })
    });
    let mut families = vec![
        gauge(
            "vgpu_zone_memory_limit",
            "The zone's quota of device memory",
            each(|zone| float(zone.memory_limit)),
        )
        .in_unit(Unit::Bytes),
        gauge(
            "vgpu_zone_memory_used",
            "Device memory that its workers have been granted",
            each(|zone| float(zone.memory_used)),
        )
        .in_unit(Unit::Bytes),
        gauge(
            "vgpu_zone_memory_room",
            "Device memory that could be granted to it now",
            each(|zone| float(zone.memory_room)),
        )
        .in_unit(Unit::Bytes),
        gauge(
            "vgpu_zone_client_limit",
            "Most clients at one time",
            each(|zone| zone.client_limit.into()),
        ),
        gauge(
            "vgpu_zone_clients",
            "Clients, by state; stuck is one whose worker was killed and does not go",
            by("state", clients),
        ),
        gauge(
            "vgpu_zone_workers",
            "Workers without a client, by state",
            by("state", |zone| {
                let [warm, starting] = [zone.warm_workers, zone.starting_workers].map(u64::from);
                BTreeMap::from([("warm", warm), ("starting", starting)])
            }),
        ),
        gauge(
            "vgpu_zone_jail_layers",
            "Layers of its workers' jail, by state",
            by("state", layers),
        ),
        gauge(
            "vgpu_zone_worker_failing",
            "Whether its workers do not start",
            each(|zone| flag(zone.worker_failure.is_some())),
        ),
        gauge(
            "vgpu_zone_fallback",
            "Whether the software GPU serves its new clients instead of a device",
            each(|zone| flag(zone.fallback.is_some())),
        ),
        gauge(
            "vgpu_zone_audit_closed",
            "Whether it may acquire and run nothing, because that cannot be recorded",
            closed.collect(),
        ),
        counter(
            "vgpu_zone_attached",
            "Clients that attached",
            each(|zone| float(zone.attached_total)),
        ),
        counter(
            "vgpu_zone_refused",
            "Clients that were refused",
            each(|zone| float(zone.refused_total)),
        ),
        counter(
            "vgpu_zone_ended",
            "Clients that had a worker and ended, by the reason",
            by("reason", |zone| {
                let ended = zone.ended_total.iter();
                ended
                    .map(|(reason, &count)| (reason.as_str(), count))
                    .collect()
            }),
        ),
    ];
    families.extend(of_work(each));
    families
}

/// What clients did, by the claims of their workers.
fn of_work(each: impl Fn(fn(&Zone) -> f64) -> Vec<Sample>) -> [Family; 4] {
    [
        counter(
            "vgpu_zone_calls",
            "Calls that were forwarded to a worker, as the workers claim",
            each(|zone| float(zone.totals.calls)),
        ),
        counter(
            "vgpu_zone_launches",
            "Kernel launches, as the workers claim",
            each(|zone| float(zone.totals.launches)),
        ),
        counter(
            "vgpu_zone_call_errors",
            "Calls that the driver answered with an error, as the workers claim",
            each(|zone| float(zone.totals.errors)),
        ),
        counter(
            "vgpu_zone_paced",
            "How long its clients were made to wait by its rates, as the workers claim",
            each(|zone| float(zone.totals.paced_micros) / 1e6),
        )
        .in_unit(Unit::Seconds),
    ]
}

fn clients(zone: &Zone) -> BTreeMap<&str, u64> {
    let states = ["attaching", "running", "ending", "stuck"];
    let mut counts = BTreeMap::from(states.map(|state| (state, 0)));
    for client in &zone.clients {
        *counts.entry(client.state.as_str()).or_default() += 1;
    }
    counts
}

fn layers(zone: &Zone) -> BTreeMap<&str, u64> {
    let mut counts = BTreeMap::from(["on", "off", "missing", "log"].map(|state| (state, 0)));
    for layer in &zone.jail {
        *counts.entry(layer.state.as_str()).or_default() += 1;
    }
    counts
}
