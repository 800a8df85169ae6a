// Finds all pairs of line segments that cross. Every pair has a thread; which pairs cross comes back as a list, whose
// end the threads move with an atomic, in whatever order they get there.
//
// Build: nvcc segmentIntersection.cu -o segmentIntersection

#include <algorithm>
#include <iterator>

#include "example.h"

struct Segment {
    int ax, ay, bx, by;
};
struct Pair {
    int first, second;
    bool operator<(const Pair &other) const {
        return first != other.first ? first < other.first : second < other.second;
    }
    bool operator==(const Pair &other) const { return first == other.first && second == other.second; }
};

// On which side of a line through a and b a point is: the sign of twice the triangle's area. Whole numbers, so
// that there is no doubt about points on the line.
__host__ __device__ int side(int ax, int ay, int bx, int by, int x, int y) {
    const long long area = static_cast<long long>(bx - ax) * (y - ay) - static_cast<long long>(by - ay) * (x - ax);
    return (area > 0) - (area < 0);
}

// Whether they cross in one inner point of both.
__host__ __device__ bool cross(const Segment &s, const Segment &t) {
    return side(s.ax, s.ay, s.bx, s.by, t.ax, t.ay) * side(s.ax, s.ay, s.bx, s.by, t.bx, t.by) < 0 &&
           side(t.ax, t.ay, t.bx, t.by, s.ax, s.ay) * side(t.ax, t.ay, t.bx, t.by, s.bx, s.by) < 0;
}

__global__ void intersect(const Segment *segments, int n, Pair *pairs, unsigned most, unsigned *count) {
    const int first = blockIdx.y * blockDim.y + threadIdx.y, second = blockIdx.x * blockDim.x + threadIdx.x;
    if (first >= second || second >= n || !cross(segments[first], segments[second])) return;
    const unsigned at = atomicAdd(count, 1);
    if (at < most) pairs[at] = {first, second};
}

int main() {
    say_device();
    const int n = 600;
    std::mt19937 random(6);
    std::vector<Segment> segments(n);
    for (Segment &segment : segments) {
        const int x = random() % 10000, y = random() % 10000;
        segment = {x, y, x + static_cast<int>(random() % 1001) - 500, y + static_cast<int>(random() % 1001) - 500};
    }

    const unsigned most = n * (n - 1) / 2;
    DeviceArray<Segment> device_segments(segments);
    DeviceArray<Pair> device_pairs(most);
    DeviceArray<unsigned> device_count(1);
    device_count.clear();
    const dim3 threads(16, 16), blocks((n + 15) / 16, (n + 15) / 16);
    intersect<<<blocks, threads>>>(device_segments.pointer(), n, device_pairs.pointer(), most, device_count.pointer());
    check_launch();
    std::vector<Pair> pairs = device_pairs.copy_out();
    pairs.resize(std::min(device_count.copy_out()[0], most));
    std::sort(pairs.begin(), pairs.end());

    std::vector<Pair> expected;
    for (int first = 0; first < n; ++first)
        for (int second = first + 1; second < n; ++second)
            if (cross(segments[first], segments[second])) expected.push_back({first, second});
    std::printf("%zu crossings among %d segments\n", pairs.size(), n);
    std::vector<Pair> different;
    std::set_symmetric_difference(pairs.begin(), pairs.end(), expected.begin(), expected.end(),
                                  std::back_inserter(different));
    return verdict("crossings", expected.size(), different.size());
}
