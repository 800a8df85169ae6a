// Times kernels against the same loops in C, by turns in one process. On the software GPU alone: prints a line
// a kernel, `NAME kernel C` in nanoseconds, medians of the turns. kernels.cu holds the kernels.
#include "../driver/program.h"

#include <math.h>
#include <time.h>

EMBED_PTX(kernels_ptx, "../bench/kernels.ptx");

enum { TURNS = 7, SIZE = 1 << 20, ROWS = 256, BODIES = 1024, OPTIONS = 1 << 16 };

static float *a, *b, *c, *d, *e;
static unsigned char *bytes;
static unsigned bins[256], total;
static CUdeviceptr da, db, dc, dd, de, dbytes, dbins;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

// --- The loops in C, each element in the order of the kernel's threads.

static void vector_add(void) {
    for (int i = 0; i < SIZE; ++i) {
        c[i] = a[i] + b[i];
    }
}

static void saxpy(void) {
    for (int i = 0; i < SIZE; ++i) {
        c[i] = 1.5f * a[i] + c[i];
    }
}

// Rows, columns, then the inner product, as the kernel.
static void matmul(void) {
    for (int row = 0; row < ROWS; ++row) {
        for (int column = 0; column < ROWS; ++column) {
            float sum = 0;
            for (int k = 0; k < ROWS; ++k) {
                sum += a[row * ROWS + k] * b[k * ROWS + column];
            }
            c[row * ROWS + column] = sum;
        }
    }
}

static void nbody(void) {
    for (int i = 0; i < BODIES; ++i) {
        float fx = 0, fy = 0, fz = 0;
        for (int j = 0; j < BODIES; ++j) {
            float x = a[4 * j] - a[4 * i], y = a[4 * j + 1] - a[4 * i + 1], z = a[4 * j + 2] - a[4 * i + 2];
            float inverse = 1 / sqrtf(x * x + y * y + z * z + 0.01f);
            float scale = a[4 * j + 3] * inverse * inverse * inverse;
            fx += x * scale;
            fy += y * scale;
            fz += z * scale;
        }
        c[4 * i] = fx;
        c[4 * i + 1] = fy;
        c[4 * i + 2] = fz;
    }
}

static void reduction(void) {
    const unsigned *in = (const unsigned *)(const void *)a;
    unsigned sum = 0;
    for (int i = 0; i < SIZE; ++i) {
        sum += in[i];
    }
    total += sum;
}

static float normal(float x) {
    float k = 1 / (1 + 0.2316419f * fabsf(x));
    float tail = 0.39894228f * expf(-0.5f * x * x) *
                 (k * (0.31938153f + k * (-0.356563782f + k * (1.781477937f + k * (-1.821255978f + k * 1.330274429f)))));
    return x > 0 ? 1 - tail : tail;
}

static void black_scholes(void) {
    const float rate = 0.02f, volatility = 0.3f;
    for (int i = 0; i < OPTIONS; ++i) {
        float root = sqrtf(d[i]);
        float d1 = (logf(a[i] / b[i]) + (rate + 0.5f * volatility * volatility) * d[i]) / (volatility * root);
        float d2 = d1 - volatility * root, discount = b[i] * expf(-rate * d[i]);
        float p = normal(d1), q = normal(d2);
        c[i] = a[i] * p - discount * q;
        e[i] = discount * (1 - q) - a[i] * (1 - p);
    }
}

static void histogram(void) {
    for (int i = 0; i < SIZE; ++i) {
        ++bins[bytes[i]];
    }
}

// --- What is timed

static struct kernel {
    const char *name;
    void (*loop)(void);
    unsigned grid;
    void *parameters[7];
    // Floats that both sides leave at `c`; none where other things are compared.
    int floats;
    CUfunction function;
} kernels[] = {
    {"matmul", matmul, ROWS / 8, {&da, &db, &dc, &(int){ROWS}}, ROWS * ROWS, 0},
    {"nbody", nbody, BODIES / 256, {&da, &dc, &(int){BODIES}}, 3, 0},
    {"reduction", reduction, 64, {&da, &dbins, &(int){SIZE}}, 0, 0},
    {"black_scholes", black_scholes, 64, {&da, &db, &dd, &dc, &de, &(int){OPTIONS}}, OPTIONS, 0},
    {"vector_add", vector_add, SIZE / 256, {&da, &db, &dc, &(int){SIZE}}, SIZE, 0},
    {"saxpy", saxpy, 64, {&da, &dc, &(float){1.5f}, &(int){SIZE}}, SIZE, 0},
    {"histogram", histogram, 64, {&dbytes, &dbins, &(int){SIZE}}, 0, 0},
};

