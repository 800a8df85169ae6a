// Functions of the mathematical library, single and double precision, against the host's.
#include "corpus.h"

// name, single-precision bound in ulp, lowest and highest argument
#define UNARY(f)             \
    f(sin, 3, -100, 100)     \
    f(cos, 3, -100, 100)     \
    f(tan, 5, -10, 10)       \
    f(asin, 4, -1, 1)        \
    f(acos, 4, -1, 1)        \
    f(atan, 3, -50, 50)      \
    f(sinh, 4, -10, 10)      \
    f(cosh, 3, -10, 10)      \
    f(tanh, 3, -5, 5)        \
    f(asinh, 4, -100, 100)   \
    f(acosh, 5, 1, 100)      \
    f(atanh, 4, -0.99, 0.99) \
    f(exp, 3, -80, 80)       \
    f(exp2, 3, -100, 100)    \
    f(exp10, 3, -30, 30)     \
    f(expm1, 2, -5, 5)       \
    f(log, 2, 1e-6, 1e6)     \
    f(log2, 2, 1e-6, 1e6)    \
    f(log10, 3, 1e-6, 1e6)   \
    f(log1p, 2, -0.9, 100)   \
    f(sqrt, 1, 0, 1e6)       \
    f(cbrt, 2, -1000, 1000)  \
    f(erf, 3, -4, 4)         \
    f(erfc, 7, -4, 4)        \
    f(tgamma, 12, 0.1, 20)   \
    f(floor, 0, -100, 100)   \
    f(ceil, 0, -100, 100)    \
    f(trunc, 0, -100, 100)   \
    f(round, 0, -100, 100)   \
    f(rint, 0, -100, 100)    \
    f(fabs, 0, -100, 100)    \
    f(logb, 0, -1000, 1000)

#define BINARY(f)                \
    f(pow, 6, 0.01, 20)          \
    f(atan2, 4, -10, 10)         \
    f(hypot, 4, -1000, 1000)     \
    f(fmod, 0, -1000, 1000)      \
    f(remainder, 0, -1000, 1000) \
    f(fdim, 1, -10, 10)          \
    f(fmin, 0, -10, 10)          \
    f(fmax, 0, -10, 10)          \
    f(copysign, 0, -10, 10)      \
    f(nextafter, 0, -10, 10)

#ifndef HOST

#define DEFINE_UNARY(name, ulp, low, high)                             \
    KERNEL name##_single(const float *in, float *out, int n) {         \
        int i = place();                                               \
        if (i < n) {                                                   \
            out[i] = name##f(in[i]);                                   \
        }                                                              \
    }                                                                  \
    KERNEL name##_double(const double *in, double *out, int n) {       \
        int i = place();                                               \
        if (i < n) {                                                   \
            out[i] = name(in[i]);                                      \
        }                                                              \
    }
UNARY(DEFINE_UNARY)

#define DEFINE_BINARY(name, ulp, low, high)                                             \
    KERNEL name##_single(const float *a, const float *b, float *out, int n) {           \
        int i = place();                                                                \
        if (i < n) {                                                                    \
            out[i] = name##f(a[i], b[i]);                                               \
        }                                                                               \
    }                                                                                   \
    KERNEL name##_double(const double *a, const double *b, double *out, int n) {        \
        int i = place();                                                                \
        if (i < n) {                                                                    \
            out[i] = name(a[i], b[i]);                                                  \
        }                                                                               \
    }
BINARY(DEFINE_BINARY)

KERNEL special_functions(const double *in, double *out, int n) {
    int i = place();
    if (i < n) {
        double x = in[i], *o = out + 8 * i;
        o[0] = j0(x);
        o[1] = j1(x);
        o[2] = jn(3, x);
        o[3] = y0(x);
        o[4] = y1(x);
        o[5] = yn(2, x);
        o[6] = lgamma(x);
        o[7] = cyl_bessel_i0(x) - cyl_bessel_i1(x);
    }
}

KERNEL special_functions_single(const float *in, float *out, int n) {
    int i = place();
    if (i < n) {
        float x = in[i], *o = out + 4 * i;
        o[0] = j0f(x);
        o[1] = y0f(x);
        o[2] = lgammaf(x);
        o[3] = normcdff(x - 5);
    }
}

KERNEL fast(const float *in, float *out, int n) {
    int i = place();
    if (i < n) {
        float x = in[i], *o = out + 8 * i;
        o[0] = __sinf(x);
        o[1] = __cosf(x);
        o[2] = __expf(x);
        o[3] = __logf(x);
        o[4] = __powf(x, 1.5f);
        o[5] = __fdividef(x, 3.7f);
        o[6] = rsqrtf(x);
        o[7] = __saturatef(x - 1);
    }
}

KERNEL parts(const double *in, double *out, int n) {
    int i = place();
    if (i < n) {
        double *o = out + 8 * i, whole, sine, cosine;
        int exponent, quotient;
        o[0] = frexp(in[i], &exponent);
        o[1] = exponent;
        o[2] = modf(in[i], &whole);
        o[3] = whole;
        sincos(in[i], &sine, &cosine);
        o[4] = sine * sine + cosine * cosine;
        o[5] = ldexp(in[i], 5) + scalbn(in[i], -3);
        o[6] = remquo(in[i], 3.3, &quotient);
        o[7] = (quotient & 7) + ilogb(in[i]) + llrint(in[i]) + lround(in[i]);
    }
}

