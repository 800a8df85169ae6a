// Geometry, physics, statistics, finance.
#include "corpus.h"

// Philox 4x32-10, the same on both sides: its rounds are what the host compares.
BOTH void philox(unsigned counter[4], unsigned key0, unsigned key1) {
    for (int round = 0; round < 10; ++round) {
        unsigned long long p = 0xd2511f53ull * counter[0], q = 0xcd9e8d57ull * counter[2];
        unsigned a = static_cast<unsigned>(q >> 32) ^ counter[1] ^ key0, b = static_cast<unsigned>(q),
                 c = static_cast<unsigned>(p >> 32) ^ counter[3] ^ key1, d = static_cast<unsigned>(p);
        counter[0] = a, counter[1] = b, counter[2] = c, counter[3] = d;
        key0 += 0x9e3779b9u;
        key1 += 0xbb67ae85u;
    }
}

#ifndef HOST

KERNEL nbody(const float4 *bodies, float4 *forces, int n) {
    __shared__ float4 tile[64];
    int i = place();
    float4 own = bodies[min(i, n - 1)];
    float3 force = make_float3(0, 0, 0);
    for (int start = 0; start < n; start += 64) {
        if (start + threadIdx.x < n) {
            tile[threadIdx.x] = bodies[start + threadIdx.x];
        }
        __syncthreads();
        for (int j = 0; j < 64 && start + j < n; ++j) {
            float x = tile[j].x - own.x, y = tile[j].y - own.y, z = tile[j].z - own.z;
            float inverse = rsqrtf(x * x + y * y + z * z + 0.01f);
            float scale = tile[j].w * inverse * inverse * inverse;
            force.x += x * scale;
            force.y += y * scale;
            force.z += z * scale;
        }
        __syncthreads();
    }
    if (i < n) {
        forces[i] = make_float4(force.x, force.y, force.z, 0);
    }
}

KERNEL mandelbrot(unsigned short *out, int width, int height, int limit) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) {
        return;
    }
    // Sixty-fourths: every product is exact for the first turns and rounds alike on both sides.
    double re = -2.0 + x * (1.0 / 32), im = -1.0 + y * (1.0 / 32), p = 0, q = 0;
    int count = 0;
    while (count < limit && __dadd_rn(__dmul_rn(p, p), __dmul_rn(q, q)) <= 4) {
        double next = __dadd_rn(__dsub_rn(__dmul_rn(p, p), __dmul_rn(q, q)), re);
        q = __dadd_rn(__dmul_rn(2 * p, q), im);
        p = next;
        ++count;
    }
    out[y * width + x] = static_cast<unsigned short>(count);
}

static __device__ float normal(float d) { return 0.5f * erfcf(d * -0.70710678118654752440f); }

KERNEL black_scholes(const float *spot, const float *strike, const float *years, float *calls, float *puts, float rate,
                     float volatility, int n) {
    int i = place();
    if (i >= n) {
        return;
    }
    float root = sqrtf(years[i]);
    float d1 = (logf(spot[i] / strike[i]) + (rate + 0.5f * volatility * volatility) * years[i]) / (volatility * root);
    float d2 = d1 - volatility * root, discount = expf(-rate * years[i]);
    calls[i] = spot[i] * normal(d1) - strike[i] * discount * normal(d2);
    puts[i] = strike[i] * discount * normal(-d2) - spot[i] * normal(-d1);
}

KERNEL philox_kernel(unsigned *out, unsigned seed, int n) {
    int i = place();
    if (i < n) {
        unsigned counter[4] = {static_cast<unsigned>(i), 0, 0, 0};
        philox(counter, seed, 0);
        for (int k = 0; k < 4; ++k) {
            out[4 * i + k] = counter[k];
        }
    }
}

