// Sparse matrices and graphs: formats, searches, shortest paths, components, ranks.
#include "corpus.h"

#ifndef HOST

KERNEL csr_scalar(const int *rows, const int *columns, const double *values, const double *x, double *y, int n) {
    int row = place();
    if (row < n) {
        double sum = 0;
        for (int at = rows[row]; at < rows[row + 1]; ++at) {
            sum += values[at] * x[columns[at]];
        }
        y[row] = sum;
    }
}

KERNEL csr_vector(const int *rows, const int *columns, const double *values, const double *x, double *y, int n) {
    int row = place() / 32, lane = threadIdx.x % 32;
    if (row >= n) {
        return;
    }
    double sum = 0;
    for (int at = rows[row] + lane; at < rows[row + 1]; at += 32) {
        sum += values[at] * x[columns[at]];
    }
    for (int delta = 16; delta; delta /= 2) {
        sum += __shfl_xor_sync(0xffffffff, sum, delta);
    }
    if (lane == 0) {
        y[row] = sum;
    }
}

KERNEL coo(const int *rows, const int *columns, const double *values, const double *x, double *y, int count) {
    int at = place();
    if (at < count) {
        atomicAdd(&y[rows[at]], values[at] * x[columns[at]]);
    }
}

KERNEL ell(const int *columns, const double *values, const double *x, double *y, int n, int width) {
    int row = place();
    if (row >= n) {
        return;
    }
    double sum = 0;
    for (int k = 0; k < width; ++k) {
        int column = columns[k * n + row];
        if (column < 0) {
            break;
        }
        sum += values[k * n + row] * x[column];
    }
    y[row] = sum;
}

KERNEL bfs(const int *rows, const int *columns, int *distance, int level, int *changed, int n) {
    int vertex = place();
    if (vertex < n && distance[vertex] == level) {
        for (int at = rows[vertex]; at < rows[vertex + 1]; ++at) {
            if (atomicCAS(&distance[columns[at]], -1, level + 1) == -1) {
                *changed = 1;
            }
        }
    }
}

KERNEL relax(const int *rows, const int *columns, const unsigned *lengths, unsigned *distance, int *changed, int n) {
    int vertex = place();
    if (vertex >= n || distance[vertex] == 0xffffffff) {
        return;
    }
    for (int at = rows[vertex]; at < rows[vertex + 1]; ++at) {
        unsigned length = distance[vertex] + lengths[at];
        if (atomicMin(&distance[columns[at]], length) > length) {
            *changed = 1;
        }
    }
}

static __device__ int root(volatile int *parents, int vertex) {
    while (parents[vertex] != vertex) {
        vertex = parents[vertex];
    }
    return vertex;
}

KERNEL unite(const int *from, const int *to, int *parents, int count) {
    int at = place();
    if (at >= count) {
        return;
    }
    int a = root(parents, from[at]), b = root(parents, to[at]);
    while (a != b) {
        if (a < b) {
            int held = a;
            a = b;
            b = held;
        }
        int seen = atomicCAS(&parents[a], a, b);
        if (seen == a) {
            break;
        }
        a = root(parents, seen);
        b = root(parents, b);
    }
}

KERNEL flatten(int *parents, int n) {
    int vertex = place();
    if (vertex < n) {
        parents[vertex] = root(parents, vertex);
    }
}

KERNEL pagerank(const int *rows, const int *columns, const int *degree, const float *rank, float *next, int n) {
    int vertex = place();
    if (vertex < n) {
        float sum = 0;
        for (int at = rows[vertex]; at < rows[vertex + 1]; ++at) {
            sum += rank[columns[at]] / degree[columns[at]];
        }
        next[vertex] = 0.15f / n + 0.85f * sum;
    }
}

KERNEL floyd_warshall(int *distance, int n) {
    for (int k = 0; k < n; ++k) {
        for (int at = threadIdx.x; at < n * n; at += blockDim.x) {
            int i = at / n, j = at % n;
            distance[at] = min(distance[at], distance[i * n + k] + distance[k * n + j]);
        }
        __syncthreads();
    }
}

