//! Which driver library the workers load, and why (D3).

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use proxy_channel::DriverKind;
use thiserror::Error;

use crate::config::{DriverConfig, DriverSelection};

/// Where NVIDIA's driver library lies, by absolute path, on the systems we know: Debian and its kin, Red Hat
/// and its kin, Arch, NixOS, containers of NVIDIA's toolkit, WSL.
pub const NVIDIA_CANDIDATES: [&str; 8] = [
    "/usr/lib/x86_64-linux-gnu/libcuda.so.1",
    "/usr/lib/aarch64-linux-gnu/libcuda.so.1",
    "/usr/lib64/libcuda.so.1",
    "/usr/lib/libcuda.so.1",
    "/run/opengl-driver/lib/libcuda.so.1",
    "/usr/local/nvidia/lib64/libcuda.so.1",
    "/run/nvidia/driver/usr/lib/x86_64-linux-gnu/libcuda.so.1",
    "/usr/lib/wsl/lib/libcuda.so.1",
];

/// Device nodes, any of which means that there is a device.
const DEVICE_NODES: [&str; 3] = ["/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg"];

/// Where the software GPU lies, from the folder of `gpu-proxy`.
const SOFTGPU_CANDIDATES: [&str; 4] = [
    "libsoftcuda.so.1",
    "libsoftcuda.so",
    "../lib/vgpu/libsoftcuda.so.1",
    "../lib/libsoftcuda.so.1",
];

/// A library, and why it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// What it is.
    pub kind: DriverKind,
    /// Where it is.
    pub path: PathBuf,
    /// Why it was chosen.
    pub why: String,
}

/// There is no library to load.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum DriverError {
    /// The configured one is not there.
    #[error("driver.library {} does not exist; correct it, or leave it out to have it looked for", .0.display())]
    Configured(PathBuf),
    /// NVIDIA's is configured and not found.
    #[error("driver.kind is \"nvidia\", but none of {} exists; install the driver, or set driver.library", NVIDIA_CANDIDATES.join(", "))]
    NoNvidia,
    /// The software GPU is needed and not found.
    #[error("{why}, and the software GPU (libsoftcuda.so.1) is not beside gpu-proxy in {}; install it there, or set driver.library", folder.display())]
    NoSoftgpu {
        /// Why it is needed.
        why: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
}

impl Driver {
    /// Chooses by configuration and by what is found under `root` (`/` but in tests) and beside the
    /// executable.
    pub fn choose(
        config: &DriverConfig,
        root: &Path,
        executable_dir: &Path,
    ) -> Result<Self, DriverError> {
        if let Some(path) = &config.library {
            if !path.exists() {
                return Err(DriverError::Configured(path.clone()));
            }
            let kind = match config.kind {
                DriverSelection::Nvidia => DriverKind::NVIDIA,
                _ => DriverKind::SOFTGPU,
            };
            return Ok(Self {
                kind,
                path: path.clone(),
                why: "driver.library names it".into(),
            });
        }
        let under_root = |path: &&str| root.join(path.trim_start_matches('/')).exists();
        let nvidia = || {
            NVIDIA_CANDIDATES
                .into_iter()
                .find(under_root)
                .map(PathBuf::from)
        };
        let softgpu = |why: String| {
            let folder = executable_dir.to_owned();
            match SOFTGPU_CANDIDATES
                .iter()
                .map(|name| folder.join(name))
                .find(|path| path.exists())
            {
                Some(path) => Ok(Self {
                    kind: DriverKind::SOFTGPU,
                    path,
                    why,
                }),
                None => Err(DriverError::NoSoftgpu { why, folder }),
            }
        };
        match config.kind {
            DriverSelection::Nvidia => {
                let path = nvidia().ok_or(DriverError::NoNvidia)?;
                Ok(Self {
                    kind: DriverKind::NVIDIA,
                    path,
                    why: "driver.kind is \"nvidia\"".into(),
                })
            }
            DriverSelection::Softgpu => softgpu("driver.kind is \"softgpu\"".into()),
            DriverSelection::Auto => {
                let Some(node) = DEVICE_NODES.into_iter().find(under_root) else {
                    return softgpu("there is no NVIDIA device (no /dev/nvidiactl)".into());
                };
                match nvidia() {
                    Some(path) => {
                        let why = format!("{node} and {} exist", path.display());
                        Ok(Self {
                            kind: DriverKind::NVIDIA,
                            path,
                            why,
                        })
                    }
                    None => softgpu(format!(
                        "{node} exists, but no libcuda.so.1 in the usual places"
                    )),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A file system with these files, and a folder of executables in it.
    fn host(files: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let executables = root.path().join("opt/vgpu");
        (root, executables)
    }

    fn choose(kind: DriverSelection, files: &[&str]) -> Result<Driver, DriverError> {
        let (root, executables) = host(files);
        let config = DriverConfig {
            kind,
            ..DriverConfig::default()
        };
        Driver::choose(&config, root.path(), &executables)
    }

    const SOFT: &str = "/opt/vgpu/libsoftcuda.so.1";
    const LIBCUDA: &str = "/usr/lib64/libcuda.so.1";

    #[test]
    fn auto_takes_nvidia_only_with_device_and_library_and_says_why() {
        let driver = choose(DriverSelection::Auto, &["/dev/nvidiactl", LIBCUDA, SOFT]).unwrap();
        assert_eq!(
            (driver.kind, driver.path.to_str()),
            (DriverKind::NVIDIA, Some(LIBCUDA))
        );
        let driver = choose(DriverSelection::Auto, &[LIBCUDA, SOFT]).unwrap();
        assert_eq!(driver.kind, DriverKind::SOFTGPU);
        assert!(driver.why.contains("no NVIDIA device"), "{}", driver.why);
        let driver = choose(DriverSelection::Auto, &["/dev/nvidia0", SOFT]).unwrap();
        assert_eq!(driver.kind, DriverKind::SOFTGPU);
        assert!(driver.why.contains("no libcuda.so.1"), "{}", driver.why);
    }

    #[test]
    fn what_is_missing_is_named_with_a_remedy() {
        let error = choose(DriverSelection::Auto, &[]).unwrap_err().to_string();
        assert!(
            error.contains("no NVIDIA device") && error.contains("libsoftcuda.so.1"),
            "{error}"
        );
        assert_eq!(
            choose(DriverSelection::Nvidia, &[SOFT]),
            Err(DriverError::NoNvidia)
        );
        let config = DriverConfig {
            kind: DriverSelection::Nvidia,
            library: Some("/nowhere/libcuda.so.1".into()),
            ..DriverConfig::default()
        };
        let error = Driver::choose(&config, Path::new("/"), Path::new("/")).unwrap_err();
        assert!(matches!(error, DriverError::Configured(_)));
    }
}
