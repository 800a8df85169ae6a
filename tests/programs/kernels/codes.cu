// Text and codes: search, alignment, checksums, hashes, ciphers, bit tricks.
#include "corpus.h"

#ifndef HOST

__constant__ unsigned sha_round[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01,
    0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
    0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
    0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
    0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
    0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static __device__ unsigned rotate(unsigned x, int by) { return x >> by | x << (32 - by); }

// One message of at most 55 bytes a thread.
KERNEL sha256(const unsigned char *messages, const int *lengths, int stride, unsigned *digests, int n) {
    int i = place();
    if (i >= n) {
        return;
    }
    unsigned w[64];
    const unsigned char *text = messages + i * stride;
    for (int k = 0; k < 16; ++k) {
        w[k] = 0;
        for (int b = 0; b < 4; ++b) {
            int at = 4 * k + b;
            w[k] = w[k] << 8 | (at < lengths[i] ? text[at] : at == lengths[i] ? 0x80 : 0);
        }
    }
    w[15] = lengths[i] * 8;
    for (int k = 16; k < 64; ++k) {
        unsigned p = w[k - 15], q = w[k - 2];
        w[k] = w[k - 16] + (rotate(p, 7) ^ rotate(p, 18) ^ p >> 3) + w[k - 7] + (rotate(q, 17) ^ rotate(q, 19) ^ q >> 10);
    }
    unsigned h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}, s[8];
    for (int k = 0; k < 8; ++k) {
        s[k] = h[k];
    }
    for (int k = 0; k < 64; ++k) {
        unsigned a = s[0], e = s[4];
        unsigned t = s[7] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + (e & s[5] ^ ~e & s[6]) + sha_round[k] + w[k];
        unsigned u = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + (a & s[1] ^ a & s[2] ^ s[1] & s[2]);
        for (int m = 7; m > 0; --m) {
            s[m] = s[m - 1];
        }
        s[4] += t;
        s[0] = t + u;
    }
    for (int k = 0; k < 8; ++k) {
        digests[8 * i + k] = h[k] + s[k];
    }
}

__device__ unsigned crc_table[256];

KERNEL make_crc_table() {
    unsigned value = threadIdx.x;
    for (int bit = 0; bit < 8; ++bit) {
        value = value & 1 ? value >> 1 ^ 0xedb88320 : value >> 1;
    }
    crc_table[threadIdx.x] = value;
}

KERNEL crc32(const unsigned char *data, int piece, unsigned *out, int n) {
    int i = place();
    if (i < n) {
        unsigned crc = ~0u;
        for (int k = 0; k < piece; ++k) {
            crc = crc >> 8 ^ crc_table[(crc ^ data[i * piece + k]) & 255];
        }
        out[i] = ~crc;
    }
}

KERNEL adler(const unsigned char *data, int n, unsigned *out) {
    unsigned long long a = 0, b = 0;
    for (int i = threadIdx.x; i < n; i += 32) {
        a += data[i];
        b += static_cast<unsigned long long>(n - i) * data[i];
    }
    for (int delta = 16; delta; delta /= 2) {
        a += __shfl_xor_sync(0xffffffff, a, delta);
        b += __shfl_xor_sync(0xffffffff, b, delta);
    }
    if (threadIdx.x == 0) {
        *out = static_cast<unsigned>((b + n) % 65521 << 16 | (a + 1) % 65521);
    }
}

__constant__ unsigned char box[256];
__constant__ unsigned keys[11][4];

static __device__ unsigned twice(unsigned x) { return (x << 1 ^ (x >> 7) * 0x11b) & 255; }

// The rounds of AES-128 on one block a thread, with a box and keys in constant memory.
KERNEL encrypt(uchar4 *blocks, int n) {
    int i = place();
    if (i >= n) {
        return;
    }
    unsigned char s[16];
    for (int k = 0; k < 4; ++k) {
        uchar4 v = blocks[4 * i + k];
        s[4 * k] = v.x, s[4 * k + 1] = v.y, s[4 * k + 2] = v.z, s[4 * k + 3] = v.w;
    }
    for (int round = 0; round <= 10; ++round) {
        if (round > 0) {
            unsigned char t[16];
            for (int k = 0; k < 16; ++k) {
                t[k] = box[s[(k + 4 * (k % 4)) % 16]];
            }
            for (int k = 0; k < 16; ++k) {
                int c = k & ~3;
                unsigned a = t[k], b = t[c + (k + 1) % 4], p = t[c + (k + 2) % 4], q = t[c + (k + 3) % 4];
                s[k] = static_cast<unsigned char>(round == 10 ? a : twice(a) ^ twice(b) ^ b ^ p ^ q);
            }
        }
        for (int k = 0; k < 16; ++k) {
            s[k] ^= static_cast<unsigned char>(keys[round][k / 4] >> 8 * (k % 4));
        }
    }
    for (int k = 0; k < 4; ++k) {
        blocks[4 * i + k] = make_uchar4(s[4 * k], s[4 * k + 1], s[4 * k + 2], s[4 * k + 3]);
    }
}

