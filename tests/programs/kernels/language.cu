// What CUDA C++ adds to arithmetic: calls of every kind, memory spaces, types, templates, classes.
#include "corpus.h"

struct Particle {
    double position[3];
    float mass;
    unsigned char kind;
    short charge;
};

struct Wide {
    char letters[13];
    long long numbers[20];
};

union Mixed {
    float real;
    unsigned bits;
    unsigned char bytes[4];
    struct {
        unsigned mantissa : 23, exponent : 8, sign : 1;
    } fields;
};

struct Packed {
    unsigned a : 3;
    int b : 7;
    unsigned long long c : 45;
    bool d : 1;
};

#ifndef HOST

KERNEL by_value(Particle p, Wide w, char tag, double *out) {
    int i = threadIdx.x;
    out[i] = p.position[i % 3] * p.mass + p.kind + p.charge + w.letters[i % 13] + static_cast<double>(w.numbers[i % 20]) + tag;
}

KERNEL structures(const Particle *in, Particle *out, int n) {
    int i = place();
    if (i < n) {
        Particle p = in[n - 1 - i];
        p.position[1] = -p.position[1];
        p.charge = static_cast<short>(p.charge + p.kind);
        out[i] = p;
    }
}

typedef int (*Operation)(int, int);
static __device__ int plus(int a, int b) { return a + b; }
static __device__ int minus(int a, int b) { return a - b; }
static __device__ __noinline__ int times(int a, int b) { return a * b; }
static __device__ __noinline__ int power(int a, int b) { return b <= 0 ? 1 : a * power(a, b - 1); }
__device__ Operation operations[4] = {plus, minus, times, power};

KERNEL function_pointers(const int *which, int *out, int n) {
    int i = place();
    if (i < n) {
        out[i] = operations[which[i]](i % 7 + 1, i % 5);
    }
}

class Shape {
public:
    __device__ virtual ~Shape() {}
    __device__ virtual int area() const = 0;
    __device__ virtual int corners() const { return 4; }
};
class Square : public Shape {
    int side;

public:
    __device__ explicit Square(int side) : side(side) {}
    __device__ int area() const override { return side * side; }
};
class Triangle : public Shape {
    int base, height;

public:
    __device__ Triangle(int base, int height) : base(base), height(height) {}
    __device__ int area() const override { return base * height / 2; }
    __device__ int corners() const override { return 3; }
};

KERNEL virtual_functions(int *out, int n) {
    int i = place();
    if (i >= n) {
        return;
    }
    Square square(i + 1);
    Triangle triangle(i + 2, 6);
    Shape *shape = i % 3 ? static_cast<Shape *>(&triangle) : &square;
    out[i] = shape->area() * 10 + shape->corners();
}

