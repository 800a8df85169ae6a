//! Policies of arbitrary text: every one is either refused with reasons or can be explained, call by call.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use proxy_policy::Policy;

fuzz_target!(|source: &str| {
    match Policy::parse(Path::new("fuzz.toml"), source) {
        Ok(policy) => {
            for zone in policy.rules.iter().map(|rule| rule.zone.as_str()).chain(["nobody"]) {
                for call in ["cuLaunchKernel", "nvmlInit_v2", "cuMulticastCreate", "cudaMalloc"] {
                    let _ = policy.explain(zone, call).map(|explained| explained.to_string());
                }
            }
            let _ = policy.check_zones(&["a", "b"]);
        }
        Err(mistakes) => assert!(!mistakes.list.is_empty() && !mistakes.to_string().is_empty()),
    }
});