KERNEL find(const char *text, int n, const char *pattern, int length, int *found, int *count) {
    int i = place();
    if (i + length > n) {
        return;
    }
    for (int k = 0; k < length; ++k) {
        if (pattern[k] != '?' && text[i + k] != pattern[k]) {
            return;
        }
    }
    found[atomicAdd(count, 1)] = i;
}

// One warp: diagonal by diagonal, a column of the table each lane, n <= 32.
KERNEL smith_waterman(const char *a, int m, const char *b, int n, int *best) {
    int lane = threadIdx.x, own = 0, before = 0, top = 0;
    for (int step = 0; step < m + n - 1; ++step) {
        int up = own, diagonal = before, left = __shfl_up_sync(0xffffffff, own, 1);
        before = left;
        int row = step - lane;
        if (lane == 0) {
            left = before = diagonal = 0;
        }
        if (row >= 0 && row < m && lane < n) {
            int score = diagonal + (a[row] == b[lane] ? 3 : -3);
            score = max(max(score, 0), max(up, left) - 2);
            own = score;
            top = max(top, score);
        }
    }
    for (int delta = 16; delta; delta /= 2) {
        top = max(top, __shfl_xor_sync(0xffffffff, top, delta));
    }
    if (lane == 0) {
        *best = top;
    }
}

KERNEL levenshtein(const char *words, int stride, const int *lengths, unsigned char *distances, int n) {
    int i = threadIdx.y, j = threadIdx.x;
    if (i >= n || j >= n) {
        return;
    }
    const char *a = words + i * stride, *b = words + j * stride;
    unsigned char row[17];
    for (int k = 0; k <= lengths[j]; ++k) {
        row[k] = static_cast<unsigned char>(k);
    }
    for (int p = 0; p < lengths[i]; ++p) {
        int corner = row[0];
        row[0] = static_cast<unsigned char>(p + 1);
        for (int q = 0; q < lengths[j]; ++q) {
            int above = row[q + 1];
            row[q + 1] = static_cast<unsigned char>(min(min(above, row[q]) + 1, corner + (a[p] != b[q])));
            corner = above;
        }
    }
    distances[i * n + j] = row[lengths[j]];
}

KERNEL bits(const unsigned *in, unsigned *out, int n) {
    int i = place();
    if (i >= n) {
        return;
    }
    unsigned x = in[i], y = in[(i + 1) % n];
    unsigned long long wide = static_cast<unsigned long long>(x) << 32 | y;
    unsigned *o = out + 16 * i;
    o[0] = __popc(x);
    o[1] = __clz(x);
    o[2] = __brev(x);
    o[3] = __ffs(x);
    o[4] = __byte_perm(x, y, 0x5140);
    o[5] = __funnelshift_l(x, y, 11);
    o[6] = __funnelshift_rc(x, y, 40);
    o[7] = __popcll(wide) << 16 | __clzll(wide) << 8 | __ffsll(wide);
    o[8] = static_cast<unsigned>(__brevll(wide));
    o[9] = __umulhi(x, y);
    o[10] = __mulhi(static_cast<int>(x), static_cast<int>(y));
    o[11] = __sad(static_cast<int>(x), static_cast<int>(y), 5);
    o[12] = __uhadd(x, y) ^ __hadd(static_cast<int>(x), static_cast<int>(y));
    o[13] = static_cast<unsigned>(__umul64hi(wide, wide ^ 0x123456789abcdefull));
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(o[14]) : "r"(x), "r"(y), "r"(100));
    o[15] = (x >> 7 & 0x1ff) | (y & 31) << 20 | (x % 1000003) << 3;
}

#else

// The published digests of nothing and of "abc".
TEST(sha256) {
    int n = 64, stride = 56;
    std::vector<unsigned char> text(n * stride);
    std::vector<int> lengths(n);
    lengths[1] = 3;
    std::memcpy(&text[stride], "abc", 3);
    for (int i = 2; i < n; ++i) {
        lengths[i] = i % 56;
        for (int k = 0; k < lengths[i]; ++k) {
            text[i * stride + k] = static_cast<unsigned char>('a' + (k + i) % 26);
        }
    }
    Buffer<unsigned char> x(text);
    Buffer<int> l(lengths);
    Buffer<unsigned> digests(8 * n);
    launch("sha256", 1, 64, x, l, stride, digests, n);
    auto seen = digests.read();
    equal(std::vector<unsigned>(seen.begin(), seen.begin() + 16),
          {0xe3b0c442, 0x98fc1c14, 0x9afbf4c8, 0x996fb924, 0x27ae41e4, 0x649b934c, 0xa495991b, 0x7852b855,
           0xba7816bf, 0x8f01cfea, 0x414140de, 0x5dae2223, 0xb00361a3, 0x96177a9c, 0xb410ff61, 0xf20015ad});
    // Digests of different messages differ in about half of their bits.
    for (int i = 3; i < n; ++i) {
        int bits = 0;
        for (int k = 0; k < 8; ++k) {
            bits += __builtin_popcount(seen[8 * i + k] ^ seen[8 * i + k - 8]);
        }
        EXPECT(bits > 80 && bits < 176);
    }
}

