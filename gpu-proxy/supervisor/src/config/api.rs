//! `[api]`: who serves metrics, and where.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use proxy_policy::document::{Reader, Section};

use super::read::{NO_ID, absolute};
use super::{Installation, quoted};

/// `[api]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiConfig {
    /// `listen`: an address of this host and a port; port 0 is any that is free. Default `127.0.0.1:9464`.
    pub listen: SocketAddr,
    /// `api`: its executable. Default: `vgpu-api` beside `gpu-proxy`.
    pub api: PathBuf,
    /// `uid`: the user that it runs as, if the proxy is root. Default: the proxy's.
    pub uid: Option<u32>,
    /// `gid`: its group. Default: the proxy's.
    pub gid: Option<u32>,
}

/// Where metrics are looked for by default.
const LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9464);

pub(super) fn read<'s>(
    reader: &mut Reader<'s>,
    mut section: Section<'s>,
    installation: &Installation,
) -> ApiConfig {
    let keys = &mut section;
    let config = ApiConfig {
        listen: address(reader, keys).unwrap_or(LISTEN),
        api: absolute(reader, keys, "api")
            .unwrap_or_else(|| installation.executable_dir.join("vgpu-api")),
        uid: reader.number(keys, "uid", 0..NO_ID),
        gid: reader.number(keys, "gid", 0..NO_ID),
    };
    reader.close(section);
    config
}

fn address<'s>(reader: &mut Reader<'s>, keys: &mut Section<'s>) -> Option<SocketAddr> {
    let (item, text) = reader.text(keys, "listen", "\"127.0.0.1:9464\"")?;
    let address = text.parse().ok();
    if address.is_none() {
        let problem = format!("{text:?} is no address with a port");
        let remedy = "write numbers, \"127.0.0.1:9464\" or \"[::1]:9464\"; names are not looked up";
        reader.mistake(item.at, &item.key, problem, remedy);
    }
    address
}

impl fmt::Display for ApiConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[api]\nlisten = \"{}\"", self.listen)?;
        writeln!(f, "api = {}", quoted(&self.api.to_string_lossy()))?;
        super::numbers(f, &[("uid", self.uid), ("gid", self.gid)])
    }
}