static __device__ __noinline__ unsigned fibonacci(unsigned n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

static __device__ unsigned ackermann(unsigned m, unsigned n) {
    if (m == 0) {
        return n + 1;
    }
    return ackermann(m - 1, n == 0 ? 1 : ackermann(m, n - 1));
}

static __device__ __noinline__ bool odd(int n);
static __device__ __noinline__ bool even(int n) { return n == 0 || odd(n - 1); }
static __device__ __noinline__ bool odd(int n) { return n != 0 && even(n - 1); }

KERNEL recursion(unsigned *out) {
    unsigned i = threadIdx.x;
    out[i] = fibonacci(i % 12) | ackermann(2, i % 5) << 16 | (even(i) ? 1u << 31 : 0);
}

static __device__ __noinline__ void quicksort(short *values, int count) {
    while (count > 1) {
        short pivot = values[count / 2];
        int i = 0, j = count - 1;
        while (i <= j) {
            while (values[i] < pivot) {
                ++i;
            }
            while (values[j] > pivot) {
                --j;
            }
            if (i <= j) {
                short held = values[i];
                values[i++] = values[j];
                values[j--] = held;
            }
        }
        quicksort(values, j + 1);
        values += i;
        count -= i;
    }
}

KERNEL quicksorts(const short *in, short *out, int count) {
    short own[24];
    for (int k = 0; k < count; ++k) {
        own[k] = in[threadIdx.x * count + k];
    }
    quicksort(own, count);
    for (int k = 0; k < count; ++k) {
        out[threadIdx.x * count + k] = own[k];
    }
}

KERNEL switches(const int *in, int *out, int n) {
    int i = place();
    if (i >= n) {
        return;
    }
    int x = in[i], y = 0;
    switch (x) {
    case 0: y = i; break;
    case 1: y = i * 3;
    case 2: y += 100; break;
    case 3: y = -i; break;
    case 4: y = i << 3; break;
    case 5: y = i ^ 0x55; break;
    case 6: return;
    case 7: y = i % 10; break;
    case 8: y = 8888; break;
    case 9: y = i * i; break;
    case 1000: y = 1; break;
    default: y = -x;
    }
    out[i] = y;
}

KERNEL state_machine(const char *text, int *tokens, int stride) {
    const char *at = text + threadIdx.x * stride;
    enum { Space, Word, Number, Mixed_ } state = Space;
    int words = 0, numbers = 0, mixed = 0;
    for (;; ++at) {
        char c = *at;
        bool digit = c >= '0' && c <= '9', letter = c >= 'a' && c <= 'z';
        switch (state) {
        case Space: state = digit ? Number : letter ? Word : Space; break;
        case Word: state = digit ? Mixed_ : letter ? Word : (++words, Space); break;
        case Number: state = letter ? Mixed_ : digit ? Number : (++numbers, Space); break;
        case Mixed_: state = digit || letter ? Mixed_ : (++mixed, Space); break;
        }
        if (c == 0) {
            break;
        }
    }
    tokens[threadIdx.x] = words | numbers << 8 | mixed << 16;
}

__constant__ int scale = 3;
__constant__ Particle standard = {{1, 2, 3}, 4, 5, 6};
__device__ int counter = 40;
__device__ double table[8] = {0.5, 1.5, 2.5};
__device__ const char *names[3] = {"alpha", "beta", "gamma delta"};
__device__ int *pointer_to_counter = &counter;
__device__ static unsigned char private_bytes[4] = {1, 2, 3, 4};

KERNEL module_variables(double *out, int *lengths) {
    int i = threadIdx.x;
    atomicAdd(pointer_to_counter, scale);
    table[7 - i % 4] = table[i % 3] + standard.position[i % 3] + standard.charge + private_bytes[i % 4];
    out[i] = table[7 - i % 4];
    int length = 0;
    while (names[i % 3][length]) {
        ++length;
    }
    lengths[i] = length;
}

template <class T> static __device__ T *dynamic() {
    extern __shared__ __align__(16) unsigned char dynamic_bytes[];
    return reinterpret_cast<T *>(dynamic_bytes);
}

// Three arrays of different types in one piece of dynamic memory, next to static memory.
KERNEL dynamic_shared(long long *out, int n) {
    __shared__ int mark[3];
    long long *longs = dynamic<long long>();
    int *ints = reinterpret_cast<int *>(longs + n);
    char *chars = reinterpret_cast<char *>(ints + n);
    int i = threadIdx.x;
    if (i < 3) {
        mark[i] = 1000 * i;
    }
    longs[i] = 1ll << (i % 40);
    ints[i] = -i;
    chars[i] = static_cast<char>(i);
    __syncthreads();
    int j = n - 1 - i;
    out[i] = longs[j] + ints[j] + chars[j] + mark[i % 3];
}

template <int N> struct Factorial {
    enum : unsigned long long { value = N * Factorial<N - 1>::value };
};
template <> struct Factorial<0> {
    enum : unsigned long long { value = 1 };
};

template <class T, class F> static __device__ T fold(const T *values, int count, T start, F f) {
    for (int i = 0; i < count; ++i) {
        start = f(start, values[i]);
    }
    return start;
}

template <class... T> static __device__ int sum_of(T... values) { return (0 + ... + static_cast<int>(values)); }

KERNEL templates(const int *in, long long *out, int n) {
    int offset = threadIdx.x;
    auto add = [offset](int a, int b) { return a + b + offset; };
    auto most = [](int a, int b) { return a > b ? a : b; };
    long long *o = out + 4 * threadIdx.x;
    o[0] = fold(in, n, 0, add);
    o[1] = fold(in, n, -1000000, most);
    o[2] = static_cast<long long>(Factorial<15>::value);
    o[3] = sum_of(1, 2.9f, 3ll, 'a', true, threadIdx.x);
}

KERNEL unions(const float *in, unsigned *out, int n) {
    int i = place();
    if (i >= n) {
        return;
    }
    Mixed m;
    m.real = in[i];
    unsigned e = m.fields.exponent, s = m.fields.sign, b = m.bytes[2];
    m.fields.exponent = e + 1;
    Packed p;
    p.a = i;
    p.b = -i;
    p.c = static_cast<unsigned long long>(i) * 123456789ull;
    p.d = i & 1;
    out[3 * i] = m.bits;
    out[3 * i + 1] = e | s << 8 | b << 16;
    out[3 * i + 2] = p.a + p.b * 8 + static_cast<unsigned>(p.c >> 13) + p.d;
}

KERNEL long_division(const long long *a, const long long *b, long long *out, int n) {
    int i = place();
    if (i < n) {
        out[4 * i] = a[i] / b[i];
        out[4 * i + 1] = a[i] % b[i];
        unsigned long long u = a[i], v = b[i];
        out[4 * i + 2] = static_cast<long long>(u / v);
        out[4 * i + 3] = static_cast<long long>(u % v) ^ static_cast<long long>(u << (i & 63)) ^ (a[i] >> (i & 63));
    }
}

KERNEL wide_integers(const unsigned long long *a, const unsigned long long *b, unsigned long long *out, int n) {
    int i = place();
    if (i >= n) {
        return;
    }
    unsigned __int128 p = static_cast<unsigned __int128>(a[i]) * b[i] + (static_cast<unsigned __int128>(b[i]) << 37);
    __int128 q = static_cast<__int128>(p - (static_cast<unsigned __int128>(a[i]) << 70));
    unsigned __int128 r = p / (a[i] | 1), s = p % (b[i] | 3);
    unsigned __int128 all = p ^ static_cast<unsigned __int128>(q) ^ r ^ s << 5 ^ static_cast<unsigned __int128>(q >> 9);
    out[2 * i] = static_cast<unsigned long long>(all);
    out[2 * i + 1] = static_cast<unsigned long long>(all >> 64) + (q < 0);
}

KERNEL local_arrays(const int *in, int *out, int n) {
    int stack[32], depth = 0;
    short counts[10] = {};
    for (int i = 0; i < n; ++i) {
        int x = in[threadIdx.x * n + i];
        if (x % 2 == 0 && depth > 0) {
            ++counts[stack[--depth] % 10];
        } else if (depth < 32) {
            stack[depth++] = x;
        }
    }
    int sum = depth;
    for (int k = 0; k < 10; ++k) {
        sum = sum * 31 + counts[k];
    }
    out[threadIdx.x] = sum;
}

KERNEL early_returns(int *out, int n) {
    __shared__ int seen;
    if (threadIdx.x == 0) {
        seen = 0;
    }
    __syncthreads();
    for (int i = 0;; ++i) {
        if (i == 5) {
            break;
        }
        if ((threadIdx.x + i) % 3 == 0) {
            continue;
        }
        if (i == 3 && threadIdx.x % 2) {
            goto leave;
        }
        atomicAdd(&seen, i);
    }
    atomicAdd(&seen, 1000);
leave:
    __syncthreads();
    if (threadIdx.x == 0) {
        *out = seen;
    }
}

KERNEL narrow_types(const signed char *a, const unsigned short *b, int *out, int n) {
    int i = place();
    if (i >= n) {
        return;
    }
    signed char c = static_cast<signed char>(a[i] * 3);
    unsigned short u = static_cast<unsigned short>(b[i] + 40000);
    short s = static_cast<short>(u - c);
    c = static_cast<signed char>(c >> 1);
    u = static_cast<unsigned short>(u << 3);
    out[i] = c * 1000003 + u * 17 + s / 3 + s % 7 + (a[i] < 0) + (static_cast<unsigned char>(c) >> 2) + ~u;
}


KERNEL heap(int *out, int turns) {
    int sum = 0;
    for (int turn = 0; turn < turns; ++turn) {
        int *own = static_cast<int *>(malloc(64 * sizeof(int)));
        if (!own) {
            return;
        }
        for (int i = 0; i < 64; ++i) {
            own[i] = i * threadIdx.x + turn;
        }
        for (int i = 0; i < 64; ++i) {
            sum += own[i];
        }
        free(own);
    }
    out[threadIdx.x] = sum;
}

// A list that one kernel makes and another walks and takes apart.
struct Node {
    int value;
    Node *next;
};
__device__ Node *lists[32];

KERNEL make_lists(int length) {
    for (int i = 0; i < length; ++i) {
        lists[threadIdx.x] = new Node{static_cast<int>(threadIdx.x) * 100 + i, lists[threadIdx.x]};
    }
}

KERNEL take_lists(int *sums) {
    int sum = 0;
    for (Node *node = lists[threadIdx.x]; node;) {
        Node *next = node->next;
        sum = sum * 3 + node->value;
        delete node;
        node = next;
    }
    sums[threadIdx.x] = sum;
}

#else

TEST(heap) {
    Buffer<int> out(64), sums(32);
    launch("heap", 1, 64, out, 300);
    std::vector<int> wanted(64);
    for (int i = 0; i < 64; ++i) {
        wanted[i] = 300 * 2016 * i + 64 * 44850;
    }
    equal(out.read(), wanted);
    launch("make_lists", 1, 32, 6);
    launch("take_lists", 1, 32, sums);
    wanted.assign(32, 0);
    for (int i = 0; i < 32; ++i) {
        for (int k = 5; k >= 0; --k) {
            wanted[i] = wanted[i] * 3 + i * 100 + k;
        }
    }
    equal(sums.read(), wanted);
}

TEST(parameters_by_value) {
    Particle p{{1.5, -2.5, 1e10}, 0.25f, 200, -77};
    Wide w;
    std::memset(&w, 0, sizeof w);
    for (int i = 0; i < 13; ++i) {
        w.letters[i] = char('a' + i);
    }
    for (int i = 0; i < 20; ++i) {
        w.numbers[i] = (1ll << 2 * i) - 5;
    }
    Buffer<double> out(64);
    launch("by_value", 1, 64, p, w, 'z', out);
    std::vector<double> wanted(64);
    for (int i = 0; i < 64; ++i) {
        wanted[i] = p.position[i % 3] * p.mass + p.kind + p.charge + w.letters[i % 13] + double(w.numbers[i % 20]) + 'z';
    }
    equal(out.read(), wanted);
}

TEST(structures) {
    int n = 77;
    std::vector<Particle> in(n), wanted(n);
    std::memset(in.data(), 0, n * sizeof(Particle));
    for (int i = 0; i < n; ++i) {
        in[i].position[0] = i, in[i].position[1] = 2 * i, in[i].position[2] = 0.1 * i;
        in[i].mass = float(i) / 3;
        in[i].kind = static_cast<unsigned char>(7 * i);
        in[i].charge = static_cast<short>(-1000 * i);
    }
    Buffer<Particle> x(in), y(n);
    launch("structures", 2, 64, x, y, n);
    auto seen = y.read();
    for (int i = 0; i < n; ++i) {
        Particle p = in[n - 1 - i];
        EXPECT(seen[i].position[0] == p.position[0] && seen[i].position[1] == -p.position[1] &&
               seen[i].position[2] == p.position[2] && seen[i].mass == p.mass && seen[i].kind == p.kind &&
               seen[i].charge == static_cast<short>(p.charge + p.kind));
    }
}

TEST(function_pointers) {
    int n = 300;
    auto which = integers<int>(n, 4);
    Buffer<int> x(which), y(n);
    launch("function_pointers", blocks(n, 64), 64, x, y, n);
    std::vector<int> wanted(n);
    for (int i = 0; i < n; ++i) {
        int a = i % 7 + 1, b = i % 5, power = 1;
        for (int k = 0; k < b; ++k) {
            power *= a;
        }
        wanted[i] = which[i] == 0 ? a + b : which[i] == 1 ? a - b : which[i] == 2 ? a * b : power;
    }
    equal(y.read(), wanted);
}

TEST(virtual_functions) {
    int n = 100;
    Buffer<int> out(n);
    launch("virtual_functions", 2, 64, out, n);
    std::vector<int> wanted(n);
    for (int i = 0; i < n; ++i) {
        wanted[i] = i % 3 ? (i + 2) * 30 + 3 : (i + 1) * (i + 1) * 10 + 4;
    }
    equal(out.read(), wanted);
}

TEST(recursion) {
    Buffer<unsigned> out(64);
    launch("recursion", 1, 64, out);
    unsigned fibonacci[12] = {0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89};
    std::vector<unsigned> wanted(64);
    for (unsigned i = 0; i < 64; ++i) {
        wanted[i] = fibonacci[i % 12] | (2 * (i % 5) + 3) << 16 | (i % 2 ? 0 : 1u << 31);
    }
    equal(out.read(), wanted);
}

TEST(quicksort) {
    int count = 24;
    auto in = integers<short>(64 * count, 0);
    Buffer<short> x(in), y(in.size());
    launch("quicksorts", 1, 64, x, y, count);
    for (int i = 0; i < 64; ++i) {
        std::sort(&in[i * count], &in[i * count] + count);
    }
    equal(y.read(), in);
}

TEST(switches) {
    int n = 500;
    auto in = integers<int>(n, 13);
    in[7] = 1000, in[8] = -5;
    Buffer<int> x(in), y(n);
    launch("switches", blocks(n, 128), 128, x, y, n);
    std::vector<int> wanted(n);
    for (int i = 0; i < n; ++i) {
        int values[] = {i, i * 3 + 100, 100, -i, i << 3, i ^ 0x55, 0, i % 10, 8888, i * i};
        wanted[i] = in[i] == 1000 ? 1 : in[i] >= 0 && in[i] < 10 ? values[in[i]] : -in[i];
    }
    equal(y.read(), wanted);
}

TEST(state_machine) {
    int stride = 40;
    const char *texts[] = {"one two 3 four4 55", "", " 12 34  a1 ", "abc", "7 7 7 7 7 7 7", "x1y 2z z"};
    int tokens[] = {0x10202, 0, 0x10200, 1, 0x700, 0x20001};
    std::vector<char> in(64 * stride);
    std::vector<int> wanted(64);
    for (int i = 0; i < 64; ++i) {
        std::strcpy(&in[i * stride], texts[i % 6]);
        wanted[i] = tokens[i % 6];
    }
    Buffer<char> x(in);
    Buffer<int> y(64);
    launch("state_machine", 1, 64, x, y, stride);
    equal(y.read(), wanted);
}

TEST(module_variables) {
    Buffer<double> out(3);
    Buffer<int> lengths(3);
    launch("module_variables", 1, 3, out, lengths);
    equal(out.read(), {0.5 + 1 + 6 + 1, 1.5 + 2 + 6 + 2, 2.5 + 3 + 6 + 3});
    equal(lengths.read(), {5, 4, 11});
    equal(symbol<int>("counter"), {49});
    set_symbol<int>("scale", {-10});
    launch("module_variables", 1, 3, out, lengths);
    equal(symbol<int>("counter"), {19});
}

TEST(dynamic_shared_memory) {
    int n = 100;
    Buffer<long long> out(n);
    launch_shared("dynamic_shared", 1, n, n * 13, out, n);
    std::vector<long long> wanted(n);
    for (int i = 0; i < n; ++i) {
        int j = n - 1 - i;
        wanted[i] = (1ll << j % 40) - j + static_cast<signed char>(j) + 1000 * (i % 3);
    }
    equal(out.read(), wanted);
    // More than 48 KiB has to be asked for first.
    EXPECT(outcome("dynamic_shared", 1, 32, 60000, out, 32) == 1);
}

TEST(templates_and_lambdas) {
    int n = 50;
    auto in = integers<int>(n, 1000);
    Buffer<int> x(in);
    Buffer<long long> y(4 * 32);
    launch("templates", 1, 32, x, y, n);
    std::vector<long long> wanted;
    for (int i = 0; i < 32; ++i) {
        wanted.push_back(std::accumulate(in.begin(), in.end(), 0) + n * i);
        wanted.push_back(*std::max_element(in.begin(), in.end()));
        wanted.push_back(1307674368000);
        wanted.push_back(1 + 2 + 3 + 'a' + 1 + i);
    }
    equal(y.read(), wanted);
}

TEST(unions_and_bitfields) {
    int n = 100;
    auto in = reals<float>(n, -100, 100);
    Buffer<float> x(in);
    Buffer<unsigned> y(3 * n);
    launch("unions", 2, 64, x, y, n);
    std::vector<unsigned> wanted;
    for (int i = 0; i < n; ++i) {
        unsigned bits;
        std::memcpy(&bits, &in[i], 4);
        wanted.push_back((bits & 0x807fffff) | (((bits >> 23) + 1) & 255) << 23);
        wanted.push_back((bits >> 23 & 255) | bits >> 31 << 8 | (bits >> 16 & 255) << 16);
        int b = (-i & 127) >= 64 ? (-i & 127) - 128 : -i & 127;
        unsigned long long c = i * 123456789ull & ((1ull << 45) - 1);
        wanted.push_back(unsigned((i & 7) + b * 8 + int(unsigned(c >> 13)) + (i & 1)));
    }
    equal(y.read(), wanted);
}

TEST(long_division) {
    int n = 500;
    std::vector<long long> a(n), b(n), wanted;
    Random random(8);
    for (int i = 0; i < n; ++i) {
        a[i] = static_cast<long long>(static_cast<unsigned long long>(random.next()) << 32 | random.next()) >> random.below(60);
        b[i] = static_cast<long long>(static_cast<unsigned long long>(random.next()) << 32 | random.next()) >> random.below(62);
        b[i] += b[i] == 0 ? 7 : 0;
    }
    for (int i = 0; i < n; ++i) {
        unsigned long long u = a[i], v = b[i];
        wanted.push_back(a[i] / b[i]);
        wanted.push_back(a[i] % b[i]);
        wanted.push_back(static_cast<long long>(u / v));
        wanted.push_back(static_cast<long long>(u % v) ^ static_cast<long long>(u << (i & 63)) ^ (a[i] >> (i & 63)));
    }
    Buffer<long long> x(a), y(b), z(4 * n);
    launch("long_division", blocks(n, 128), 128, x, y, z, n);
    equal(z.read(), wanted);
}

TEST(wide_integers) {
    int n = 300;
    auto a = integers<unsigned long long>(n, 0), b = integers<unsigned long long>(n, 0, 2);
    for (int i = 0; i < n; ++i) {
        a[i] = a[i] * 0x9e3779b97f4a7c15 >> i % 50;
        b[i] = b[i] * 0x9e3779b97f4a7c15 >> i % 37;
    }
    Buffer<unsigned long long> x(a), y(b), z(2 * n);
    launch("wide_integers", blocks(n, 64), 64, x, y, z, n);
    std::vector<unsigned long long> wanted;
    for (int i = 0; i < n; ++i) {
        unsigned __int128 p = static_cast<unsigned __int128>(a[i]) * b[i] + (static_cast<unsigned __int128>(b[i]) << 37);
        __int128 q = static_cast<__int128>(p - (static_cast<unsigned __int128>(a[i]) << 70));
        unsigned __int128 r = p / (a[i] | 1), s = p % (b[i] | 3);
        unsigned __int128 all = p ^ static_cast<unsigned __int128>(q) ^ r ^ s << 5 ^ static_cast<unsigned __int128>(q >> 9);
        wanted.push_back(static_cast<unsigned long long>(all));
        wanted.push_back(static_cast<unsigned long long>(all >> 64) + (q < 0));
    }
    equal(z.read(), wanted);
}

TEST(local_arrays) {
    int n = 60;
    auto in = integers<int>(64 * n, 1000);
    Buffer<int> x(in), y(64);
    launch("local_arrays", 1, 64, x, y, n);
    std::vector<int> wanted(64);
    for (int t = 0; t < 64; ++t) {
        std::vector<int> stack, counts(10);
        for (int i = 0; i < n; ++i) {
            int v = in[t * n + i];
            if (v % 2 == 0 && !stack.empty()) {
                ++counts[stack.back() % 10];
                stack.pop_back();
            } else if (stack.size() < 32) {
                stack.push_back(v);
            }
        }
        unsigned sum = unsigned(stack.size());
        for (int count : counts) {
            sum = sum * 31 + count;
        }
        wanted[t] = int(sum);
    }
    equal(y.read(), wanted);
}

TEST(early_returns) {
    Buffer<int> out(1);
    launch("early_returns", 1, 100, out, 100);
    int wanted = 0;
    for (int t = 0; t < 100; ++t) {
        bool left = false;
        for (int i = 0; i < 5 && !left; ++i) {
            if ((t + i) % 3) {
                left = i == 3 && t % 2;
                wanted += left ? 0 : i;
            }
        }
        wanted += left ? 0 : 1000;
    }
    equal(out.read()[0], wanted);
}

TEST(narrow_types) {
    int n = 400;
    auto a = integers<signed char>(n, 0);
    auto b = integers<unsigned short>(n, 0, 2);
    Buffer<signed char> x(a);
    Buffer<unsigned short> y(b);
    Buffer<int> z(n);
    launch("narrow_types", blocks(n, 128), 128, x, y, z, n);
    std::vector<int> wanted(n);
    for (int i = 0; i < n; ++i) {
        auto c = static_cast<signed char>(a[i] * 3);
        auto u = static_cast<unsigned short>(b[i] + 40000);
        auto s = static_cast<short>(u - c);
        c = static_cast<signed char>(c >> 1);
        u = static_cast<unsigned short>(u << 3);
        wanted[i] = c * 1000003 + u * 17 + s / 3 + s % 7 + (a[i] < 0) + (static_cast<unsigned char>(c) >> 2) + ~u;
    }
    equal(z.read(), wanted);
}

#endif
