//! A supervisor whose zones share a device, and whose scrubbers do what they are told.

use std::fs;
use std::path::Path;

use idm_protocol::attach::client::Attachment;
use nix::sys::signal::Signal;
use proxy_channel::admin::{Device, Status};

use super::{Proxy, wait_until};

/// Two zones on one device that processes share, and a scrubber that does what a file says.
pub struct Shared {
    pub proxy: Proxy,
    word: tempfile::NamedTempFile,
    rules: tempfile::NamedTempFile,
}

impl Shared {
    /// With further lines of `[proxy]`, and a policy if one is given.
    pub fn start(proxy: &str, policy: &str) -> Self {
        let word = tempfile::NamedTempFile::new().unwrap();
        let path = word.path().display().to_string();
        let env = format!("SOFTGPU_SHARED = \"/nowhere\", FAKE_SCRUB = \"{path}\"");
        let zones = ["a", "b"].map(|zone| {
            format!("[[zone]]\nname = \"{zone}\"\nmemory = \"1GiB\"\npinned = \"32MiB\"\n")
        });
        let rules = tempfile::NamedTempFile::new().unwrap();
        fs::write(rules.path(), format!("version = 1\n{policy}")).unwrap();
        let mut lines = proxy.to_owned();
        if !policy.is_empty() {
            lines.push_str(&format!("\npolicy = \"{}\"", rules.path().display()));
        }
        let proxy = Proxy::start_with(&lines, &env, &zones.concat());
        let shared = Self { proxy, word, rules };
        // What was there before nobody knows.
        shared.wait_for_state("clean");
        shared
    }

    /// What scrubbers do from now on.
    pub fn say(&self, word: &str) {
        let path: &Path = self.word.path();
        fs::write(path, word).unwrap();
    }

    /// Puts another policy into force.
    pub fn reload(&self, policy: &str) {
        fs::write(self.rules.path(), format!("version = 1\n{policy}")).unwrap();
        self.proxy.signal(Signal::SIGHUP);
    }

    pub fn device(&self) -> Device {
        self.proxy.status().devices[0].clone()
    }

    pub fn wait_for_state(&self, state: &str) {
        let is = |status: &Status| {
            let device = status.devices.first();
            device.is_some_and(|device| device.state == state)
        };
        self.proxy.wait_for_status(state, is);
    }

    pub fn used(&self, zone: usize) -> u64 {
        self.proxy.status().zones[zone].memory_used
    }

    /// A client that asks for memory.
    pub fn charge(&self, zone: &str) -> Attachment {
        let program = format!("charge:{}", 1 << 20);
        self.proxy.attach(zone, &program).unwrap()
    }

    /// A worker of zone a dies, and the supervisor knows: its client learns of it first.
    pub fn soil(&self) {
        let deaths = || self.proxy.log().matches("devices are dirty").count();
        let before = deaths();
        let attached = self.proxy.attach("a", "die").unwrap();
        attached.lifeline.wait_cut();
        wait_until("what the dead worker leaves", || before < deaths());
    }
}