KERNEL xorshift(unsigned long long *states, unsigned *out, int turns, int n) {
    int i = place();
    if (i >= n) {
        return;
    }
    unsigned long long s = states[i];
    for (int k = 0; k < turns; ++k) {
        s ^= s >> 12;
        s ^= s << 25;
        s ^= s >> 27;
        out[k * n + i] = static_cast<unsigned>(s * 2685821657736338717ull >> 32);
    }
    states[i] = s;
}

KERNEL monte_carlo(unsigned long long *inside, int turns) {
    unsigned hits = 0;
    for (int turn = 0; turn < turns; ++turn) {
        unsigned counter[4] = {static_cast<unsigned>(place()), static_cast<unsigned>(turn), 1, 2};
        philox(counter, 17, 42);
        for (int k = 0; k < 4; k += 2) {
            unsigned long long x = counter[k], y = counter[k + 1];
            hits += x * x + y * y >= x * x && (x * x >> 1) + (y * y >> 1) < 1ull << 63;
        }
    }
    for (int delta = 16; delta; delta /= 2) {
        hits += __shfl_down_sync(0xffffffff, hits, delta);
    }
    if (threadIdx.x % 32 == 0) {
        atomicAdd(inside, static_cast<unsigned long long>(hits));
    }
}

KERNEL haversine(const double2 *places, double *kilometres, int n) {
    int i = place();
    if (i >= n) {
        return;
    }
    double2 a = places[0], b = places[i];
    double u = sin((b.x - a.x) / 2), v = sin((b.y - a.y) / 2);
    kilometres[i] = 2 * 6371.0 * asin(sqrt(u * u + cos(a.x) * cos(b.x) * v * v));
}

KERNEL point_in_polygon(const int2 *polygon, int corners, const int2 *points, unsigned char *inside, int n) {
    int i = place();
    if (i >= n) {
        return;
    }
    bool in = false;
    long long x = points[i].x, y = points[i].y;
    for (int k = 0, j = corners - 1; k < corners; j = k++) {
        int2 a = polygon[k], b = polygon[j];
        if ((a.y > y) != (b.y > y)) {
            long long left = (x - a.x) * (b.y - a.y), right = (y - a.y) * (b.x - a.x);
            in ^= b.y > a.y ? left < right : left > right;
        }
    }
    inside[i] = in;
}

KERNEL segments_cross(const int4 *segments, unsigned *count, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, j = blockIdx.y * blockDim.y + threadIdx.y;
    if (i >= n || j >= i) {
        return;
    }
    int4 p = segments[i], q = segments[j];
    auto side = [](int4 s, int x, int y) {
        long long area = static_cast<long long>(s.z - s.x) * (y - s.y) - static_cast<long long>(s.w - s.y) * (x - s.x);
        return area > 0 ? 1 : area < 0 ? -1 : 0;
    };
    if (side(p, q.x, q.y) * side(p, q.z, q.w) < 0 && side(q, p.x, p.y) * side(q, p.z, p.w) < 0) {
        atomicAdd(count, 1);
    }
}

// The five nearest, kept in a local array by insertion.
KERNEL nearest(const int3 *points, int *out, int n) {
    int i = place();
    if (i >= n) {
        return;
    }
    long long best[5];
    for (int k = 0; k < 5; ++k) {
        best[k] = 0x7fffffffffffffffll;
    }
    for (int j = 0; j < n; ++j) {
        if (j == i) {
            continue;
        }
        long long x = points[i].x - points[j].x, y = points[i].y - points[j].y, z = points[i].z - points[j].z;
        long long key = (x * x + y * y + z * z) << 16 | j;
        int k = 4;
        if (key >= best[4]) {
            continue;
        }
        for (; k > 0 && best[k - 1] > key; --k) {
            best[k] = best[k - 1];
        }
        best[k] = key;
    }
    for (int k = 0; k < 5; ++k) {
        out[5 * i + k] = static_cast<int>(best[k] & 0xffff);
    }
}