TEST(checksums) {
    int n = 100, piece = 37;
    auto data = integers<unsigned char>(n * piece, 256);
    std::memcpy(data.data() + 3 * piece, "123456789", 9);
    Buffer<unsigned char> x(data);
    Buffer<unsigned> out(n), one(1);
    launch("make_crc_table", 1, 256);
    launch("crc32", 2, 64, x, piece, out, n);
    std::vector<unsigned> wanted(n);
    for (int i = 0; i < n; ++i) {
        unsigned crc = ~0u;
        for (int k = 0; k < 8 * piece; ++k) {
            unsigned bit = data[i * piece + k / 8] >> k % 8 & 1;
            crc = crc >> 1 ^ ((crc ^ bit) & 1) * 0xedb88320;
        }
        wanted[i] = ~crc;
    }
    equal(out.read(), wanted);
    unsigned a = 1, b = 0;
    for (unsigned char byte : data) {
        a = (a + byte) % 65521;
        b = (b + a) % 65521;
    }
    launch("adler", 1, 32, x, n * piece, one);
    equal(one.read()[0], b << 16 | a);
}

static unsigned char times(unsigned a, unsigned b) {
    unsigned product = 0;
    for (; b; b >>= 1, a = a << 1 ^ (a >> 7) * 0x11b) {
        product ^= b & 1 ? a : 0;
    }
    return static_cast<unsigned char>(product);
}

// The example of the standard's appendix: key, text and result are known.
TEST(aes) {
    std::vector<unsigned char> box(256);
    for (int i = 0; i < 256; ++i) {
        int inverse = 0;
        while (i && times(i, inverse) != 1) {
            ++inverse;
        }
        int x = inverse * 0x101;
        box[i] = static_cast<unsigned char>(x ^ x >> 4 ^ x >> 5 ^ x >> 6 ^ x >> 7 ^ 0x63);
    }
    unsigned char key[176] = {0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6, 0xab, 0xf7, 0x15, 0x88, 0x09, 0xcf, 0x4f, 0x3c};
    unsigned char text[16] = {0x32, 0x43, 0xf6, 0xa8, 0x88, 0x5a, 0x30, 0x8d, 0x31, 0x31, 0x98, 0xa2, 0xe0, 0x37, 0x07, 0x34};
    unsigned char known[16] = {0x39, 0x25, 0x84, 0x1d, 0x02, 0xdc, 0x09, 0xfb, 0xdc, 0x11, 0x85, 0x97, 0x19, 0x6a, 0x0b, 0x32};
    unsigned turn = 1;
    for (int i = 16; i < 176; ++i) {
        unsigned char before = key[i - 4];
        if (i % 16 < 4) {
            before = box[key[i / 16 * 16 - 4 + (i + 1) % 4]];
            before = static_cast<unsigned char>(before ^ (i % 16 == 0 ? turn : 0));
            turn = i % 16 == 3 ? times(turn, 2) : turn;
        }
        key[i] = key[i - 16] ^ before;
    }
    std::vector<unsigned> words(44);
    std::memcpy(words.data(), key, 176);
    set_symbol("box", box);
    set_symbol("keys", words);
    std::vector<unsigned char> blocks_, wanted;
    for (int i = 0; i < 40; ++i) {
        blocks_.insert(blocks_.end(), text, text + 16);
        wanted.insert(wanted.end(), known, known + 16);
    }
    Buffer<unsigned char> x(blocks_);
    launch("encrypt", 2, 32, x, 40);
    equal(x.read(), wanted);
}

TEST(search) {
    int n = 4000;
    std::string text;
    Random random(5);
    while (int(text.size()) < n) {
        text += random.below(9) == 0 ? "needle" : random.below(2) ? "nee" : "dle";
    }
    n = int(text.size());
    std::string pattern = "n?ed";
    Buffer<char> x(std::vector<char>(text.begin(), text.end())), y(std::vector<char>(pattern.begin(), pattern.end()));
    Buffer<int> found(n), count(1);
    launch("find", blocks(n, 256), 256, x, n, y, 4, found, count);
    std::vector<int> wanted;
    for (int i = 0; i + 4 <= n; ++i) {
        if (text[i] == 'n' && text[i + 2] == 'e' && text[i + 3] == 'd') {
            wanted.push_back(i);
        }
    }
    auto seen = found.read();
    seen.resize(count.read()[0]);
    std::sort(seen.begin(), seen.end());
    equal(seen, wanted);
}