KERNEL triangles(const unsigned long long *adjacent, unsigned *count, int n) {
    int a = threadIdx.y, b = threadIdx.x;
    if (a < b && a < n && b < n && adjacent[a] >> b & 1) {
        unsigned long long above = b == 63 ? 0 : ~0ull << (b + 1);
        atomicAdd(count, __popcll(adjacent[a] & adjacent[b] & above));
    }
}

#else

struct Graph {
    int n;
    std::vector<int> rows, columns, from;
    std::vector<double> values;
};

static Graph graph(int n, int degree) {
    Random random(11);
    Graph g{n, {0}, {}, {}, {}};
    for (int row = 0; row < n; ++row) {
        int count = random.below(2 * degree);
        std::vector<int> row_columns;
        for (int k = 0; k < count; ++k) {
            row_columns.push_back(random.below(n));
        }
        std::sort(row_columns.begin(), row_columns.end());
        row_columns.erase(std::unique(row_columns.begin(), row_columns.end()), row_columns.end());
        for (int column : row_columns) {
            g.columns.push_back(column);
            g.from.push_back(row);
            g.values.push_back(random.real(-1, 1));
        }
        g.rows.push_back(int(g.columns.size()));
    }
    return g;
}

TEST(sparse_products) {
    Graph g = graph(333, 20);
    int n = g.n, count = int(g.columns.size()), width = 0;
    auto x = reals<double>(n, -1, 1, 5);
    std::vector<double> wanted(n);
    for (int at = 0; at < count; ++at) {
        wanted[g.from[at]] += g.values[at] * x[g.columns[at]];
    }
    for (int row = 0; row < n; ++row) {
        width = std::max(width, g.rows[row + 1] - g.rows[row]);
    }
    Buffer<int> rows(g.rows), columns(g.columns), from(g.from);
    Buffer<double> values(g.values), in(x), a(n), b(n), c(n), d(n);
    launch("csr_scalar", blocks(n, 128), 128, rows, columns, values, in, a, n);
    close(a.read(), wanted, 1e-12, 1e-13);
    launch("csr_vector", blocks(n * 32, 128), 128, rows, columns, values, in, b, n);
    close(b.read(), wanted, 1e-12, 1e-13);
    launch("coo", blocks(count, 256), 256, from, columns, values, in, c, count);
    close(c.read(), wanted, 1e-12, 1e-13);
    std::vector<int> wide(n * width, -1);
    std::vector<double> wide_values(n * width);
    for (int at = 0; at < count; ++at) {
        int row = g.from[at], k = at - g.rows[row];
        wide[k * n + row] = g.columns[at];
        wide_values[k * n + row] = g.values[at];
    }
    Buffer<int> e(wide);
    Buffer<double> f(wide_values);
    launch("ell", blocks(n, 64), 64, e, f, in, d, n, width);
    close(d.read(), wanted, 1e-12, 1e-13);
}

TEST(breadth_first) {
    Graph g = graph(700, 3);
    int n = g.n;
    std::vector<int> wanted(n, -1), queue{0};
    wanted[0] = 0;
    for (size_t at = 0; at < queue.size(); ++at) {
        for (int k = g.rows[queue[at]]; k < g.rows[queue[at] + 1]; ++k) {
            if (wanted[g.columns[k]] < 0) {
                wanted[g.columns[k]] = wanted[queue[at]] + 1;
                queue.push_back(g.columns[k]);
            }
        }
    }
    std::vector<int> start(n, -1);
    start[0] = 0;
    Buffer<int> rows(g.rows), columns(g.columns), distance(start), changed(1);
    int level = 0;
    do {
        changed.write({0});
        launch("bfs", blocks(n, 128), 128, rows, columns, distance, level++, changed, n);
    } while (changed.read()[0]);
    equal(distance.read(), wanted);
}

