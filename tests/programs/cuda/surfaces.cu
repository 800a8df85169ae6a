// Surfaces: written and read by kernels, inside and outside, in one to three dimensions and layers.
#include "check.h"
#include <vector>

static const int W = 12, H = 5, D = 3;

__global__ void fill2(cudaSurfaceObject_t s) {
    const int x = threadIdx.x, y = threadIdx.y;
    if (x < W && y < H) surf2Dwrite(make_float2(x + 100 * y, -x), s, x * 8, y);
}
__global__ void shift2(cudaSurfaceObject_t from, cudaSurfaceObject_t to) {
    const int x = threadIdx.x, y = threadIdx.y;
    float2 value;
    surf2Dread(&value, from, (x + 1) * 8, y - 1, cudaBoundaryModeZero);
    if (x < W && y < H) surf2Dwrite(value, to, x * 8, y);
}
__global__ void clamp1(cudaSurfaceObject_t s, int *out) {
    const int x = threadIdx.x;
    if (x < W) surf1Dwrite(x * x, s, x * 4);
    __syncthreads();
    surf1Dread(&out[x], s, (x - 4) * 4, cudaBoundaryModeClamp);
}
__global__ void fill3(cudaSurfaceObject_t s, cudaSurfaceObject_t layers) {
    const int x = threadIdx.x, y = threadIdx.y, z = blockIdx.x;
    if (x >= W || y >= H) return;
    surf3Dwrite<unsigned char>(x + 16 * y + 100 * z, s, x, y, z);
    surf2DLayeredwrite<unsigned short>(1000 * z + 16 * y + x, layers, x * 2, y, z);
}
__global__ void outside(cudaSurfaceObject_t s) { surf2Dwrite(1.0f, s, 0, 1 << 20); }

static cudaSurfaceObject_t object(cudaArray_t array) {
    cudaResourceDesc resource = {};
    resource.resType = cudaResourceTypeArray;
    resource.res.array.array = array;
    cudaSurfaceObject_t made = 0;
    CHECK(cudaCreateSurfaceObject(&made, &resource));
    return made;
}

int main() {
    const cudaChannelFormatDesc pair = cudaCreateChannelDesc<float2>(), number = cudaCreateChannelDesc<int>(),
                                byte = cudaCreateChannelDesc<unsigned char>(), half = cudaCreateChannelDesc<unsigned short>();
    cudaArray_t a, b;
    CHECK(cudaMallocArray(&a, &pair, W, H, cudaArraySurfaceLoadStore));
    CHECK(cudaMallocArray(&b, &pair, W, H, cudaArraySurfaceLoadStore));
    cudaSurfaceObject_t s = object(a), t = object(b);
    fill2<<<1, dim3(16, 8)>>>(s);
    shift2<<<1, dim3(16, 8)>>>(s, t);
    std::vector<float2> values(W * H), shifted(W * H);
    CHECK(cudaMemcpy2DFromArray(values.data(), W * 8, a, 0, 0, W * 8, H, cudaMemcpyDeviceToHost));
    CHECK(cudaMemcpy2DFromArray(shifted.data(), W * 8, b, 0, 0, W * 8, H, cudaMemcpyDeviceToHost));
    int wrong = 0;
    for (int i = 0; i < W * H; ++i) {
        const int x = i % W, y = i / W;
        wrong += values[i].x != x + 100 * y || values[i].y != -x;
        const bool inside = x + 1 < W && y > 0;
        wrong += shifted[i].x != (inside ? x + 1 + 100 * (y - 1) : 0) || shifted[i].y != (inside ? -(x + 1) : 0);
    }
    CHECK_THAT(wrong == 0);
    std::printf("two dimensions: %d wrong\n", wrong);
    CHECK(cudaMemcpy2DArrayToArray(b, 0, 0, a, 8, 1, (W - 1) * 8, H - 1, cudaMemcpyDeviceToDevice));
    CHECK(cudaMemcpy2DFromArray(shifted.data(), W * 8, b, 0, 0, W * 8, H, cudaMemcpyDeviceToHost));
    wrong = 0;
    for (int y = 0; y + 1 < H; ++y) {
        for (int x = 0; x + 1 < W; ++x) wrong += shifted[y * W + x].x != x + 1 + 100 * (y + 1);
    }
    CHECK_THAT(wrong == 0);
    std::printf("array to array: %d wrong\n", wrong);
    cudaResourceDesc described;
    CHECK(cudaGetSurfaceObjectResourceDesc(&described, s));
    CHECK_THAT(described.res.array.array == a);
    CHECK(cudaDestroySurfaceObject(s));
    CHECK(cudaDestroySurfaceObject(t));
    CHECK(cudaFreeArray(a));
    CHECK(cudaFreeArray(b));

    int *out, back[32];
    CHECK(cudaMalloc(&out, sizeof back));
    CHECK(cudaMallocArray(&a, &number, W, 0, cudaArraySurfaceLoadStore));
    s = object(a);
    clamp1<<<1, 32>>>(s, out);
    CHECK(cudaMemcpy(back, out, sizeof back, cudaMemcpyDeviceToHost));
    wrong = 0;
    for (int i = 0; i < 32; ++i) {
        const int x = i < 4 ? 0 : i - 4 < W ? i - 4 : W - 1;
        wrong += back[i] != x * x;
    }
    CHECK_THAT(wrong == 0);
    std::printf("one dimension: %d wrong\n", wrong);
    CHECK(cudaDestroySurfaceObject(s));
    CHECK(cudaFreeArray(a));

    CHECK(cudaMalloc3DArray(&a, &byte, make_cudaExtent(W, H, D), cudaArraySurfaceLoadStore));
    CHECK(cudaMalloc3DArray(&b, &half, make_cudaExtent(W, H, D), cudaArraySurfaceLoadStore | cudaArrayLayered));
    s = object(a);
    t = object(b);
    fill3<<<D, dim3(16, 8)>>>(s, t);
    std::vector<unsigned char> bytes(W * H * D);
    std::vector<unsigned short> halves(W * H * D);
    cudaMemcpy3DParms copy = {};
    copy.extent = make_cudaExtent(W, H, D);
    copy.kind = cudaMemcpyDeviceToHost;
    copy.srcArray = a;
    copy.dstPtr = make_cudaPitchedPtr(bytes.data(), W, W, H);
    CHECK(cudaMemcpy3D(&copy));
    copy.srcArray = b;
    copy.dstPtr = make_cudaPitchedPtr(halves.data(), 2 * W, W, H);
    CHECK(cudaMemcpy3D(&copy));
    wrong = 0;
    for (int i = 0; i < W * H * D; ++i) {
        const int x = i % W, y = i / W % H, z = i / (W * H);
        wrong += bytes[i] != static_cast<unsigned char>(x + 16 * y + 100 * z) || halves[i] != 1000 * z + 16 * y + x;
    }
    CHECK_THAT(wrong == 0);
    std::printf("planes and layers: %d wrong\n", wrong);
    CHECK(cudaDestroySurfaceObject(t));
    CHECK(cudaFreeArray(b));
    outside<<<1, 1>>>(s);
    CHECK_THAT(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
    return check_result("surfaces");
}
