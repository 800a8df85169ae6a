"""NVIDIA's own Python binding (nvidia-ml-py) on the zone's NVML: its structures, its version words.

Arguments: the quota in bytes, how many devices the zone has. Ends with PASS, or a traceback.
"""

import ctypes
import os
import sys

import pynvml as nv

quota, devices = (int(argument) for argument in sys.argv[1:3])


def refused(call, *arguments):
    """The code with which a call fails."""
    try:
        call(*arguments)
    except nv.NVMLError as error:
        return error.value
    return nv.NVML_SUCCESS


assert refused(nv.nvmlDeviceGetCount) == nv.NVML_ERROR_UNINITIALIZED
nv.nvmlInit()
assert nv.nvmlDeviceGetCount() == devices
handle = nv.nvmlDeviceGetHandleByIndex(0)
assert refused(nv.nvmlDeviceGetHandleByIndex, devices) == nv.NVML_ERROR_INVALID_ARGUMENT

uuid = nv.nvmlDeviceGetUUID(handle)
pci = nv.nvmlDeviceGetPciInfo(handle)
assert uuid.startswith("GPU-") and len(uuid) == 40
for again in (
    nv.nvmlDeviceGetHandleByUUID(uuid),
    nv.nvmlDeviceGetHandleByPciBusId(pci.busId),
    nv.nvmlDeviceGetHandleByPciBusId(pci.busIdLegacy),
):
    assert nv.nvmlDeviceGetIndex(again) == 0
assert pci.busId == b"%08X:%02X:%02X.0" % (pci.domain, pci.bus, pci.device) or pci.busId == "%08X:%02X:%02X.0" % (
    pci.domain,
    pci.bus,
    pci.device,
)
extended = nv.nvmlPciInfoExt_v1_t()
extended.version = nv.nvmlPciInfoExt_v1
nv.nvmlDeviceGetPciInfoExt(handle, ctypes.byref(extended))
assert (extended.domain, extended.bus, extended.device) == (pci.domain, pci.bus, pci.device)
wanted = nv.c_nvmlUUID_t()
wanted.version = ctypes.sizeof(wanted) | 1 << 24
wanted.type = nv.NVML_UUID_TYPE_BINARY
ctypes.memmove(ctypes.addressof(wanted.value), bytes.fromhex(uuid[4:].replace("-", "")), 16)
found = nv.c_nvmlDevice_t()
library = ctypes.CDLL("libnvidia-ml.so.1")
assert library.nvmlDeviceGetHandleByUUIDV(ctypes.byref(wanted), ctypes.byref(found)) == nv.NVML_SUCCESS
assert nv.nvmlDeviceGetIndex(found) == 0

assert nv.nvmlDeviceGetName(handle)
assert nv.nvmlSystemGetDriverVersion()
assert nv.nvmlSystemGetNVMLVersion()
assert nv.nvmlSystemGetCudaDriverVersion() >= 12000
major, minor = nv.nvmlDeviceGetCudaComputeCapability(handle)
assert major >= 7 and nv.nvmlDeviceGetArchitecture(handle) >= nv.NVML_DEVICE_ARCH_VOLTA
assert nv.nvmlDeviceGetMigMode(handle) == [nv.NVML_DEVICE_MIG_DISABLE] * 2
assert nv.nvmlDeviceGetComputeMode(handle) == nv.NVML_COMPUTEMODE_DEFAULT
assert nv.nvmlSystemGetProcessName(os.getpid())

memory = nv.nvmlDeviceGetMemoryInfo(handle)
assert (memory.total, memory.used, memory.free) == (quota, 0, quota), memory
second = nv.nvmlDeviceGetMemoryInfo(handle, nv.nvmlMemory_v2)
assert (second.total, second.used, second.reserved) == (quota, 0, 0), second
for processes in (
    nv.nvmlDeviceGetComputeRunningProcesses,
    nv.nvmlDeviceGetComputeRunningProcesses_v2,
    nv.nvmlDeviceGetGraphicsRunningProcesses,
    nv.nvmlDeviceGetMPSComputeRunningProcesses,
):
    assert processes(handle) == []

# A client of CUDA comes, and is seen with what it holds.
cuda = ctypes.CDLL("libcuda.so.1")
context, held = ctypes.c_void_p(), ctypes.c_uint64()
assert cuda.cuInit(0) == 0
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert cuda.cuCtxSetCurrent(context) == 0
assert cuda.cuMemAlloc_v2(ctypes.byref(held), ctypes.c_size_t(32 << 20)) == 0
(process,) = nv.nvmlDeviceGetComputeRunningProcesses(handle)
assert process.pid == os.getpid() and process.usedGpuMemory >= 32 << 20, process
assert nv.nvmlDeviceGetMemoryInfo(handle).used == process.usedGpuMemory

fabric = nv.c_nvmlGpuFabricInfo_v2_t()
fabric.version = nv.nvmlGpuFabricInfo_v2
assert nv.nvmlDeviceGetGpuFabricInfoV(handle, ctypes.byref(fabric)) in (None, nv.NVML_SUCCESS)
assert fabric.state == nv.NVML_GPU_FABRIC_STATE_NOT_SUPPORTED
state = nv.nvmlSystemGetConfComputeState()
assert state.ccFeature == nv.NVML_CC_SYSTEM_FEATURE_DISABLED
fields = nv.nvmlDeviceGetFieldValues(handle, [nv.NVML_FI_DEV_NVLINK_LINK_COUNT, nv.NVML_FI_DEV_ECC_CURRENT])
assert [field.nvmlReturn for field in fields] == [nv.NVML_ERROR_NOT_SUPPORTED] * 2

# What a zone has no answer to is not supported, and nothing is made up.
for call, *arguments in (
    (nv.nvmlDeviceGetUtilizationRates,),
    (nv.nvmlDeviceGetTemperature, nv.NVML_TEMPERATURE_GPU),
    (nv.nvmlDeviceGetPowerUsage,),
    (nv.nvmlDeviceGetFanSpeed,),
    (nv.nvmlDeviceGetSerial,),
    (nv.nvmlDeviceGetMinorNumber,),
    (nv.nvmlDeviceGetNvLinkState, 0),
    (nv.nvmlDeviceSetPersistenceMode, 1),
    (nv.nvmlDeviceSetGpuLockedClocks, 1, 2),
    (nv.nvmlDeviceGetAccountingMode,),
):
    assert refused(call, handle, *arguments) == nv.NVML_ERROR_NOT_SUPPORTED, call

nv.nvmlShutdown()
assert refused(nv.nvmlShutdown) == nv.NVML_ERROR_UNINITIALIZED
print("pynvml_client: PASS")
