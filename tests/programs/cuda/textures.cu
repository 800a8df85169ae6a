// Textures: every kind of memory behind them, addressing modes, filtering, levels, gathers, queries of bounds.
#include "check.h"
#include <cmath>
#include <functional>
#include <vector>

static const int W = 8, H = 6, D = 4;

static int wrong_values;

static void compare(const char *what, const std::vector<float> &got, const std::function<float(int)> &expected, float tolerance = 1e-6f) {
    int wrong = 0;
    for (size_t i = 0; i < got.size(); ++i) {
        const float want = expected(static_cast<int>(i));
        if (!(std::fabs(got[i] - want) <= tolerance * (1 + std::fabs(want)))) {
            if (wrong++ == 0) std::printf("%s: [%zu] is %g, not %g\n", what, i, got[i], want);
        }
    }
    wrong_values += wrong;
    std::printf("%s: %d wrong\n", what, wrong);
}

__global__ void fetch1(float *out, cudaTextureObject_t t, int n) {
    const int i = threadIdx.x;
    if (i < n) out[i] = tex1Dfetch<float>(t, i - 2);
}
__global__ void sample1(float *out, cudaTextureObject_t t, float start, float step, int n) {
    const int i = threadIdx.x;
    if (i < n) out[i] = tex1D<float>(t, start + i * step);
}
__global__ void sample2(float *out, cudaTextureObject_t t, float x0, float y0, float step, int width, int height) {
    const int i = threadIdx.x;
    if (i < width * height) out[i] = tex2D<float>(t, x0 + (i % width) * step, y0 + (i / width) * step);
}
__global__ void sample3(float *out, cudaTextureObject_t t, float offset) {
    const int i = threadIdx.x + blockIdx.x * blockDim.x;
    if (i < W * H * D) out[i] = tex3D<float>(t, i % W + offset, i / W % H + offset, i / (W * H) + offset);
}
__global__ void layered(float *out, cudaTextureObject_t t) {
    const int i = threadIdx.x + blockIdx.x * blockDim.x;
    if (i < W * H * D) out[i] = tex2DLayered<float>(t, i % W + 0.5f, i / W % H + 0.5f, i / (W * H));
}
__global__ void bytes(float4 *out, cudaTextureObject_t t) {
    const int i = threadIdx.x;
    if (i < W * H) out[i] = tex2D<float4>(t, i % W + 0.5f, i / W + 0.5f);
}
__global__ void integers(int *out, cudaTextureObject_t t) {
    const int i = threadIdx.x;
    if (i < W * H) out[i] = tex2D<short>(t, i % W + 0.5f, i / W + 0.5f);
}
__global__ void levels(float *out, cudaTextureObject_t t) {
    const int i = threadIdx.x;
    out[i] = tex2DLod<float>(t, 0.5f, 0.5f, i * 0.25f);
}
__global__ void gradients(float *out, cudaTextureObject_t t) {
    const int i = threadIdx.x;
    const float d = (1 << i) / 16.0f;
    out[i] = tex2DGrad<float>(t, 0.5f, 0.5f, make_float2(d, 0), make_float2(0, d));
}
__global__ void gather(float4 *out, cudaTextureObject_t t) {
    const int i = threadIdx.x;
    if (i < W * H) out[i] = tex2Dgather<float4>(t, i % W + 1.0f, i / W + 1.0f, 0);
}
__global__ void cube(float *out, cudaTextureObject_t t) {
    const float d[6][3] = {{1, 0, 0}, {-1, 0, 0}, {0, 1, 0}, {0, -1, 0}, {0, 0, 1}, {0, 0, -1}};
    const int i = threadIdx.x;
    if (i < 6) out[i] = texCubemap<float>(t, d[i][0], d[i][1], d[i][2]);
}