// Directed rounding, and classes of values.
KERNEL rounding(const double *a, const double *b, double *out, int n) {
    int i = place();
    if (i >= n) {
        return;
    }
    double *o = out + 12 * i, x = a[i], y = b[i];
    float p = static_cast<float>(x), q = static_cast<float>(y);
    o[0] = __dadd_ru(x, y) - __dadd_rd(x, y) >= 0;
    o[1] = __dmul_rz(x, y);
    o[2] = __ddiv_rn(x, y);
    o[3] = __dsqrt_rn(fabs(x));
    o[4] = __fma_rn(x, y, 1.0);
    o[5] = __fmul_rn(p, q);
    o[6] = __fadd_rn(p, q);
    o[7] = __fdiv_rn(p, q);
    o[8] = __fsqrt_rn(fabsf(p));
    o[9] = __fmaf_rn(p, q, 1.0f);
    o[10] = __double2int_rd(x * 100) + __double2ll_ru(y * 100) + __float2int_rn(p) + __float2uint_rz(fabsf(q));
    o[11] = static_cast<float>(static_cast<long long>(x * 1e12)) + static_cast<double>(static_cast<unsigned long long>(fabs(y) * 1e15));
}

KERNEL classes(const float *in, unsigned *out, int n) {
    int i = place();
    if (i < n) {
        float x = in[i];
        double y = x;
        out[i] = isnan(x) | isinf(x) << 1 | isfinite(x) << 2 | (signbit(x) != 0) << 3 | isnan(y) << 4 | isinf(y) << 5 |
                 (x == x) << 6 | (x < 1) << 7 | !(x >= 1) << 8 | (fminf(x, 1.0f) == 1.0f) << 9 | (x != 0) << 10;
    }
}

#else

// The distance in units of the last place of `wanted`, rounded to T.
template <class T> static double distance(T seen, double wanted) {
    T near = T(wanted);
    if ((std::isnan(seen) && std::isnan(near)) || seen == near) {
        return 0;
    }
    T ulp = std::nextafter(std::fabs(near), std::numeric_limits<T>::infinity()) - std::fabs(near);
    return std::fabs(double(seen) - wanted) / double(ulp);
}

template <class T, class U>
static void within(const char *name, const std::vector<T> &seen, const std::vector<U> &wanted, double ulp) {
    for (size_t i = 0; i < seen.size(); ++i) {
        // The host's double-precision functions are themselves off by up to an ulp.
        if (!(distance(seen[i], wanted[i]) <= ulp + (sizeof(T) == 8 && ulp > 0 ? 1 : 0.51))) {
            fail("%s [%zu] is %.17g, not %.17g: %.2f ulp", name, i, double(seen[i]), double(wanted[i]),
                 distance(seen[i], wanted[i]));
        }
    }
}

static const int count = 400;

template <class T, class F> static void unary(const char *name, const char *kernel, double ulp, double low, double high, F f) {
    auto in = reals<T>(count, low, high);
    Buffer<T> x(in), y(count);
    launch(kernel, blocks(count, 128), 128, x, y, count);
    std::vector<double> wanted(count);
    for (int i = 0; i < count; ++i) {
        wanted[i] = f(double(in[i]));
    }
    within(name, y.read(), wanted, ulp);
}

template <class T, class F>
static void binary(const char *name, const char *kernel, double ulp, double low, double high, F f) {
    auto a = reals<T>(count, low, high), b = reals<T>(count, low, high / 3, 2);
    Buffer<T> x(a), y(b), z(count);
    launch(kernel, blocks(count, 128), 128, x, y, z, count);
    std::vector<T> wanted(count);
    for (int i = 0; i < count; ++i) {
        wanted[i] = T(f(a[i], b[i]));
    }
    within(name, z.read(), wanted, ulp);
}

static double exp10_(double x) { return std::pow(10.0, x); }
#define exp10 exp10_