KERNEL assign_clusters(const int2 *points, const int2 *centres, int *chosen, int *sums, int n, int k) {
    int i = place();
    if (i >= n) {
        return;
    }
    int best = 0;
    long long least = 0x7fffffffffffffffll;
    for (int c = 0; c < k; ++c) {
        long long x = points[i].x - centres[c].x, y = points[i].y - centres[c].y, d = x * x + y * y;
        if (d < least) {
            least = d;
            best = c;
        }
    }
    chosen[i] = best;
    atomicAdd(&sums[3 * best], points[i].x);
    atomicAdd(&sums[3 * best + 1], points[i].y);
    atomicAdd(&sums[3 * best + 2], 1);
}

KERNEL move_centres(int2 *centres, int *sums) {
    int c = threadIdx.x, count = sums[3 * c + 2];
    if (count > 0) {
        centres[c] = make_int2(sums[3 * c] / count, sums[3 * c + 1] / count);
    }
    sums[3 * c] = sums[3 * c + 1] = sums[3 * c + 2] = 0;
}

KERNEL runge_kutta(double *positions, double *speeds, double step, int steps, int n) {
    int i = place();
    if (i >= n) {
        return;
    }
    double x = positions[i], v = speeds[i];
    for (int turn = 0; turn < steps; ++turn) {
        double a = -x, k1 = v, l1 = a;
        double k2 = v + step / 2 * l1, l2 = -(x + step / 2 * k1);
        double k3 = v + step / 2 * l2, l3 = -(x + step / 2 * k2);
        double k4 = v + step * l3, l4 = -(x + step * k3);
        x += step / 6 * (k1 + 2 * k2 + 2 * k3 + k4);
        v += step / 6 * (l1 + 2 * l2 + 2 * l3 + l4);
    }
    positions[i] = x;
    speeds[i] = v;
}

#else

TEST(nbody) {
    int n = 300;
    auto a = reals<float>(4 * n, -1, 1);
    for (int i = 3; i < 4 * n; i += 4) {
        a[i] = std::fabs(a[i]);
    }
    Buffer<float> x(a), y(4 * n);
    launch("nbody", blocks(n, 64), 64, x, y, n);
    std::vector<double> wanted(4 * n);
    for (int i = 0; i < n; ++i) {
        for (int j = 0; j < n; ++j) {
            double d[3], sum = 0.01f;
            for (int k = 0; k < 3; ++k) {
                d[k] = double(a[4 * j + k]) - a[4 * i + k];
                sum += d[k] * d[k];
            }
            for (int k = 0; k < 3; ++k) {
                wanted[4 * i + k] += d[k] * a[4 * j + 3] / (sum * std::sqrt(sum));
            }
        }
    }
    close(y.read(), wanted, 1e-4, 2e-3);
}

TEST(mandelbrot) {
    int width = 96, height = 64, limit = 60;
    Buffer<unsigned short> x(width * height);
    launch("mandelbrot", Size(6, 8), Size(16, 8), x, width, height, limit);
    std::vector<unsigned short> wanted(width * height);
    for (int i = 0; i < width * height; ++i) {
        double re = -2.0 + i % width * (1.0 / 32), im = -1.0 + i / width * (1.0 / 32), p = 0, q = 0;
        int count = 0;
        for (; count < limit && p * p + q * q <= 4; ++count) {
            double next = p * p - q * q + re;
            q = 2 * p * q + im;
            p = next;
        }
        wanted[i] = static_cast<unsigned short>(count);
    }
    equal(x.read(), wanted);
}

