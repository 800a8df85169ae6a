//! The C types of the functions that have an answer, as the header lays them out.

#![forbid(unsafe_code)]
#![allow(
    non_camel_case_types,
    non_snake_case,
    reason = "types and fields have the names they have in C"
)]

use core::ffi::{CStr, c_char, c_int, c_uint, c_void};

macro_rules! returns {
    ($($name:ident: $value:literal, $label:literal;)+) => {
        /// What a function returns. Unknown values survive.
        #[derive(Clone, Copy, PartialEq, Eq)]
        #[repr(transparent)]
        pub struct nvmlReturn_t(pub u32);

        impl nvmlReturn_t {
            $(#[doc = $label] pub const $name: Self = Self($value);)+

            /// The name of the constant, where it is one.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some(stringify!($name)),)+
                    _ => None,
                }
            }

            /// A few words for people.
            #[must_use]
            pub fn label(self) -> &'static CStr {
                $(
                    if self == Self::$name {
                        const LABEL: &CStr = match CStr::from_bytes_with_nul(concat!($label, "\0").as_bytes()) {
                            Ok(label) => label,
                            Err(_) => panic!("a label holds no NUL"),
                        };
                        return LABEL;
                    }
                )+
                c"Unknown Error"
            }
        }
    };
}

returns! {
    NVML_SUCCESS: 0, "Success";
    NVML_ERROR_UNINITIALIZED: 1, "Uninitialized";
    NVML_ERROR_INVALID_ARGUMENT: 2, "Invalid Argument";
    NVML_ERROR_NOT_SUPPORTED: 3, "Not Supported";
    NVML_ERROR_NO_PERMISSION: 4, "Insufficient Permissions";
    NVML_ERROR_ALREADY_INITIALIZED: 5, "Already Initialized";
    NVML_ERROR_NOT_FOUND: 6, "Not Found";
    NVML_ERROR_INSUFFICIENT_SIZE: 7, "Insufficient Size";
    NVML_ERROR_INSUFFICIENT_POWER: 8, "Insufficient External Power";
    NVML_ERROR_DRIVER_NOT_LOADED: 9, "Driver Not Loaded";
    NVML_ERROR_TIMEOUT: 10, "Timeout";
    NVML_ERROR_IRQ_ISSUE: 11, "Interrupt Request Issue";
    NVML_ERROR_LIBRARY_NOT_FOUND: 12, "NVML Shared Library Not Found";
    NVML_ERROR_FUNCTION_NOT_FOUND: 13, "Function Not Found";
    NVML_ERROR_CORRUPTED_INFOROM: 14, "Corrupted infoROM";
    NVML_ERROR_GPU_IS_LOST: 15, "GPU is lost";
    NVML_ERROR_RESET_REQUIRED: 16, "GPU requires a reset";
    NVML_ERROR_OPERATING_SYSTEM: 17, "Operating system refused";
    NVML_ERROR_LIB_RM_VERSION_MISMATCH: 18, "Library and driver do not match";
    NVML_ERROR_IN_USE: 19, "In use";
    NVML_ERROR_MEMORY: 20, "Insufficient memory";
    NVML_ERROR_NO_DATA: 21, "No data";
    NVML_ERROR_VGPU_ECC_NOT_SUPPORTED: 22, "No virtual GPU with ECC";
    NVML_ERROR_INSUFFICIENT_RESOURCES: 23, "Insufficient resources";
    NVML_ERROR_FREQ_NOT_SUPPORTED: 24, "Frequency not supported";
    NVML_ERROR_ARGUMENT_VERSION_MISMATCH: 25, "Structure of another version";
    NVML_ERROR_DEPRECATED: 26, "No longer offered";
    NVML_ERROR_NOT_READY: 27, "Not ready";
    NVML_ERROR_GPU_NOT_FOUND: 28, "No GPU found";
    NVML_ERROR_INVALID_STATE: 29, "Not in this state";
    NVML_ERROR_RESET_TYPE_NOT_SUPPORTED: 30, "Not this kind of reset";
    NVML_ERROR_UNKNOWN: 999, "Unknown Error";
}

impl std::fmt::Debug for nvmlReturn_t {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "nvmlReturn_t({})", self.0),
        }
    }
}

/// A device handle: opaque to the caller, never followed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct nvmlDevice_t(pub *const c_void);

pub type nvmlEnableState_t = u32;
pub type nvmlClockType_t = u32;
pub type nvmlComputeMode_t = u32;
pub type nvmlBrandType_t = u32;
pub type nvmlDeviceArchitecture_t = u32;
pub type nvmlGpuP2PCapsIndex_t = u32;
pub type nvmlGpuP2PStatus_t = u32;
pub type nvmlGpuFabricState_t = u32;
pub type nvmlValueType_t = u32;

