//! Results, whether they meet their goals, and the files they are written to.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt::Write as _;
use std::fs;

use e2e::place;
use serde_json::{Map, Value, json};

/// What a result is held to.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    RatioAtMost(f64),
    RatioAtLeast(f64),
    ValueAtMost(f64),
    /// Recorded; the goal holds on a real GPU only.
    None,
    /// Recorded; nothing is promised.
    Information,
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Result {
    name: String,
    unit: &'static str,
    value: f64,
    reference: f64,
    goal: Goal,
    pub what: &'static str,
    parts: Vec<(&'static str, f64)>,
    note: Option<String>,
}

impl Result {
    pub fn new(
        name: impl Into<String>,
        unit: &'static str,
        value: f64,
        reference: f64,
        goal: Goal,
    ) -> Self {
        Self {
            name: name.into(),
            unit,
            value,
            reference,
            goal,
            what: "",
            parts: Vec::new(),
            note: None,
        }
    }

    /// A further number that helps to understand the result.
    pub fn part(&mut self, name: &'static str, value: f64) {
        self.parts.push((name, value));
    }

    fn ratio(&self) -> f64 {
        if self.reference == 0.0 {
            self.value
        } else {
            self.value / self.reference
        }
    }

    fn is_met(&self) -> Option<bool> {
        match self.goal {
            Goal::RatioAtMost(limit) => Some(self.ratio() <= limit),
            Goal::RatioAtLeast(limit) => Some(self.ratio() >= limit),
            Goal::ValueAtMost(limit) => Some(self.value <= limit),
            Goal::None | Goal::Information => None,
        }
    }

    fn goal_text(&self) -> String {
        match self.goal {
            Goal::RatioAtMost(limit) => format!("ratio ≤ {limit}"),
            Goal::RatioAtLeast(limit) => format!("ratio ≥ {limit}"),
            Goal::ValueAtMost(limit) => format!("≤ {limit} {}", self.unit),
            Goal::None => "on a GPU".to_owned(),
            Goal::Information => "-".to_owned(),
        }
    }

    /// Where a missed goal's time goes, from the parts that were measured beside it.
    pub fn explain(&mut self) {
        if self.is_met() != Some(false) {
            return;
        }
        let part = |name: &str| {
            self.parts
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| *value)
        };
        let parts = |names: [&str; 2]| Some((part(names[0])?, part(names[1])?));
        let query = parts(["cuStreamQuery(0)", crate::DIRECT_QUERY]);
        self.note = Some(match (self.name.as_str(), query) {
            ("null_call", Some((query, driver))) => format!(
                "the floor moves one line each way and looks at nothing, so that its answer's line is on its way before \
                 the question is read; where to answer here stands in the record. Ours takes {:.0} ns more to copy, \
                 check, count, dispatch and answer a record, and a call through the driver {:.0} ns more than that, of \
                 which {driver:.0} are the driver's. Tried without gain: clearing lines of the ring ahead of their \
                 records, records 128 bytes apart, bringing the answer's line when a record is taken",
                self.value - self.reference,
                query - self.value,
            ),
            ("copy_pageable_64m", _) => {
                "each byte is copied twice (memory to staging, staging to the device); hiding one of the copies \
                 needs a second idle core and memory bandwidth for both"
                    .to_owned()
            }
            ("wake", _) => "the floor's peer looks at one word; ours takes a record, calls the driver and answers with \
                 code and data gone cold in 2 ms. In a profile the worker's own time has no peak: the largest entries \
                 are the dispatcher's loop and the copies of the record, a tenth each, the rest is the driver's look at \
                 the stream and the system's futex calls"
                .to_owned(),
            ("softgpu_reduction", _) => "the loop in C runs in vector registers at the speed of memory. In a profile of \
                 the kernel a third is the interpreter's dispatch and an eighth waits for memory, although rows at \
                 equal distances are fetched ahead; barriers and the tree in shared memory do not show"
                .to_owned(),
            _ => "the parts above were measured in the same run".to_owned(),
        });
    }

    fn json(&self) -> Value {
        let mut fields = Map::new();
        for (key, value) in [
            ("value", self.value),
            ("reference", self.reference),
            ("ratio", self.ratio()),
        ] {
            fields.insert(key.to_owned(), json!(value));
        }
        fields.insert("unit".to_owned(), json!(self.unit));
        fields.insert("goal".to_owned(), json!(self.goal_text()));
        fields.insert("met".to_owned(), json!(self.is_met()));
        let parts: Map<String, Value> = self
            .parts
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect();
        fields.insert("parts".to_owned(), Value::Object(parts));
        Value::Object(fields)
    }
}