TEST(smith_waterman) {
    int m = 50, n = 30;
    auto a = integers<char>(m, 4), b = integers<char>(n, 4, 2);
    std::copy(a.begin() + 20, a.begin() + 32, b.begin() + 7);
    Buffer<char> x(a), y(b);
    Buffer<int> best(1);
    launch("smith_waterman", 1, 32, x, m, y, n, best);
    std::vector<int> h((m + 1) * (n + 1));
    int wanted = 0;
    for (int i = 1; i <= m; ++i) {
        for (int j = 1; j <= n; ++j) {
            int *at = &h[i * (n + 1) + j];
            *at = std::max({0, at[-n - 2] + (a[i - 1] == b[j - 1] ? 3 : -3), at[-1] - 2, at[-n - 1] - 2});
            wanted = std::max(wanted, *at);
        }
    }
    equal(best.read()[0], wanted);
}

TEST(levenshtein) {
    int n = 24, stride = 16;
    auto text = integers<char>(n * stride, 3);
    auto lengths = integers<int>(n, 17, 2);
    Buffer<char> x(text);
    Buffer<int> l(lengths);
    Buffer<unsigned char> distances(n * n);
    launch("levenshtein", 1, Size(n, n), x, stride, l, distances, n);
    std::vector<unsigned char> wanted(n * n);
    for (int i = 0; i < n * n; ++i) {
        const char *a = &text[i / n * stride], *b = &text[i % n * stride];
        std::vector<std::vector<int>> d(18, std::vector<int>(18));
        for (int p = 0; p <= lengths[i / n]; ++p) {
            for (int q = 0; q <= lengths[i % n]; ++q) {
                d[p][q] = !p   ? q
                          : !q ? p
                               : std::min({d[p - 1][q] + 1, d[p][q - 1] + 1, d[p - 1][q - 1] + (a[p - 1] != b[q - 1])});
            }
        }
        wanted[i] = static_cast<unsigned char>(d[lengths[i / n]][lengths[i % n]]);
    }
    equal(distances.read(), wanted);
}

static unsigned reversed(unsigned long long x, int bits) {
    unsigned long long y = 0;
    for (int i = 0; i < bits; ++i) {
        y |= (x >> i & 1) << (bits - 1 - i);
    }
    return unsigned(y);
}

TEST(bits) {
    int n = 200;
    auto in = integers<unsigned>(n, 0);
    in[0] = 0, in[1] = 1, in[2] = ~0u, in[3] = 0x80000000;
    Buffer<unsigned> x(in), y(16 * n);
    launch("bits", blocks(n, 64), 64, x, y, n);
    std::vector<unsigned> w;
    for (int i = 0; i < n; ++i) {
        unsigned x = in[i], y = in[(i + 1) % n];
        int p = int(x), q = int(y);
        unsigned long long wide = static_cast<unsigned long long>(x) << 32 | y, other = wide ^ 0x123456789abcdefull;
        w.push_back(__builtin_popcount(x));
        w.push_back(x ? __builtin_clz(x) : 32);
        w.push_back(reversed(x, 32));
        w.push_back(__builtin_ffs(p));
        w.push_back((x & 255) | (y & 255) << 8 | (x >> 8 & 255) << 16 | (y >> 8 & 255) << 24);
        w.push_back(y << 11 | x >> 21);
        w.push_back(y);
        w.push_back(__builtin_popcountll(wide) << 16 | (wide ? __builtin_clzll(wide) : 64) << 8 | __builtin_ffsll(wide));
        w.push_back(reversed(wide, 64));
        w.push_back(unsigned(static_cast<unsigned long long>(x) * y >> 32));
        w.push_back(unsigned(static_cast<long long>(p) * q >> 32));
        w.push_back(unsigned(std::llabs(static_cast<long long>(p) - q) + 5));
        w.push_back(unsigned((static_cast<unsigned long long>(x) + y) >> 1) ^
                    unsigned((static_cast<long long>(p) + q) >> 1));
        w.push_back(unsigned(static_cast<unsigned __int128>(wide) * other >> 64));
        int dot = 100;
        for (int b = 0; b < 32; b += 8) {
            dot += static_cast<signed char>(x >> b) * static_cast<signed char>(y >> b);
        }
        w.push_back(dot);
        w.push_back((x >> 7 & 0x1ff) | (y & 31) << 20 | (x % 1000003) << 3);
    }
    equal(y.read(), w);
}

#endif