pub const NVML_CLOCK_GRAPHICS: nvmlClockType_t = 0;
pub const NVML_CLOCK_SM: nvmlClockType_t = 1;
pub const NVML_CLOCK_MEM: nvmlClockType_t = 2;
pub const NVML_CLOCK_COUNT: nvmlClockType_t = 4;
pub const NVML_COMPUTEMODE_DEFAULT: nvmlComputeMode_t = 0;
pub const NVML_BRAND_UNKNOWN: nvmlBrandType_t = 0;
pub const NVML_P2P_STATUS_OK: nvmlGpuP2PStatus_t = 0;
pub const NVML_P2P_STATUS_NOT_SUPPORTED: nvmlGpuP2PStatus_t = 5;
pub const NVML_P2P_CAPS_INDEX_UNKNOWN: nvmlGpuP2PCapsIndex_t = 5;
pub const NVML_DEVICE_MIG_DISABLE: c_uint = 0;
pub const NVML_GPU_FABRIC_STATE_NOT_SUPPORTED: nvmlGpuFabricState_t = 0;
pub const NVML_UUID_TYPE_ASCII: c_uint = 1;
pub const NVML_UUID_TYPE_BINARY: c_uint = 2;

macro_rules! structures {
    ($($name:ident, $bytes:literal { $($field:ident: $type:ty,)+ })+) => {$(
        #[derive(Clone, Copy, Debug)]
        #[repr(C)]
        pub struct $name {
            $(pub $field: $type,)+
        }

        const _: () = assert!(size_of::<$name>() == $bytes);
    )+};
}

structures! {
    nvmlMemory_t, 24 {
        total: u64,
        free: u64,
        used: u64,
    }
    nvmlMemory_v2_t, 40 {
        version: c_uint,
        total: u64,
        reserved: u64,
        free: u64,
        used: u64,
    }
    nvmlPciInfo_t, 68 {
        busIdLegacy: [c_char; 16],
        domain: c_uint,
        bus: c_uint,
        device: c_uint,
        pciDeviceId: c_uint,
        pciSubSystemId: c_uint,
        busId: [c_char; 32],
    }
    nvmlPciInfoExt_v1_t, 64 {
        version: c_uint,
        domain: c_uint,
        bus: c_uint,
        device: c_uint,
        pciDeviceId: c_uint,
        pciSubSystemId: c_uint,
        baseClass: c_uint,
        subClass: c_uint,
        busId: [c_char; 32],
    }
    nvmlProcessInfo_v1_t, 16 {
        pid: c_uint,
        usedGpuMemory: u64,
    }
    nvmlProcessInfo_v2_t, 24 {
        pid: c_uint,
        usedGpuMemory: u64,
        gpuInstanceId: c_uint,
        computeInstanceId: c_uint,
    }
    nvmlFieldValue_t, 40 {
        fieldId: c_uint,
        scopeId: c_uint,
        timestamp: i64,
        latencyUsec: i64,
        valueType: nvmlValueType_t,
        nvmlReturn: nvmlReturn_t,
        value: u64,
    }
    nvmlGpuFabricInfo_t, 28 {
        clusterUuid: [u8; 16],
        status: nvmlReturn_t,
        cliqueId: c_uint,
        state: nvmlGpuFabricState_t,
    }
    nvmlGpuFabricInfo_v2_t, 36 {
        version: c_uint,
        clusterUuid: [u8; 16],
        status: nvmlReturn_t,
        cliqueId: c_uint,
        state: nvmlGpuFabricState_t,
        healthMask: c_uint,
    }
    nvmlGpuFabricInfo_v3_t, 40 {
        version: c_uint,
        clusterUuid: [u8; 16],
        status: nvmlReturn_t,
        cliqueId: c_uint,
        state: nvmlGpuFabricState_t,
        healthMask: c_uint,
        healthSummary: u8,
    }
    nvmlConfComputeSystemState_t, 12 {
        environment: c_uint,
        ccFeature: c_uint,
        devToolsMode: c_uint,
    }
    nvmlSystemConfComputeSettings_v1_t, 20 {
        version: c_uint,
        environment: c_uint,
        ccFeature: c_uint,
        devToolsMode: c_uint,
        multiGpuMode: c_uint,
    }
    nvmlConfComputeSystemCaps_t, 8 {
        cpuCaps: c_uint,
        gpusCaps: c_uint,
    }
    nvmlUUID_v1_t, 52 {
        version: c_uint,
        type_: c_uint,
        value: [u8; 41],
    }
    nvmlHwbcEntry_t, 36 {
        hwbcId: c_uint,
        firmwareVersion: [c_char; 32],
    }
}

pub type nvmlPciInfoExt_t = nvmlPciInfoExt_v1_t;
pub type nvmlProcessInfo_t = nvmlProcessInfo_v2_t;
pub type nvmlGpuFabricInfoV_t = nvmlGpuFabricInfo_v3_t;
pub type nvmlSystemConfComputeSettings_t = nvmlSystemConfComputeSettings_v1_t;
pub type nvmlUUID_t = nvmlUUID_v1_t;

/// `int` and friends are what the layouts above take them for.
const _: () = assert!(size_of::<c_int>() == 4 && size_of::<c_char>() == 1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_has_its_name_and_label_and_an_unknown_one_still_has_a_label() {
        let code = nvmlReturn_t::NVML_ERROR_NOT_SUPPORTED;
        assert_eq!(format!("{code:?}"), "NVML_ERROR_NOT_SUPPORTED");
        assert_eq!(code.label(), c"Not Supported");
        assert_eq!(format!("{:?}", nvmlReturn_t(500)), "nvmlReturn_t(500)");
        assert_eq!(nvmlReturn_t(500).label(), c"Unknown Error");
    }
}