static int ascending(const void *p, const void *q) {
    double x = *(const double *)p, y = *(const double *)q;
    return (x > y) - (x < y);
}

static double median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, ascending);
    return values[count / 2];
}

static double run(struct kernel *kernel) {
    double began = now();
    CHECK(cuLaunchKernel(kernel->function, kernel->grid, 1, 1, 256, 1, 1, 0, NULL, kernel->parameters, NULL));
    CHECK(cuCtxSynchronize());
    return now() - began;
}

static void compare(struct kernel *kernel) {
    static float seen[SIZE];
    double ours[TURNS], theirs[TURNS];
    memset(c, 0, SIZE * sizeof *c);
    CHECK(cuMemcpyHtoD(dc, c, SIZE * sizeof *c));
    for (int turn = 0; turn < TURNS; ++turn) {
        ours[turn] = run(kernel);
        double began = now();
        kernel->loop();
        theirs[turn] = now() - began;
    }
    CHECK(cuMemcpyDtoH(seen, dc, SIZE * sizeof *seen));
    for (int i = 0; i < kernel->floats; ++i) {
        if (!(fabsf(seen[i] - c[i]) <= 1e-4f * fabsf(c[i]) + 2e-4f)) {
            printf("FAIL %s: [%d] is %g, not %g\n", kernel->name, i, (double)seen[i], (double)c[i]);
            exit(1);
        }
    }
    printf("%s %.0f %.0f\n", kernel->name, median(ours, TURNS), median(theirs, TURNS));
}

// A megabyte of text: copies of the kernels under other names.
static void load(void) {
    static char text[1 << 20];
    const char *body = strstr(kernels_ptx, ".visible .entry");
    size_t head = (size_t)(body - kernels_ptx), at = head;
    memcpy(text, kernels_ptx, head);
    for (int copy = 0; at + 2 * strlen(body) < sizeof text; ++copy) {
        for (const char *from = body; *from;) {
            static const char entry[] = ".visible .entry ";
            if (strncmp(from, entry, sizeof entry - 1) == 0) {
                at += (size_t)sprintf(text + at, "%sk%d_", entry, copy);
                from += sizeof entry - 1;
            } else {
                text[at++] = *from++;
            }
        }
    }
    text[at] = 0;
    double times[5];
    for (int turn = 0; turn < 5; ++turn) {
        CUmodule module;
        double began = now();
        CHECK(cuModuleLoadData(&module, text));
        times[turn] = now() - began;
        CHECK(cuModuleUnload(module));
    }
    printf("load %.0f %zu\n", median(times, 5), at);
}

static void *filled(CUdeviceptr *device, size_t bytes_, float low, float high) {
    float *host = malloc(bytes_);
    unsigned state = 12345;
    for (size_t i = 0; i < bytes_ / sizeof *host; ++i) {
        state = state * 1664525u + 1013904223u;
        host[i] = low + (high - low) * (float)(state >> 8) / 16777216.0f;
    }
    CHECK(cuMemAlloc(device, bytes_));
    CHECK(cuMemcpyHtoD(*device, host, bytes_));
    return host;
}

int main(int count, char **words) {
    start();
    CUmodule module;
    CHECK(cuModuleLoadData(&module, kernels_ptx));
    a = filled(&da, SIZE * sizeof *a, 1, 30);
    b = filled(&db, SIZE * sizeof *b, 1, 50);
    c = filled(&dc, SIZE * sizeof *c, 0, 1);
    d = filled(&dd, SIZE * sizeof *d, 0.25f, 10);
    e = filled(&de, SIZE * sizeof *e, 0, 1);
    bytes = filled(&dbytes, SIZE, 1, 30);
    CHECK(cuMemAlloc(&dbins, sizeof bins));
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; ++i) {
        kernels[i].function = function_of(module, kernels[i].name);
        if (count < 2 || strcmp(words[1], kernels[i].name) == 0) {
            compare(&kernels[i]);
        }
    }
    if (count < 2) {
        load();
    }
    return failures != 0;
}