TEST(shortest_paths) {
    Graph g = graph(400, 4);
    int n = g.n;
    auto lengths = integers<unsigned>(g.columns.size(), 100, 3);
    std::vector<unsigned> wanted(n, 0xffffffff);
    wanted[0] = 0;
    Buffer<int> rows(g.rows), columns(g.columns), changed(1);
    Buffer<unsigned> l(lengths), distance(wanted);
    for (bool again = true; again;) {
        again = false;
        for (size_t at = 0; at < lengths.size(); ++at) {
            unsigned before = wanted[g.from[at]];
            if (before != 0xffffffff && before + lengths[at] < wanted[g.columns[at]]) {
                wanted[g.columns[at]] = before + lengths[at];
                again = true;
            }
        }
    }
    do {
        changed.write({0});
        launch("relax", blocks(n, 128), 128, rows, columns, l, distance, changed, n);
    } while (changed.read()[0]);
    equal(distance.read(), wanted);
}

TEST(union_find) {
    Graph g = graph(900, 1);
    int n = g.n, count = int(g.columns.size());
    std::vector<int> wanted(n);
    std::iota(wanted.begin(), wanted.end(), 0);
    Buffer<int> from(g.from), to(g.columns), parents(wanted);
    for (bool again = true; again;) {
        again = false;
        for (int at = 0; at < count; ++at) {
            int low = std::min(wanted[g.from[at]], wanted[g.columns[at]]);
            again |= wanted[g.from[at]] != low || wanted[g.columns[at]] != low;
            wanted[g.from[at]] = wanted[g.columns[at]] = low;
        }
    }
    launch("unite", blocks(count, 128), 128, from, to, parents, count);
    launch("flatten", blocks(n, 128), 128, parents, n);
    equal(parents.read(), wanted);
}

TEST(pagerank) {
    Graph g = graph(200, 6);
    int n = g.n;
    std::vector<int> degree(n);
    for (int column : g.columns) {
        ++degree[column];
    }
    std::vector<double> wanted(n, 1.0 / n);
    Buffer<int> rows(g.rows), columns(g.columns), d(degree);
    Buffer<float> x(n, 1.0f / n), y(n);
    for (int turn = 0; turn < 20; ++turn) {
        launch("pagerank", blocks(n, 64), 64, rows, columns, d, turn % 2 ? y : x, turn % 2 ? x : y, n);
        std::vector<double> next(n, 0.15 / n);
        for (size_t at = 0; at < g.columns.size(); ++at) {
            next[g.from[at]] += 0.85 * wanted[g.columns[at]] / degree[g.columns[at]];
        }
        wanted = next;
    }
    close(x.read(), wanted, 1e-4);
}

TEST(floyd_warshall) {
    int n = 40;
    auto d = integers<int>(n * n, 1000);
    Buffer<int> x(d);
    launch("floyd_warshall", 1, 256, x, n);
    for (int k = 0; k < n; ++k) {
        for (int i = 0; i < n * n; ++i) {
            d[i] = std::min(d[i], d[i / n * n + k] + d[k * n + i % n]);
        }
    }
    equal(x.read(), d);
}

TEST(triangles) {
    int n = 32;
    std::vector<unsigned long long> adjacent(n);
    Random random(3);
    for (int a = 0; a < n; ++a) {
        for (int b = a + 1; b < n; ++b) {
            if (random.below(3) == 0) {
                adjacent[a] |= 1ull << b;
                adjacent[b] |= 1ull << a;
            }
        }
    }
    unsigned wanted = 0;
    for (int a = 0; a < n; ++a) {
        for (int b = a + 1; b < n; ++b) {
            for (int c = b + 1; c < n; ++c) {
                wanted += adjacent[a] >> b & adjacent[b] >> c & adjacent[a] >> c & 1;
            }
        }
    }
    Buffer<unsigned long long> x(adjacent);
    Buffer<unsigned> count(1);
    launch("triangles", 1, Size(32, 32), x, count, n);
    equal(count.read()[0], wanted);
}

#endif
