//! What the process knows of its zone.

#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use idm_protocol::attach::RefusalCode;
use idm_protocol::attach::client::{AttachError, survey};
use idm_protocol::attach::survey::{Device, MAX_DEVICES, Survey};

use super::Outcome;
use super::types::{nvmlDevice_t, nvmlReturn_t};
use crate::log::say;
use crate::session;

/// The library as its users left it.
#[derive(Debug, Default)]
struct State {
    /// Initialisations without their shutdown.
    users: u32,
    /// The zone as the first of them found it: its devices keep their order until the last shutdown.
    zone: Option<Arc<Survey>>,
}

static STATE: Mutex<State> = Mutex::new(State {
    users: 0,
    zone: None,
});

/// Device handles point here, one byte each, so that whatever else a caller passes is told apart.
static HANDLES: [u8; MAX_DEVICES] = [0; MAX_DEVICES];

/// Adds a user. The first one looks at the zone.
pub fn initialise() -> Outcome {
    if let Some(users) = add_user(None) {
        say!(Debug, "NVML has {users} users");
        return Ok(());
    }
    // Not under the lock: a fork of another thread must not find it taken for long.
    let zone = look()?;
    say!(
        Info,
        "NVML shows {} device(s) of the zone, driver {} {}, quota {} MiB",
        zone.devices().len(),
        zone.driver_kind.name(),
        zone.driver_version,
        zone.memory_limit >> 20
    );
    add_user(Some(zone));
    Ok(())
}

/// Takes a user away.
pub fn shut_down() -> Outcome {
    let mut state = state();
    state.users = state
        .users
        .checked_sub(1)
        .ok_or(nvmlReturn_t::NVML_ERROR_UNINITIALIZED)?;
    if state.users == 0 {
        state.zone = None;
    }
    Ok(())
}

/// The zone as it was when the library was initialised.
pub fn initialised() -> Outcome<Arc<Survey>> {
    state()
        .zone
        .clone()
        .ok_or(nvmlReturn_t::NVML_ERROR_UNINITIALIZED)
}

/// The zone for the few questions that need no initialisation.
pub fn known() -> Outcome<Arc<Survey>> {
    initialised().or_else(|_| look())
}

/// The zone as it is now.
pub fn now() -> Outcome<Arc<Survey>> {
    initialised()?;
    look()
}

/// A device by its handle, as it was when the library was initialised.
pub fn device(handle: nvmlDevice_t) -> Outcome<(usize, Device)> {
    let zone = initialised()?;
    let index = index_of(handle).ok_or(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT)?;
    let device = zone.devices().get(index);
    device
        .map(|device| (index, *device))
        .ok_or(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT)
}

/// The zone as it is now, if the device is still there.
pub fn device_now(handle: nvmlDevice_t) -> Outcome<(Arc<Survey>, Device)> {
    let (_, device) = device(handle)?;
    let zone = look()?;
    let found = zone
        .devices()
        .iter()
        .find(|found| found.uuid == device.uuid)
        .copied();
    // The proxy was started anew with other devices, say.
    found
        .map(|device| (zone, device))
        .ok_or(nvmlReturn_t::NVML_ERROR_GPU_IS_LOST)
}

/// The handle of the first device of the zone that is the wanted one.
pub fn find(wanted: impl FnMut(&Device) -> bool) -> Outcome<nvmlDevice_t> {
    let zone = initialised()?;
    let index = zone.devices().iter().position(wanted);
    index
        .and_then(|index| HANDLES.get(index))
        .map(|place| nvmlDevice_t(std::ptr::from_ref(place).cast()))
        .ok_or(nvmlReturn_t::NVML_ERROR_NOT_FOUND)
}

/// The handle of a device by its index.
pub fn handle(index: u32) -> Outcome<nvmlDevice_t> {
    let zone = initialised()?;
    let index = usize::try_from(index).unwrap_or(usize::MAX);
    (index < zone.devices().len())
        .then(|| HANDLES.get(index))
        .flatten()
        .map(|place| nvmlDevice_t(std::ptr::from_ref(place).cast()))
        .ok_or(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT)
}

fn index_of(handle: nvmlDevice_t) -> Option<usize> {
    HANDLES
        .iter()
        .position(|place| std::ptr::from_ref(place).cast() == handle.0)
}

/// Adds a user where the zone is known or is now; tells how many there are.
fn add_user(zone: Option<Arc<Survey>>) -> Option<u32> {
    let mut state = state();
    if state.zone.is_none() {
        state.zone = Some(zone?);
    }
    state.users = state.users.saturating_add(1);
    Some(state.users)
}