/// Prints the table and what each result consists of.
pub fn print(results: &[Result], busy_percent: f64) {
    println!("{}{}", table(results), parts(results));
    println!("bench: {}", fairness(busy_percent));
}

/// Prints the table and writes both files.
pub fn write(results: &[Result], busy_percent: f64) -> std::result::Result<(), Box<dyn Error>> {
    let table = table(results);
    println!("{table}");
    println!("bench: {}", fairness(busy_percent));
    let object: Map<String, Value> = results
        .iter()
        .map(|result| (result.name.clone(), result.json()))
        .collect();
    // Beside the profile directory, wherever that is.
    let target = place::profile();
    let target = target
        .parent()
        .ok_or("the profile directory has no parent")?;
    let path = target.join("bench.json");
    fs::write(
        &path,
        serde_json::to_string_pretty(&Value::Object(object))? + "\n",
    )?;
    println!("bench: wrote {}", path.display());
    let folder = place::repository().join("docs/results");
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{}-bench-softgpu.md", today()?));
    fs::write(&path, document(results, &table, busy_percent)?)?;
    println!("bench: wrote {}", path.canonicalize()?.display());
    let missed: Vec<&str> = results
        .iter()
        .filter(|result| result.is_met() == Some(false))
        .map(|result| result.name.as_str())
        .collect();
    if missed.is_empty() {
        println!("bench: every goal that can be measured here is met");
    } else {
        println!("bench: missed: {}", missed.join(", "));
    }
    Ok(())
}

/// Whether the run says anything: spinning waits need a core each.
fn fairness(busy_percent: f64) -> String {
    if busy_percent < 10.0 {
        format!("Other programs used {busy_percent:.0} % of the processors.")
    } else {
        format!(
            "Other programs used {busy_percent:.0} % of the processors: where a goal is missed this run decides \
             nothing, because waits that spin need a core each. Repeat it on a machine that does nothing else."
        )
    }
}

fn table(results: &[Result]) -> String {
    let mut text = String::from(
        "| what | value | reference | ratio | goal | met |\n|---|---:|---:|---:|---|---|\n",
    );
    for result in results {
        let met = match result.is_met() {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "-",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} {} | {} | {:.2} | {} | {met} |",
            result.name,
            number(result.value),
            result.unit,
            number(result.reference),
            result.ratio(),
            result.goal_text(),
        );
    }
    text
}

fn document(
    results: &[Result],
    table: &str,
    busy_percent: f64,
) -> std::result::Result<String, Box<dyn Error>> {
    let mut text = format!("# Benchmark on the software GPU, {}\n\n", today()?);
    let _ = writeln!(text, "{}\n", machine());
    let _ = writeln!(
        text,
        "Made by `make bench`. Medians of {} runs that take turns with their references; ratios compare within one \
         run only.\n",
        crate::TURNS
    );
    let _ = writeln!(text, "{}\n", fairness(busy_percent));
    text.push_str(table);
    text.push_str("\n## What each one is\n\n");
    text.push_str(&parts(results));
    Ok(text)
}

fn parts(results: &[Result]) -> String {
    let mut text = String::new();
    for result in results {
        let _ = writeln!(text, "- **{}**: {}.", result.name, result.what);
        for (name, value) in &result.parts {
            let _ = writeln!(text, "  - {name}: {} {}", number(*value), result.unit);
        }
        if let Some(note) = &result.note {
            let _ = writeln!(text, "  - goal missed: {note}");
        }
    }
    text
}

fn number(value: f64) -> String {
    if value == 0.0 || value >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| {
            line.strip_prefix("model name")
                .map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
        })
        .unwrap_or_else(|| "unknown processor".to_owned());
    let count = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let load = read("/proc/loadavg")
        .split_whitespace()
        .next()
        .unwrap_or("?")
        .to_owned();
    format!(
        "{processor}, {count} CPUs, Linux {}, load {load} at the end.",
        read("/proc/sys/kernel/osrelease").trim()
    )
}

/// Today's date in UTC.
fn today() -> std::result::Result<String, Box<dyn Error>> {
    let output = std::process::Command::new("date")
        .args(["-u", "+%Y-%m-%d"])
        .output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