TEST(black_scholes) {
    int n = 3000;
    auto s = reals<float>(n, 5, 30), k = reals<float>(n, 1, 100, 2), t = reals<float>(n, 0.25, 10, 3);
    Buffer<float> spot(s), strike(k), years(t), calls(n), puts(n);
    launch("black_scholes", blocks(n, 128), 128, spot, strike, years, calls, puts, 0.02f, 0.3f, n);
    std::vector<double> c(n), p(n);
    auto normal = [](double d) { return 0.5 * std::erfc(-d / std::sqrt(2.0)); };
    double r = 0.02f, v = 0.3f;
    for (int i = 0; i < n; ++i) {
        double root = std::sqrt(double(t[i])), d1 = (std::log(double(s[i]) / k[i]) + (r + v * v / 2) * t[i]) / (v * root);
        double discount = k[i] * std::exp(-r * t[i]), d2 = d1 - v * root;
        c[i] = s[i] * normal(d1) - discount * normal(d2);
        p[i] = discount * normal(-d2) - s[i] * normal(-d1);
    }
    close(calls.read(), c, 1e-5, 2e-5);
    close(puts.read(), p, 1e-5, 2e-5);
}

TEST(random_numbers) {
    int n = 500;
    Buffer<unsigned> x(4 * n);
    launch("philox_kernel", blocks(n, 64), 64, x, 99u, n);
    std::vector<unsigned> wanted;
    for (int i = 0; i < n; ++i) {
        unsigned counter[4] = {unsigned(i), 0, 0, 0};
        philox(counter, 99, 0);
        wanted.insert(wanted.end(), counter, counter + 4);
    }
    equal(x.read(), wanted);
    // The known answer for an all-zero counter and key.
    unsigned zero[4] = {};
    philox(zero, 0, 0);
    equal(zero[0], 0x6627e8d5u);

    auto states = integers<unsigned long long>(n, 0, 6);
    Buffer<unsigned long long> s(states);
    Buffer<unsigned> y(8 * n);
    launch("xorshift", blocks(n, 64), 64, s, y, 8, n);
    std::vector<unsigned> numbers(8 * n);
    for (int i = 0; i < n; ++i) {
        for (int k = 0; k < 8; ++k) {
            states[i] ^= states[i] >> 12;
            states[i] ^= states[i] << 25;
            states[i] ^= states[i] >> 27;
            numbers[k * n + i] = unsigned(states[i] * 2685821657736338717ull >> 32);
        }
    }
    equal(y.read(), numbers);
    equal(s.read(), states);
}

TEST(monte_carlo) {
    Buffer<unsigned long long> inside(1);
    launch("monte_carlo", 32, 128, inside, 20);
    double points = 32.0 * 128 * 20 * 2;
    close(std::vector<double>{4 * double(inside.read()[0]) / points}, std::vector<double>{3.14159265}, 0, 0.02);
}

TEST(haversine) {
    int n = 500;
    auto a = reals<double>(2 * n, -1.5, 1.5);
    Buffer<double> x(a), y(n);
    launch("haversine", blocks(n, 128), 128, x, y, n);
    std::vector<double> wanted(n);
    for (int i = 0; i < n; ++i) {
        double u = std::sin((a[2 * i] - a[0]) / 2), v = std::sin((a[2 * i + 1] - a[1]) / 2);
        wanted[i] = 2 * 6371.0 * std::asin(std::sqrt(u * u + std::cos(a[0]) * std::cos(a[2 * i]) * v * v));
    }
    close(y.read(), wanted, 1e-12, 1e-9);
}

TEST(point_in_polygon) {
    int corners = 17, n = 1000;
    auto polygon = integers<int>(2 * corners, 1000), points = integers<int>(2 * n, 1000, 2);
    Buffer<int> p(polygon), q(points);
    Buffer<unsigned char> inside(n);
    launch("point_in_polygon", blocks(n, 128), 128, p, corners, q, inside, n);
    std::vector<unsigned char> wanted(n);
    for (int i = 0; i < n; ++i) {
        // Counts crossings of the ray to the right, by exact rational comparison.
        for (int k = 0; k < corners; ++k) {
            long long ax = polygon[2 * k], ay = polygon[2 * k + 1];
            long long bx = polygon[2 * ((k + corners - 1) % corners)], by = polygon[2 * ((k + corners - 1) % corners) + 1];
            long long x = points[2 * i], y = points[2 * i + 1];
            if ((ay > y) != (by > y) && double(x - ax) < double((y - ay) * (bx - ax)) / double(by - ay)) {
                wanted[i] ^= 1;
            }
        }
    }
    equal(inside.read(), wanted);
}