static cudaTextureObject_t object(const cudaResourceDesc &resource, cudaTextureAddressMode mode, cudaTextureFilterMode filter,
                                  bool normalized, cudaTextureReadMode read = cudaReadModeElementType) {
    cudaTextureDesc description = {};
    for (auto &axis : description.addressMode) axis = mode;
    description.filterMode = filter;
    description.mipmapFilterMode = cudaFilterModeLinear;
    description.maxMipmapLevelClamp = 99;
    description.readMode = read;
    description.normalizedCoords = normalized;
    description.borderColor[0] = 1000;
    cudaTextureObject_t made = 0;
    CHECK(cudaCreateTextureObject(&made, &resource, &description, nullptr));
    return made;
}

static cudaResourceDesc of_array(cudaArray_t array) {
    cudaResourceDesc resource = {};
    resource.resType = cudaResourceTypeArray;
    resource.res.array.array = array;
    return resource;
}

static float value(int x, int y, int z = 0) { return x + 10.0f * y + 100.0f * z; }

// Index of a coordinate outside, as the mode says; -1 for the border.
static int index_of(int i, int n, cudaTextureAddressMode mode) {
    if (i >= 0 && i < n) return i;
    switch (mode) {
    case cudaAddressModeWrap: return ((i % n) + n) % n;
    case cudaAddressModeMirror: {
        const int turn = ((i % (2 * n)) + 2 * n) % (2 * n);
        return turn < n ? turn : 2 * n - 1 - turn;
    }
    case cudaAddressModeBorder: return -1;
    default: return i < 0 ? 0 : n - 1;
    }
}

static float at(int x, int y, cudaTextureAddressMode mode) {
    const int i = index_of(x, W, mode), j = index_of(y, H, mode);
    return i < 0 || j < 0 ? 1000.0f : value(i, j);
}

// The programming guide's filter: weights of nine bits, eight of them fraction.
static float filtered(float x, float y, cudaTextureAddressMode mode) {
    const float fx = std::round((x - 0.5f) * 256) / 256, fy = std::round((y - 0.5f) * 256) / 256;
    const int i = static_cast<int>(std::floor(fx)), j = static_cast<int>(std::floor(fy));
    const float a = fx - i, b = fy - j;
    return (1 - a) * (1 - b) * at(i, j, mode) + a * (1 - b) * at(i + 1, j, mode) + (1 - a) * b * at(i, j + 1, mode) +
           a * b * at(i + 1, j + 1, mode);
}

