// Tells which points lie inside a polygon: a ray from the point crosses the border an odd number of times. The polygon
// is the same for all threads and never changes, so it lies in constant memory.
//
// Build: nvcc pointInPolygon.cu -o pointInPolygon

#include <cmath>

#include "example.h"

struct Point {
    float x, y;
};

constexpr int corners = 64;
__constant__ Point polygon[corners];

__host__ __device__ bool crosses(Point point, Point a, Point b) {
    if ((a.y > point.y) == (b.y > point.y)) return false;
    // Where the edge is at the point's height lies right of the point. Rounded the same way on both sides: no
    // multiplication is fused with the addition that follows it.
#ifdef __CUDA_ARCH__
    const float x = __fadd_rn(a.x, __fdiv_rn(__fmul_rn(b.x - a.x, point.y - a.y), b.y - a.y));
#else
    volatile float product = (b.x - a.x) * (point.y - a.y);
    const float x = a.x + product / (b.y - a.y);
#endif
    return point.x < x;
}

__global__ void classify(const Point *points, unsigned char *inside, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    bool odd = false;
    for (int corner = 0; corner < corners; ++corner)
        odd ^= crosses(points[i], polygon[corner], polygon[(corner + 1) % corners]);
    inside[i] = odd;
}

int main() {
    say_device();
    // A star around the origin.
    std::vector<Point> star(corners);
    for (int corner = 0; corner < corners; ++corner) {
        const double angle = 2 * M_PI * corner / corners, radius = corner % 2 ? 0.4 : 1.0;
        star[corner] = {static_cast<float>(radius * std::cos(angle)), static_cast<float>(radius * std::sin(angle))};
    }
    const int n = 100000;
    std::mt19937 random(5);
    std::vector<Point> points(n);
    for (Point &point : points)
        point = {random() / 2147483648.0f - 1.0f, random() / 2147483648.0f - 1.0f};

    check(cudaMemcpyToSymbol(polygon, star.data(), sizeof(Point) * corners), "copying the polygon");
    DeviceArray<Point> device_points(points);
    DeviceArray<unsigned char> device_inside(n);
    classify<<<(n + 255) / 256, 256>>>(device_points.pointer(), device_inside.pointer(), n);
    check_launch();
    const std::vector<unsigned char> inside = device_inside.copy_out();

    size_t wrong = 0;
    int found = 0;
    for (int i = 0; i < n; ++i) {
        bool odd = false;
        for (int corner = 0; corner < corners; ++corner)
            odd ^= crosses(points[i], star[corner], star[(corner + 1) % corners]);
        wrong += inside[i] != odd;
        found += inside[i];
    }
    std::printf("%d of %d points lie inside\n", found, n);
    // A mistake that both sides share shows in the area: half of the outer radius times the inner one, times the
    // sine of the angle between them, for each of the star's triangles.
    const double area = corners * 0.5 * 0.4 * std::sin(2 * M_PI / corners), seen = 4.0 * found / n;
    if (std::fabs(seen - area) > 0.02) {
        std::printf("area %.3f, should be %.3f\n", seen, area);
        ++wrong;
    }
    return verdict("points", n, wrong);
}
