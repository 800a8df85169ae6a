// Several narrow integers in a word.
#include "corpus.h"

#ifndef HOST

KERNEL simd(const unsigned *in, unsigned *out, int n) {
    int i = place();
    if (i >= n) {
        return;
    }
    unsigned x = in[i], y = in[(i + 1) % n], *o = out + 8 * i;
    o[0] = __vadd4(x, y);
    o[1] = __vsub4(x, y);
    o[2] = __vmaxu4(x, y);
    o[3] = __vmins2(x, y);
    o[4] = __vabsdiffu4(x, y);
    o[5] = __vaddus4(x, y);
    o[6] = __vcmpgtu4(x, y);
    o[7] = __vsadu4(x, y);
}

#else

TEST(bytes_in_words) {
    int n = 200;
    auto in = integers<unsigned>(n, 0);
    Buffer<unsigned> x(in), y(8 * n);
    launch("simd", blocks(n, 64), 64, x, y, n);
    std::vector<unsigned> wanted(8 * n);
    for (int i = 0; i < n; ++i) {
        unsigned x = in[i], y = in[(i + 1) % n], *o = &wanted[8 * i];
        for (int b = 0; b < 32; b += 8) {
            unsigned p = x >> b & 255, q = y >> b & 255, far = p > q ? p - q : q - p;
            o[0] |= ((p + q) & 255) << b;
            o[1] |= ((p - q) & 255) << b;
            o[2] |= std::max(p, q) << b;
            o[4] |= far << b;
            o[5] |= std::min(p + q, 255u) << b;
            o[6] |= (p > q ? 255u : 0) << b;
            o[7] += far;
        }
        for (int b = 0; b < 32; b += 16) {
            short low = std::min(static_cast<short>(x >> b), static_cast<short>(y >> b));
            o[3] |= unsigned(static_cast<unsigned short>(low)) << b;
        }
    }
    equal(y.read(), wanted);
}

#endif