int main() {
    std::vector<float> plane(W * H), back;
    for (int i = 0; i < W * H; ++i) plane[i] = value(i % W, i / W);
    float *out;
    CHECK(cudaMalloc(&out, 4096));
    auto fetch = [&](int n) {
        back.resize(n);
        CHECK(cudaMemcpy(back.data(), out, n * sizeof(float), cudaMemcpyDeviceToHost));
    };

    // Linear memory: zero outside.
    float *memory;
    CHECK(cudaMalloc(&memory, W * H * sizeof(float)));
    CHECK(cudaMemcpy(memory, plane.data(), W * H * sizeof(float), cudaMemcpyHostToDevice));
    cudaResourceDesc linear = {};
    linear.resType = cudaResourceTypeLinear;
    linear.res.linear.devPtr = memory;
    linear.res.linear.desc = cudaCreateChannelDesc<float>();
    linear.res.linear.sizeInBytes = W * H * sizeof(float);
    cudaTextureObject_t t = object(linear, cudaAddressModeClamp, cudaFilterModePoint, false);
    fetch1<<<1, 64>>>(out, t, W * H + 4);
    fetch(W * H + 4);
    compare("linear memory", back, [&](int i) { return i < 2 || i >= W * H + 2 ? 0.0f : plane[i - 2]; });
    CHECK(cudaDestroyTextureObject(t));

    // An array of two dimensions, in all addressing modes, at its texels and between them.
    const cudaChannelFormatDesc channel = cudaCreateChannelDesc<float>();
    cudaArray_t array;
    CHECK(cudaMallocArray(&array, &channel, W, H));
    CHECK(cudaMemcpy2DToArray(array, 0, 0, plane.data(), W * sizeof(float), W * sizeof(float), H, cudaMemcpyHostToDevice));
    const cudaTextureAddressMode modes[] = {cudaAddressModeClamp, cudaAddressModeBorder, cudaAddressModeWrap, cudaAddressModeMirror};
    const char *names[] = {"clamp", "border", "wrap", "mirror"};
    for (int m = 0; m < 4; ++m) {
        const bool normalized = m >= 2;
        const float scale = normalized ? 1.0f / W : 1.0f;
        char what[64];
        t = object(of_array(array), modes[m], cudaFilterModePoint, normalized);
        sample2<<<1, 512>>>(out, t, -4 * scale + 0.5f * scale, normalized ? 0.5f / H : 0.5f, scale, 2 * W, 1);
        fetch(2 * W);
        std::snprintf(what, sizeof what, "point, %s", names[m]);
        compare(what, back, [&](int i) { return at(i - 4, 0, modes[m]); });
        CHECK(cudaDestroyTextureObject(t));
        t = object(of_array(array), modes[m], cudaFilterModeLinear, normalized);
        sample2<<<1, 512>>>(out, t, -2.25f * scale, (normalized ? 1.0f / H : 1.0f) * 1.75f, 0.375f * scale, 2 * W, 1);
        fetch(2 * W);
        std::snprintf(what, sizeof what, "linear, %s", names[m]);
        compare(what, back, [&](int i) { return filtered(-2.25f + 0.375f * i, 1.75f, modes[m]); }, 1e-5f);
        CHECK(cudaDestroyTextureObject(t));
    }
    CHECK(cudaFreeArray(array));

    // One dimension.
    CHECK(cudaMallocArray(&array, &channel, W));
    CHECK(cudaMemcpy2DToArray(array, 0, 0, plane.data(), W * sizeof(float), W * sizeof(float), 1, cudaMemcpyHostToDevice));
    t = object(of_array(array), cudaAddressModeClamp, cudaFilterModeLinear, false);
    sample1<<<1, 64>>>(out, t, -1, 0.25f, 40);
    fetch(40);
    compare("one dimension", back, [&](int i) { return std::fmin(std::fmax(-1 + 0.25f * i - 0.5f, 0.0f), W - 1.0f); });
    CHECK(cudaDestroyTextureObject(t));
    CHECK(cudaFreeArray(array));

    // Rows at a distance.
    void *pitched;
    size_t pitch;
    CHECK(cudaMallocPitch(&pitched, &pitch, W * sizeof(float), H));
    CHECK(cudaMemcpy2D(pitched, pitch, plane.data(), W * sizeof(float), W * sizeof(float), H, cudaMemcpyHostToDevice));
    cudaResourceDesc rows = {};
    rows.resType = cudaResourceTypePitch2D;
    rows.res.pitch2D.devPtr = pitched;
    rows.res.pitch2D.desc = channel;
    rows.res.pitch2D.width = W;
    rows.res.pitch2D.height = H;
    rows.res.pitch2D.pitchInBytes = pitch;
    t = object(rows, cudaAddressModeClamp, cudaFilterModeLinear, false);
    sample2<<<1, 512>>>(out, t, 0, 0, 0.5f, 2 * W, 2 * H);
    fetch(4 * W * H);
    compare("pitched", back, [&](int i) { return filtered(i % (2 * W) * 0.5f, i / (2 * W) * 0.5f, cudaAddressModeClamp); }, 1e-5f);
    CHECK(cudaDestroyTextureObject(t));
    CHECK(cudaFree(pitched));

    // Three dimensions, and layers.
    std::vector<float> box(W * H * D);
    for (int i = 0; i < W * H * D; ++i) box[i] = value(i % W, i / W % H, i / (W * H));
    for (int kind = 0; kind < 2; ++kind) {
        CHECK(cudaMalloc3DArray(&array, &channel, make_cudaExtent(W, H, D), kind ? cudaArrayLayered : cudaArrayDefault));
        cudaMemcpy3DParms copy = {};
        copy.srcPtr = make_cudaPitchedPtr(box.data(), W * sizeof(float), W, H);
        copy.dstArray = array;
        copy.extent = make_cudaExtent(W, H, D);
        copy.kind = cudaMemcpyHostToDevice;
        CHECK(cudaMemcpy3D(&copy));
        t = object(of_array(array), cudaAddressModeClamp, kind ? cudaFilterModePoint : cudaFilterModeLinear, false);
        if (kind) {
            layered<<<2, 128>>>(out, t);
            fetch(W * H * D);
            compare("layers", back, [&](int i) { return box[i]; });
        } else {
            sample3<<<2, 128>>>(out, t, 0.75f);
            fetch(W * H * D);
            compare("three dimensions", back, [&](int i) {
                return std::fmin(i % W + 0.25f, W - 1.0f) + 10 * std::fmin(i / W % H + 0.25f, H - 1.0f) +
                       100 * std::fmin(i / (W * H) + 0.25f, D - 1.0f);
            });
        }
        // And back again, by another way.
        std::vector<float> again(W * H * D);
        cudaMemcpy3DParms down = {};
        down.srcArray = array;
        down.dstPtr = make_cudaPitchedPtr(again.data(), W * sizeof(float), W, H);
        down.extent = make_cudaExtent(W, H, D);
        down.kind = cudaMemcpyDeviceToHost;
        CHECK(cudaMemcpy3D(&down));
        compare("copied back", again, [&](int i) { return box[i]; });
        CHECK(cudaDestroyTextureObject(t));
        CHECK(cudaFreeArray(array));
    }

    // Bytes as fractions, and whole numbers.
    std::vector<uchar4> colours(W * H);
    for (int i = 0; i < W * H; ++i) colours[i] = make_uchar4(i, 255 - i, 2 * i, 51);
    const cudaChannelFormatDesc colour = cudaCreateChannelDesc<uchar4>();
    CHECK(cudaMallocArray(&array, &colour, W, H));
    CHECK(cudaMemcpy2DToArray(array, 0, 0, colours.data(), W * 4, W * 4, H, cudaMemcpyHostToDevice));
    t = object(of_array(array), cudaAddressModeClamp, cudaFilterModePoint, false, cudaReadModeNormalizedFloat);
    bytes<<<1, 64>>>(reinterpret_cast<float4 *>(out), t);
    fetch(4 * W * H);
    compare("fractions", back, [&](int i) { return reinterpret_cast<unsigned char *>(colours.data())[i] / 255.0f; });
    CHECK(cudaDestroyTextureObject(t));
    CHECK(cudaFreeArray(array));
    std::vector<short> shorts(W * H);
    for (int i = 0; i < W * H; ++i) shorts[i] = i * 1000 - 24000;
    const cudaChannelFormatDesc whole = cudaCreateChannelDesc<short>();
    CHECK(cudaMallocArray(&array, &whole, W, H));
    CHECK(cudaMemcpy2DToArray(array, 0, 0, shorts.data(), W * 2, W * 2, H, cudaMemcpyHostToDevice));
    t = object(of_array(array), cudaAddressModeClamp, cudaFilterModePoint, false);
    integers<<<1, 64>>>(reinterpret_cast<int *>(out), t);
    fetch(W * H);
    int wrong = 0;
    for (int i = 0; i < W * H; ++i) wrong += reinterpret_cast<int *>(back.data())[i] != shorts[i];
    wrong_values += wrong;
    std::printf("whole numbers: %d wrong\n", wrong);
    CHECK(cudaDestroyTextureObject(t));
    CHECK(cudaFreeArray(array));

    // Levels: the value of each is its number.
    cudaMipmappedArray_t mipmapped;
    CHECK(cudaMallocMipmappedArray(&mipmapped, &channel, make_cudaExtent(16, 16, 0), 5));
    for (int level = 0; level < 5; ++level) {
        cudaArray_t part;
        CHECK(cudaGetMipmappedArrayLevel(&part, mipmapped, level));
        cudaExtent extent;
        CHECK(cudaArrayGetInfo(nullptr, &extent, nullptr, part));
        CHECK_THAT(extent.width == 16u >> level && extent.height == 16u >> level);
        std::vector<float> filled(extent.width * extent.height, static_cast<float>(level));
        CHECK(cudaMemcpy2DToArray(part, 0, 0, filled.data(), extent.width * 4, extent.width * 4, extent.height, cudaMemcpyHostToDevice));
    }
    cudaResourceDesc pyramid = {};
    pyramid.resType = cudaResourceTypeMipmappedArray;
    pyramid.res.mipmap.mipmap = mipmapped;
    t = object(pyramid, cudaAddressModeClamp, cudaFilterModeLinear, true);
    levels<<<1, 20>>>(out, t);
    fetch(20);
    compare("levels", back, [](int i) { return std::fmin(i * 0.25f, 4.0f); });
    gradients<<<1, 5>>>(out, t);
    fetch(5);
    compare("gradients", back, [](int i) { return static_cast<float>(i); });
    CHECK(cudaDestroyTextureObject(t));
    CHECK(cudaFreeMipmappedArray(mipmapped));

    // Four neighbours at once.
    CHECK(cudaMallocArray(&array, &channel, W, H, cudaArrayTextureGather));
    CHECK(cudaMemcpy2DToArray(array, 0, 0, plane.data(), W * sizeof(float), W * sizeof(float), H, cudaMemcpyHostToDevice));
    t = object(of_array(array), cudaAddressModeClamp, cudaFilterModePoint, false);
    gather<<<1, 64>>>(reinterpret_cast<float4 *>(out), t);
    fetch(4 * W * H);
    compare("gather", back, [&](int i) {
        const int x = i / 4 % W, y = i / 4 / W, dx[] = {0, 1, 1, 0}, dy[] = {1, 1, 0, 0};
        return at(x + dx[i % 4], y + dy[i % 4], cudaAddressModeClamp);
    });
    CHECK(cudaDestroyTextureObject(t));
    CHECK(cudaFreeArray(array));

    // A cube: the value of each face is its number.
    CHECK(cudaMalloc3DArray(&array, &channel, make_cudaExtent(4, 4, 6), cudaArrayCubemap));
    std::vector<float> faces(96);
    for (int i = 0; i < 96; ++i) faces[i] = static_cast<float>(i / 16);
    cudaMemcpy3DParms copy = {};
    copy.srcPtr = make_cudaPitchedPtr(faces.data(), 16, 4, 4);
    copy.dstArray = array;
    copy.extent = make_cudaExtent(4, 4, 6);
    copy.kind = cudaMemcpyHostToDevice;
    CHECK(cudaMemcpy3D(&copy));
    t = object(of_array(array), cudaAddressModeClamp, cudaFilterModeLinear, true);
    cube<<<1, 6>>>(out, t);
    fetch(6);
    compare("cube", back, [](int i) { return static_cast<float>(i); });
    cudaResourceDesc described;
    CHECK(cudaGetTextureObjectResourceDesc(&described, t));
    CHECK_THAT(described.resType == cudaResourceTypeArray && described.res.array.array == array);
    cudaTextureDesc texture;
    CHECK(cudaGetTextureObjectTextureDesc(&texture, t));
    CHECK_THAT(texture.filterMode == cudaFilterModeLinear && texture.normalizedCoords == 1);
    CHECK(cudaDestroyTextureObject(t));
    CHECK(cudaFreeArray(array));

    CHECK_THAT(wrong_values == 0);
    CHECK(cudaFree(out));
    CHECK(cudaFree(memory));
    return check_result("textures");
}