/// Asks the supervisor.
fn look() -> Outcome<Arc<Survey>> {
    let socket = session::socket();
    survey(&socket, session::attach_timeout())
        .map(Arc::from)
        .map_err(|error| {
            say!(Warn, "NVML cannot look at the zone: {error}");
            code(&error)
        })
}

fn code(error: &AttachError) -> nvmlReturn_t {
    match error {
        AttachError::Connect { error, .. }
            if error.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            nvmlReturn_t::NVML_ERROR_NO_PERMISSION
        }
        AttachError::Refused { code, .. } => match *code {
            RefusalCode::UID_NOT_ALLOWED | RefusalCode::NOT_GRANTED => {
                nvmlReturn_t::NVML_ERROR_NO_PERMISSION
            }
            RefusalCode::WRONG_VERSION | RefusalCode::MALFORMED => {
                nvmlReturn_t::NVML_ERROR_LIB_RM_VERSION_MISMATCH
            }
            RefusalCode::DEVICE_LOST => nvmlReturn_t::NVML_ERROR_GPU_IS_LOST,
            _ => nvmlReturn_t::NVML_ERROR_DRIVER_NOT_LOADED,
        },
        AttachError::Malformed(_) => nvmlReturn_t::NVML_ERROR_LIB_RM_VERSION_MISMATCH,
        AttachError::Timeout(_) => nvmlReturn_t::NVML_ERROR_TIMEOUT,
        _ => nvmlReturn_t::NVML_ERROR_DRIVER_NOT_LOADED,
    }
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use idm_protocol::attach::Text;
    use zerocopy::FromZeros;

    use super::*;

    /// One test, because the state is the process's.
    #[test]
    fn handles_are_those_of_the_zone_until_the_last_user_leaves() {
        assert!(matches!(
            handle(0),
            Err(nvmlReturn_t::NVML_ERROR_UNINITIALIZED)
        ));
        assert_eq!(shut_down(), Err(nvmlReturn_t::NVML_ERROR_UNINITIALIZED));
        let mut zone = Survey::empty();
        for number in 0..2 {
            zone.add_device(Device {
                uuid: [number; 16],
                name: Text::new("a device"),
                ..Device::new_zeroed()
            });
        }
        assert_eq!(add_user(None), None);
        assert_eq!(add_user(Some(Arc::from(zone))), Some(1));
        assert_eq!(add_user(None), Some(2));
        let second = handle(1).unwrap();
        assert_eq!(device(second).unwrap().1.uuid, [1; 16]);
        assert_eq!(find(|device| device.uuid == [1; 16]).unwrap(), second);
        assert_eq!(handle(2), Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT));
        assert_eq!(find(|_| false), Err(nvmlReturn_t::NVML_ERROR_NOT_FOUND));
        for forged in [std::ptr::null(), std::ptr::from_ref(&HANDLES[2]).cast()] {
            let refused = device(nvmlDevice_t(forged)).unwrap_err();
            assert_eq!(refused, nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT);
        }
        assert_eq!(shut_down(), Ok(()));
        assert!(device(second).is_ok());
        assert_eq!(shut_down(), Ok(()));
        assert_eq!(
            device(second).unwrap_err(),
            nvmlReturn_t::NVML_ERROR_UNINITIALIZED
        );
    }

    #[test]
    fn each_reason_of_the_proxy_has_its_code() {
        let refused = |code| AttachError::Refused {
            code,
            text: String::new(),
        };
        let cases = [
            (
                refused(RefusalCode::UID_NOT_ALLOWED),
                nvmlReturn_t::NVML_ERROR_NO_PERMISSION,
            ),
            (
                refused(RefusalCode::WRONG_VERSION),
                nvmlReturn_t::NVML_ERROR_LIB_RM_VERSION_MISMATCH,
            ),
            (
                refused(RefusalCode::DEVICE_LOST),
                nvmlReturn_t::NVML_ERROR_GPU_IS_LOST,
            ),
            (
                refused(RefusalCode::NO_WORKER),
                nvmlReturn_t::NVML_ERROR_DRIVER_NOT_LOADED,
            ),
            (
                AttachError::HungUp,
                nvmlReturn_t::NVML_ERROR_DRIVER_NOT_LOADED,
            ),
            (
                AttachError::Timeout(std::time::Duration::ZERO),
                nvmlReturn_t::NVML_ERROR_TIMEOUT,
            ),
        ];
        for (error, expected) in cases {
            assert_eq!(code(&error), expected, "{error}");
        }
    }
}