TEST(segments) {
    int n = 100;
    auto s = integers<int>(4 * n, 2000);
    Buffer<int> x(s);
    Buffer<unsigned> count(1);
    launch("segments_cross", Size(7, 7), Size(16, 16), x, count, n);
    unsigned wanted = 0;
    for (int i = 0; i < n; ++i) {
        for (int j = 0; j < i; ++j) {
            const int *p = &s[4 * i], *q = &s[4 * j];
            auto area = [](const int *s, int x, int y) {
                return double(s[2] - s[0]) * (y - s[1]) - double(s[3] - s[1]) * (x - s[0]);
            };
            wanted += area(p, q[0], q[1]) * area(p, q[2], q[3]) < 0 && area(q, p[0], p[1]) * area(q, p[2], p[3]) < 0;
        }
    }
    equal(count.read()[0], wanted);
}

TEST(nearest_neighbours) {
    int n = 250;
    auto p = integers<int>(3 * n, 1000);
    Buffer<int> x(p), y(5 * n);
    launch("nearest", blocks(n, 64), 64, x, y, n);
    std::vector<int> wanted;
    for (int i = 0; i < n; ++i) {
        std::vector<std::pair<long long, int>> order;
        for (int j = 0; j < n; ++j) {
            long long d = 0;
            for (int k = 0; k < 3; ++k) {
                d += (p[3 * i + k] - p[3 * j + k]) * (p[3 * i + k] - p[3 * j + k]);
            }
            if (j != i) {
                order.push_back({d, j});
            }
        }
        std::sort(order.begin(), order.end());
        for (int k = 0; k < 5; ++k) {
            wanted.push_back(order[k].second);
        }
    }
    equal(y.read(), wanted);
}

TEST(k_means) {
    int n = 600, k = 6;
    auto p = integers<int>(2 * n, 10000);
    std::vector<int> centres(p.begin(), p.begin() + 2 * k), chosen(n);
    Buffer<int> x(p), c(centres), chosen_(n), sums(3 * k);
    for (int turn = 0; turn < 8; ++turn) {
        launch("assign_clusters", blocks(n, 128), 128, x, c, chosen_, sums, n, k);
        launch("move_centres", 1, k, c, sums);
        std::vector<int> sum(3 * k);
        for (int i = 0; i < n; ++i) {
            long long least = -1;
            for (int at = 0; at < k; ++at) {
                long long u = p[2 * i] - centres[2 * at], v = p[2 * i + 1] - centres[2 * at + 1];
                if (least < 0 || u * u + v * v < least) {
                    least = u * u + v * v;
                    chosen[i] = at;
                }
            }
            sum[3 * chosen[i]] += p[2 * i], sum[3 * chosen[i] + 1] += p[2 * i + 1], ++sum[3 * chosen[i] + 2];
        }
        for (int at = 0; at < k; ++at) {
            if (sum[3 * at + 2]) {
                centres[2 * at] = sum[3 * at] / sum[3 * at + 2];
                centres[2 * at + 1] = sum[3 * at + 1] / sum[3 * at + 2];
            }
        }
    }
    equal(chosen_.read(), chosen);
    equal(c.read(), centres);
}

TEST(runge_kutta) {
    int n = 40;
    auto x = reals<double>(n, -1, 1), v = reals<double>(n, -1, 1, 2);
    Buffer<double> p(x), s(v);
    launch("runge_kutta", 2, 32, p, s, 0.001, 2000, n);
    std::vector<double> wanted(n);
    for (int i = 0; i < n; ++i) {
        wanted[i] = x[i] * std::cos(2.0) + v[i] * std::sin(2.0);
    }
    close(p.read(), wanted, 1e-10, 1e-10);
}

#endif
