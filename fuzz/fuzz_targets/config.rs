//! Configurations of arbitrary text: every one is either refused with reasons or prints as one that reads
//! back as the same.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use supervisor::config::{Config, Installation};

fuzz_target!(|source: &str| {
    let installation = Installation {
        executable_dir: "/opt/vgpu".into(),
    };
    let parse = |source: &str| Config::parse(Path::new("fuzz.toml"), source, &installation);
    match parse(source) {
        Ok(config) => assert_eq!(parse(&config.to_string()).as_ref(), Ok(&config)),
        Err(mistakes) => assert!(!mistakes.list.is_empty() && !mistakes.to_string().is_empty()),
    }
});
