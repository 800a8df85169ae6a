// What PyTorch's c10 and NCCL ask of NVML, as they ask it: by dlopen and dlsym, NCCL without looking whether a
// name was found. Compared with what the driver says of the same device.
//
// Prints nothing that differs between devices or runs; ends with PASS or FAIL.
#include "../driver/program.h"

#include <dlfcn.h>
#include <unistd.h>

typedef int nvmlReturn;
typedef void *nvmlDevice;

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    VERSION_MISMATCH = 25,
};

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} PciInfo;
typedef struct {
    unsigned long long total, free, used;
} Memory;
typedef struct {
    unsigned version;
    unsigned long long total, reserved, free, used;
} MemoryV2;
typedef struct {
    unsigned pid;
    unsigned long long memory;
    unsigned gpu_instance, compute_instance;
} ProcessInfo;
typedef struct {
    unsigned field, scope;
    long long timestamp, latency;
    unsigned value_type;
    nvmlReturn status;
    unsigned long long value;
} FieldValue;
typedef struct {
    unsigned version;
    unsigned char cluster[16];
    nvmlReturn status;
    unsigned clique, state, health;
    unsigned char summary;
} FabricInfo;
typedef struct {
    unsigned version, environment, feature, tools, multi_gpu;
} ConfSettings;

static void *library;

// As NCCL does: what is missing is NULL and called all the same.
static void *find(const char *name) { return dlsym(library, name); }

#define FUNCTION(name, ...) static nvmlReturn (*name)(__VA_ARGS__)
FUNCTION(nvmlInit_v2, void);
FUNCTION(nvmlShutdown, void);
FUNCTION(nvmlDeviceGetCount_v2, unsigned *);
FUNCTION(nvmlDeviceGetHandleByIndex_v2, unsigned, nvmlDevice *);
FUNCTION(nvmlDeviceGetHandleByPciBusId_v2, const char *, nvmlDevice *);
FUNCTION(nvmlDeviceGetHandleByUUID, const char *, nvmlDevice *);
FUNCTION(nvmlDeviceGetIndex, nvmlDevice, unsigned *);
FUNCTION(nvmlDeviceGetName, nvmlDevice, char *, unsigned);
FUNCTION(nvmlDeviceGetUUID, nvmlDevice, char *, unsigned);
FUNCTION(nvmlDeviceGetPciInfo_v3, nvmlDevice, PciInfo *);
FUNCTION(nvmlDeviceGetCudaComputeCapability, nvmlDevice, int *, int *);
FUNCTION(nvmlDeviceGetMemoryInfo, nvmlDevice, Memory *);
FUNCTION(nvmlDeviceGetMemoryInfo_v2, nvmlDevice, MemoryV2 *);
FUNCTION(nvmlDeviceGetComputeRunningProcesses_v3, nvmlDevice, unsigned *, ProcessInfo *);
FUNCTION(nvmlDeviceGetNvLinkState, nvmlDevice, unsigned, unsigned *);
FUNCTION(nvmlDeviceGetNvLinkCapability, nvmlDevice, unsigned, unsigned, unsigned *);
FUNCTION(nvmlDeviceGetNvLinkRemotePciInfo_v2, nvmlDevice, unsigned, PciInfo *);
FUNCTION(nvmlDeviceGetNvLinkRemoteDeviceType, nvmlDevice, unsigned, unsigned *);
FUNCTION(nvmlDeviceGetP2PStatus, nvmlDevice, nvmlDevice, unsigned, unsigned *);
FUNCTION(nvmlDeviceGetFieldValues, nvmlDevice, int, FieldValue *);
FUNCTION(nvmlDeviceGetGpuFabricInfoV, nvmlDevice, FabricInfo *);
FUNCTION(nvmlDeviceGetPlatformInfo, nvmlDevice, void *);
FUNCTION(nvmlSystemGetConfComputeState, unsigned[3]);
FUNCTION(nvmlSystemGetConfComputeSettings, ConfSettings *);
FUNCTION(nvmlSystemGetCudaDriverVersion_v2, int *);
FUNCTION(nvmlSystemGetDriverVersion, char *, unsigned);
FUNCTION(nvmlSystemGetNVMLVersion, char *, unsigned);
FUNCTION(nvmlDeviceGetUtilizationRates, nvmlDevice, unsigned[2]);
FUNCTION(nvmlDeviceSetPowerManagementLimit, nvmlDevice, unsigned);
static const char *(*nvmlErrorString)(nvmlReturn);

