// Devices: what they say about themselves must agree, call by call.
//
// shows: cuInit, cuDriverGetVersion, cuDeviceGet, cuDeviceGetCount, cuDeviceGetName, cuDeviceTotalMem_v2,
// cuDeviceComputeCapability, cuDeviceGetAttribute, cuDeviceGetPCIBusId, cuDeviceGetByPCIBusId,
// cuDeviceGetUuid, cuDeviceGetUuid_v2, cuDeviceGetProperties, cuDeviceCanAccessPeer
#include "program.h"

int main(void) {
    int value = 0;
    CHECK_ERROR(CUDA_ERROR_NOT_INITIALIZED, cuDeviceGetCount(&value));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuInit(1));
    CHECK(cuInit(0));
    CHECK(cuInit(0));

    int version = 0, count = 0;
    CHECK(cuDriverGetVersion(&version));
    CHECK_THAT(version >= 12000 && version % 10 == 0);
    // It is the newest version that functions can be asked for.
    void *function = NULL;
    CHECK(cuGetProcAddress("cuInit", &function, version, CU_GET_PROC_ADDRESS_DEFAULT, NULL));
    CHECK_THAT(function != NULL);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuGetProcAddress("cuInit", &function, version + 10, CU_GET_PROC_ADDRESS_DEFAULT, NULL));
    CHECK(cuDeviceGetCount(&count));
    CHECK_THAT(count >= 1);
    CUdevice device = -1;
    CHECK(cuDeviceGet(&device, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_DEVICE, cuDeviceGet(&device, count));
    CHECK_ERROR(CUDA_ERROR_INVALID_DEVICE, cuDeviceGet(&device, -1));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuDeviceGet(NULL, 0));
    CHECK(cuDeviceGet(&device, 0));

    char name[256] = "";
    CHECK(cuDeviceGetName(name, sizeof name, device));
    CHECK_THAT(strlen(name) > 0);
    char shorter[4] = "zzz";
    CHECK(cuDeviceGetName(shorter, sizeof shorter, device));
    CHECK_THAT(strncmp(shorter, name, 3) == 0 && shorter[3] == '\0');

    size_t bytes = 0;
    CHECK(cuDeviceTotalMem(&bytes, device));
    CHECK_THAT(bytes >= (size_t)1 << 20);

    int major = 0, minor = 0, attribute = 0;
    CHECK(cuDeviceComputeCapability(&major, &minor, device));
    CHECK(cuDeviceGetAttribute(&attribute, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device));
    CHECK_THAT(attribute == major);
    CHECK(cuDeviceGetAttribute(&attribute, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device));
    CHECK_THAT(attribute == minor);
    CHECK(cuDeviceGetAttribute(&attribute, CU_DEVICE_ATTRIBUTE_WARP_SIZE, device));
    CHECK_THAT(attribute == 32);
    CHECK(cuDeviceGetAttribute(&attribute, CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, device));
    CHECK_THAT(attribute == 1);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuDeviceGetAttribute(&attribute, 100000, device));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuDeviceGetAttribute(&attribute, 0, device));
    CHECK_ERROR(CUDA_ERROR_INVALID_DEVICE, cuDeviceGetAttribute(&attribute, 1, count));

    // The PCI id as text says what the attributes say, and leads back to the device.
    char id[32] = "", expected[32];
    int domain = 0, bus = 0, slot = 0;
    CHECK(cuDeviceGetPCIBusId(id, sizeof id, device));
    CHECK(cuDeviceGetAttribute(&domain, CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID, device));
    CHECK(cuDeviceGetAttribute(&bus, CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, device));
    CHECK(cuDeviceGetAttribute(&slot, CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID, device));
    snprintf(expected, sizeof expected, "%04x:%02x:%02x.0", domain, bus, slot);
    for (char *at = id; *at; ++at) {
        if (*at >= 'A' && *at <= 'F') *at += 'a' - 'A';
    }
    const size_t tail = strlen(expected) < strlen(id) ? strlen(id) - strlen(expected) : 0;
    CHECK_THAT(strcmp(id + tail, expected) == 0);
    CUdevice same = -1;
    CHECK(cuDeviceGetByPCIBusId(&same, id));
    CHECK_THAT(same == device);
    CHECK_ERROR(CUDA_ERROR_INVALID_DEVICE, cuDeviceGetByPCIBusId(&same, "7fff:fe:1d.0"));

    CUuuid first, again;
    CHECK(cuDeviceGetUuid(&first, device));
    CHECK(cuDeviceGetUuid(&again, device));
    CHECK_THAT(memcmp(&first, &again, sizeof first) == 0);
    CHECK(cuDeviceGetUuid_v2(&again, device));
    CHECK_THAT(memcmp(&first, &again, sizeof first) == 0);
    static const CUuuid zero;
    CHECK_THAT(memcmp(&first, &zero, sizeof first) != 0);

    // A device is no peer of its own.
    int can = 1;
    CHECK(cuDeviceCanAccessPeer(&can, device, device));
    CHECK_THAT(can == 0);
    CHECK_ERROR(CUDA_ERROR_INVALID_DEVICE, cuDeviceCanAccessPeer(&can, device, count));

    CUdevprop properties;
    CHECK(cuDeviceGetProperties(&properties, device));
    static const int block[] = {2, 3, 4}, grid[] = {5, 6, 7};
    for (int at = 0; at < 3; ++at) {
        CHECK(cuDeviceGetAttribute(&attribute, block[at], device));
        CHECK_THAT(properties.max_threads[at] == attribute);
        CHECK(cuDeviceGetAttribute(&attribute, grid[at], device));
        CHECK_THAT(properties.max_grid[at] == attribute);
    }
    CHECK(cuDeviceGetAttribute(&attribute, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, device));
    CHECK_THAT(properties.max_threads_per_block == attribute);
    CHECK(cuDeviceGetAttribute(&attribute, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, device));
    CHECK_THAT(properties.shared_bytes == attribute);
    CHECK_THAT(properties.warp_size == 32);

    // No context is current before one is made so.
    CUcontext context = (CUcontext)1;
    CHECK(cuCtxGetCurrent(&context));
    CHECK_THAT(context == NULL);
    CUdeviceptr pointer;
    CHECK_ERROR(CUDA_ERROR_INVALID_CONTEXT, cuMemAlloc(&pointer, 16));
    CHECK_ERROR(CUDA_ERROR_INVALID_CONTEXT, cuCtxSynchronize());

    // What a context may use is the device's memory, or less.
    size_t available = 0, total = 0;
    CHECK(cuDevicePrimaryCtxRetain(&context, device));
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuMemGetInfo(&available, &total));
    CHECK_THAT(available > 0 && available <= total && total <= bytes);
    CHECK(cuDevicePrimaryCtxRelease(device));
    return result("drv_device");
}