#define TEST_UNARY(name, ulp, low, high) \
    unary<float>(#name "f", #name "_single", ulp, low, high, [](double x) -> double { return name(x); });
#define TEST_UNARY_DOUBLE(name, ulp, low, high) \
    unary<double>(#name, #name "_double", ulp == 0 ? 0 : ulp + 4, low, high, [](double x) -> double { return name(x); });
// In the type itself: some of these step from one value of the type to the next.
#define TEST_BINARY(name, ulp, low, high) \
    binary<float>(#name "f", #name "_single", ulp, low, high, [](float x, float y) { return name##f(x, y); });
#define TEST_BINARY_DOUBLE(name, ulp, low, high) \
    binary<double>(#name, #name "_double", ulp == 0 ? 0 : ulp + 2, low, high, [](double x, double y) { return name(x, y); });

TEST(functions_of_one_float) { UNARY(TEST_UNARY) }
TEST(functions_of_one_double) { UNARY(TEST_UNARY_DOUBLE) }
TEST(functions_of_two_floats) { BINARY(TEST_BINARY) }
TEST(functions_of_two_doubles) { BINARY(TEST_BINARY_DOUBLE) }

static double bessel_i(int order, double x) {
    double sum = 0, term = std::pow(x / 2, order);
    for (int k = 1; k < 60; ++k) {
        sum += term;
        term *= x * x / 4 / (k * (k + order));
    }
    return sum;
}

TEST(special_functions) {
    int n = 200;
    auto in = reals<double>(n, 0.5, 12);
    Buffer<double> x(in), y(8 * n);
    launch("special_functions", 2, 128, x, y, n);
    std::vector<double> wanted;
    for (double v : in) {
        wanted.insert(wanted.end(), {::j0(v), ::j1(v), ::jn(3, v), ::y0(v), ::y1(v), ::yn(2, v), std::lgamma(v),
                                     bessel_i(0, v) - bessel_i(1, v)});
    }
    close(y.read(), wanted, 1e-11, 1e-13);

    Buffer<float> p(std::vector<float>(in.begin(), in.end())), q(4 * n);
    launch("special_functions_single", 2, 128, p, q, n);
    std::vector<double> single;
    for (double v : in) {
        double u = float(v);
        single.insert(single.end(), {::j0(u), ::y0(u), std::lgamma(u), 0.5 * std::erfc(-double(float(u) - 5) / std::sqrt(2.0))});
    }
    close(q.read(), single, 2e-6, 1e-6);
}

TEST(fast_functions) {
    int n = 300;
    auto in = reals<float>(n, 0.01, 3);
    Buffer<float> x(in), y(8 * n);
    launch("fast", 3, 128, x, y, n);
    std::vector<double> wanted;
    for (float v : in) {
        double u = v;
        wanted.insert(wanted.end(), {std::sin(u), std::cos(u), std::exp(u), std::log(u), std::pow(u, 1.5), u / 3.7f,
                                     1 / std::sqrt(u), std::clamp(double(v - 1), 0.0, 1.0)});
    }
    close(y.read(), wanted, 2e-6, 1e-6);
}

TEST(parts_of_numbers) {
    int n = 200;
    auto in = reals<double>(n, -500, 500);
    Buffer<double> x(in), y(8 * n);
    launch("parts", 2, 128, x, y, n);
    std::vector<double> wanted;
    for (double v : in) {
        int exponent, quotient;
        double whole, fraction = std::frexp(v, &exponent), rest = std::modf(v, &whole), left = std::remquo(v, 3.3, &quotient);
        // Both sides agree on the quotient's low three bits and its sign.
        double q = (quotient < 0 ? -(-quotient & 7) : quotient & 7) & 7;
        wanted.insert(wanted.end(), {fraction, double(exponent), rest, whole, 1, std::ldexp(v, 5) + std::scalbn(v, -3), left,
                                     q + std::ilogb(v) + double(std::llrint(v)) + double(std::lround(v))});
    }
    close(y.read(), wanted, 1e-15);
}

TEST(rounding) {
    int n = 300;
    auto a = reals<double>(n, -50, 50), b = reals<double>(n, 0.1, 5, 2);
    Buffer<double> x(a), y(b), z(12 * n);
    launch("rounding", 3, 128, x, y, z, n);
    std::vector<double> wanted;
    for (int i = 0; i < n; ++i) {
        double u = a[i], v = b[i], product = u * v, error = std::fma(u, v, -product);
        // Toward zero: one back where the nearest lies beyond.
        if (error != 0 && (error < 0) == (product > 0)) {
            product = std::nextafter(product, 0.0);
        }
        float p = float(u), q = float(v);
        double integers = std::floor(u * 100) + std::ceil(v * 100) + std::nearbyint(p) + std::trunc(std::fabs(q));
        double large = double(float(static_cast<long long>(u * 1e12))) + double(static_cast<unsigned long long>(std::fabs(v) * 1e15));
        wanted.insert(wanted.end(), {1, product, u / v, std::sqrt(std::fabs(u)), std::fma(u, v, 1.0), p * q, p + q, p / q,
                                     std::sqrt(std::fabs(p)), std::fma(p, q, 1.0f), integers, large});
    }
    equal(z.read(), wanted);
}

TEST(classes) {
    std::vector<float> in{0, -0.0f, 1, -1, 1e-42f, -1e-42f, INFINITY, -INFINITY, NAN, 3e38f};
    int n = int(in.size());
    Buffer<float> x(in);
    Buffer<unsigned> y(n);
    launch("classes", 1, 32, x, y, n);
    std::vector<unsigned> wanted;
    for (float v : in) {
        bool nan = std::isnan(v), inf = std::isinf(v);
        wanted.push_back(nan | inf << 1 | (!nan && !inf) << 2 | std::signbit(v) << 3 | nan << 4 | inf << 5 | !nan << 6 |
                         (v < 1) << 7 | !(v >= 1) << 8 | (std::fmin(v, 1.0f) == 1.0f) << 9 | (v != 0) << 10);
    }
    equal(y.read(), wanted);
}

#endif