static void resolve(void) {
    library = dlopen("libnvidia-ml.so.1", RTLD_LAZY);
    CHECK_THAT(library != NULL);
    if (library == NULL) {
        printf("%s\n", dlerror());
        exit(1);
    }
#define RESOLVE(name) name = find(#name)
    RESOLVE(nvmlInit_v2);
    RESOLVE(nvmlShutdown);
    RESOLVE(nvmlDeviceGetCount_v2);
    RESOLVE(nvmlDeviceGetHandleByIndex_v2);
    RESOLVE(nvmlDeviceGetHandleByPciBusId_v2);
    RESOLVE(nvmlDeviceGetHandleByUUID);
    RESOLVE(nvmlDeviceGetIndex);
    RESOLVE(nvmlDeviceGetName);
    RESOLVE(nvmlDeviceGetUUID);
    RESOLVE(nvmlDeviceGetPciInfo_v3);
    RESOLVE(nvmlDeviceGetCudaComputeCapability);
    RESOLVE(nvmlDeviceGetMemoryInfo);
    RESOLVE(nvmlDeviceGetMemoryInfo_v2);
    RESOLVE(nvmlDeviceGetComputeRunningProcesses_v3);
    RESOLVE(nvmlDeviceGetNvLinkState);
    RESOLVE(nvmlDeviceGetNvLinkCapability);
    RESOLVE(nvmlDeviceGetNvLinkRemotePciInfo_v2);
    RESOLVE(nvmlDeviceGetNvLinkRemoteDeviceType);
    RESOLVE(nvmlDeviceGetP2PStatus);
    RESOLVE(nvmlDeviceGetFieldValues);
    RESOLVE(nvmlDeviceGetGpuFabricInfoV);
    RESOLVE(nvmlDeviceGetPlatformInfo);
    RESOLVE(nvmlSystemGetConfComputeState);
    RESOLVE(nvmlSystemGetConfComputeSettings);
    RESOLVE(nvmlSystemGetCudaDriverVersion_v2);
    RESOLVE(nvmlSystemGetDriverVersion);
    RESOLVE(nvmlSystemGetNVMLVersion);
    RESOLVE(nvmlDeviceGetUtilizationRates);
    RESOLVE(nvmlDeviceSetPowerManagementLimit);
    RESOLVE(nvmlErrorString);
}

// What is asked before anything of CUDA: no driver is needed for it, so no worker is.
static void look(void) {
    nvmlDevice device;
    unsigned count = 99;
    CHECK_THAT(nvmlDeviceGetCount_v2(&count) == UNINITIALIZED && count == 99);
    CHECK_THAT(nvmlDeviceGetUtilizationRates(NULL, NULL) == UNINITIALIZED);
    CHECK_THAT(nvmlInit_v2() == SUCCESS);
    CHECK_THAT(nvmlInit_v2() == SUCCESS);
    CHECK_THAT(nvmlShutdown() == SUCCESS);
    CHECK_THAT(nvmlDeviceGetCount_v2(&count) == SUCCESS && count >= 1);
    CHECK_THAT(nvmlDeviceGetCount_v2(NULL) == INVALID_ARGUMENT);
    CHECK_THAT(nvmlDeviceGetHandleByIndex_v2(count, &device) == INVALID_ARGUMENT);
    CHECK_THAT(nvmlDeviceGetHandleByIndex_v2(0, NULL) == INVALID_ARGUMENT);
    CHECK_THAT(nvmlDeviceGetHandleByIndex_v2(0, &device) == SUCCESS);
    CHECK_THAT(nvmlDeviceGetName((nvmlDevice)&count, (char[96]){0}, 96) == INVALID_ARGUMENT);
    CHECK_THAT(nvmlDeviceGetName(device, (char[2]){0}, 2) == INSUFFICIENT_SIZE);
    CHECK_THAT(nvmlDeviceGetHandleByPciBusId_v2("ffff:ff:1f.0", &device) == NOT_FOUND);
    CHECK_THAT(nvmlDeviceGetHandleByPciBusId_v2("here", &device) == INVALID_ARGUMENT);
    CHECK_THAT(nvmlDeviceGetHandleByUUID("GPU-0", &device) == NOT_FOUND);
    Memory memory;
    CHECK_THAT(nvmlDeviceGetMemoryInfo(device, &memory) == SUCCESS);
    CHECK_THAT(memory.used == 0 && memory.free == memory.total && memory.total > 0);
    unsigned processes = 0;
    CHECK_THAT(nvmlDeviceGetComputeRunningProcesses_v3(device, &processes, NULL) == SUCCESS);
    CHECK_THAT(processes == 0);
    char version[80];
    CHECK_THAT(nvmlSystemGetDriverVersion(version, sizeof version) == SUCCESS && version[0]);
    CHECK_THAT(nvmlSystemGetNVMLVersion(version, sizeof version) == SUCCESS && version[0]);
    CHECK_THAT(!strcmp(nvmlErrorString(NOT_SUPPORTED), "Not Supported"));
    CHECK_THAT(nvmlErrorString(12345) != NULL);
}

// The device of NVML that is a device of CUDA's, as both libraries find it.
static nvmlDevice same_device(CUdevice cuda) {
    nvmlDevice device, by_uuid;
    char bus_id[32], name[256], nvml_name[96], text[96];
    CHECK(cuDeviceGetPCIBusId(bus_id, sizeof bus_id, cuda));
    CHECK_THAT(nvmlDeviceGetHandleByPciBusId_v2(bus_id, &device) == SUCCESS);
    CUuuid uuid;
    CHECK(cuDeviceGetUuid(&uuid, cuda));
    const unsigned char *b = uuid.bytes;
    snprintf(text, sizeof text,
             "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
             b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
    CHECK_THAT(nvmlDeviceGetHandleByUUID(text, &by_uuid) == SUCCESS && by_uuid == device);
    char found[96];
    CHECK_THAT(nvmlDeviceGetUUID(device, found, sizeof found) == SUCCESS && !strcmp(found, text));
    CHECK(cuDeviceGetName(name, sizeof name, cuda));
    CHECK_THAT(nvmlDeviceGetName(device, nvml_name, sizeof nvml_name) == SUCCESS);
    CHECK_THAT(!strcmp(name, nvml_name));
    PciInfo pci;
    CHECK_THAT(nvmlDeviceGetPciInfo_v3(device, &pci) == SUCCESS);
    // NVML writes the domain with eight digits, CUDA with four, or as many as it takes.
    CHECK_THAT(!strcasecmp(pci.bus_id_legacy, bus_id));
    CHECK_THAT(!strcasecmp(pci.bus_id + 4, bus_id));
    int major, minor, expected;
    CHECK_THAT(nvmlDeviceGetCudaComputeCapability(device, &major, &minor) == SUCCESS);
    CHECK(cuDeviceGetAttribute(&expected, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, cuda));
    CHECK_THAT(major == expected);
    CHECK(cuDeviceGetAttribute(&expected, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, cuda));
    CHECK_THAT(minor == expected);
    CHECK_THAT(nvmlSystemGetCudaDriverVersion_v2(&major) == SUCCESS);
    CHECK(cuDriverGetVersion(&expected));
    CHECK_THAT(major == expected);
    return device;
}

// What NCCL asks in a run of one rank.
static void topology(nvmlDevice device) {
    unsigned value;
    for (unsigned link = 0; link < 18; ++link) {
        CHECK_THAT(nvmlDeviceGetNvLinkCapability(device, link, 0, &value) == NOT_SUPPORTED);
        CHECK_THAT(nvmlDeviceGetNvLinkState(device, link, &value) == NOT_SUPPORTED);
    }
    CHECK_THAT(nvmlDeviceGetNvLinkRemotePciInfo_v2(device, 0, &(PciInfo){0}) == NOT_SUPPORTED);
    CHECK_THAT(nvmlDeviceGetNvLinkRemoteDeviceType(device, 0, &value) == NOT_SUPPORTED);
    CHECK_THAT(nvmlDeviceGetP2PStatus(device, device, 0, &value) == SUCCESS && value == 0);
    CHECK_THAT(nvmlDeviceGetP2PStatus(device, device, 9, &value) == INVALID_ARGUMENT);
    FieldValue fields[2] = {{.field = 90}, {.field = 164}};
    CHECK_THAT(nvmlDeviceGetFieldValues(device, 2, fields) == SUCCESS);
    CHECK_THAT(fields[0].status == NOT_SUPPORTED && fields[1].status == NOT_SUPPORTED);
    CHECK_THAT(fields[0].field == 90 && fields[1].field == 164);
    FabricInfo fabric = {.version = 36 | 2 << 24, .state = 9, .summary = 9};
    CHECK_THAT(nvmlDeviceGetGpuFabricInfoV(device, &fabric) == SUCCESS);
    CHECK_THAT(fabric.state == 0 && fabric.summary == 9);
    fabric = (FabricInfo){.version = 40 | 3 << 24, .state = 9, .summary = 9};
    CHECK_THAT(nvmlDeviceGetGpuFabricInfoV(device, &fabric) == SUCCESS);
    CHECK_THAT(fabric.state == 0 && fabric.summary == 0);
    fabric.version = 7;
    CHECK_THAT(nvmlDeviceGetGpuFabricInfoV(device, &fabric) == VERSION_MISMATCH);
    CHECK_THAT(nvmlDeviceGetPlatformInfo(device, &fabric) == NOT_SUPPORTED);
    unsigned state[3] = {9, 9, 9};
    CHECK_THAT(nvmlSystemGetConfComputeState(state) == SUCCESS);
    CHECK_THAT(state[0] == 0 && state[1] == 0 && state[2] == 0);
    ConfSettings settings = {.version = sizeof settings | 1 << 24, .feature = 9};
    CHECK_THAT(nvmlSystemGetConfComputeSettings(&settings) == SUCCESS && settings.feature == 0);
    settings.version = 5;
    CHECK_THAT(nvmlSystemGetConfComputeSettings(&settings) == VERSION_MISMATCH);
    CHECK_THAT(nvmlDeviceGetUtilizationRates(device, state) == NOT_SUPPORTED);
    CHECK_THAT(nvmlDeviceSetPowerManagementLimit(device, 1) == NOT_SUPPORTED);
}

// Memory and processes follow what this program does.
static void usage(nvmlDevice device, CUdevice cuda) {
    size_t total, available, bytes = 100 << 20;
    CUdeviceptr held;
    Memory memory;
    CHECK(cuMemAlloc(&held, bytes));
    CHECK(cuMemGetInfo(&available, &total));
    CHECK_THAT(nvmlDeviceGetMemoryInfo(device, &memory) == SUCCESS);
    CHECK_THAT(memory.total == total && memory.free == available);
    CHECK_THAT(memory.used == total - available && memory.used >= bytes);
    CHECK(cuDeviceTotalMem(&total, cuda));
    CHECK_THAT(memory.total == total);
    MemoryV2 second = {.version = sizeof second | 2 << 24};
    CHECK_THAT(nvmlDeviceGetMemoryInfo_v2(device, &second) == SUCCESS);
    CHECK_THAT(second.used == memory.used && second.total == memory.total && second.reserved == 0);
    second.version = 1;
    CHECK_THAT(nvmlDeviceGetMemoryInfo_v2(device, &second) == VERSION_MISMATCH);
    unsigned count = 0;
    CHECK_THAT(nvmlDeviceGetComputeRunningProcesses_v3(device, &count, NULL) == INSUFFICIENT_SIZE);
    CHECK_THAT(count == 1);
    ProcessInfo processes[4];
    count = 4;
    CHECK_THAT(nvmlDeviceGetComputeRunningProcesses_v3(device, &count, processes) == SUCCESS);
    CHECK_THAT(count == 1 && processes[0].pid == (unsigned)getpid());
    CHECK_THAT(processes[0].memory == memory.used);
    CHECK_THAT(processes[0].gpu_instance == ~0u && processes[0].compute_instance == ~0u);
    CHECK(cuMemFree(held));
    CHECK(cuMemGetInfo(&available, &total));
    CHECK_THAT(nvmlDeviceGetMemoryInfo(device, &memory) == SUCCESS);
    CHECK_THAT(memory.free == available && memory.used < bytes);
}

int main(int count, char **arguments) {
    resolve();
    look();
    if (count > 1 && !strcmp(arguments[1], "look")) {
        return result("nvml_clients look");
    }
    start();
    CUdevice cuda;
    CHECK(cuDeviceGet(&cuda, 0));
    nvmlDevice device = same_device(cuda);
    topology(device);
    usage(device, cuda);
    unsigned index;
    CHECK_THAT(nvmlDeviceGetIndex(device, &index) == SUCCESS && index == 0);
    CHECK_THAT(nvmlShutdown() == SUCCESS);
    CHECK_THAT(nvmlShutdown() == UNINITIALIZED);
    CHECK_THAT(nvmlDeviceGetIndex(device, &index) == UNINITIALIZED);
    return result("nvml_clients");
}
