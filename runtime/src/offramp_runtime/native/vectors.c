/* Vectors of 32-bit words, as GCC and Clang have them for every CPU. A word is a float, or with PACKED 2 two channels in
   bfloat16, the first in the lower half; with BYTES most maps hold four channels of 8 bits in a word, the first in the lowest
   byte. Sums are floats, of bytes integers. */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* where threads run */
#endif

#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if PACKED == 2 || BYTES
#include <immintrin.h>
#endif

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef float anywhere __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t bits __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef int32_t bits_anywhere __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int16_t halves __attribute__((vector_size(4 * LANES)));

/* A step of the network; threads compute a part each. */
typedef void step(float *memory, float *scratch, float *logits, const float *weights, long part, long parts);

static inline vector load(const float *from) { return *(const anywhere *)from; }

static inline void store(float *to, vector values) { *(anywhere *)to = values; }

static inline vector all(const float *word) {
    int32_t same;
    memcpy(&same, word, 4);
    return (vector)(same - (bits){});
}

/* What is no number stays none. */
static inline vector relu(vector x) { return (vector)((bits)x & ~(x < (vector){})); }

/* Zero where there is no pixel. */
static inline vector only(vector x, const int32_t *pixels) {
    return (vector)((bits)x & *(const bits_anywhere *)pixels);
}

/* The channels of a vector of sums to planes of so many words. */
static inline void scatter1(float *out, vector sums, long pitch, long channels) {
    float found[LANES];
    store(found, sums);
    for (long c = 0; c < LANES && c < channels; c++) out[c * pitch] = found[c];
}

#if PACKED == 1

static inline vector plus(vector sum, vector x, vector y) { return sum + x * y; }

static inline float word(const float *channels) { return *channels; }

#if !BYTES
static inline vector larger(vector x, vector y) {
    bits first = (x > y) | (x != x);
    return (vector)(((bits)x & first) | ((bits)y & ~first));
}

static inline void add_channels(vector *sums, vector x) { sums[0] += x; }
#endif

#else

static inline vector plus(vector sum, vector x, vector y) {
    return (vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)y);
}

/* The upper half is the nearest bfloat16, of two as near the even one. What is no number loses its sign, so that it counts
   as larger than all numbers. */
static inline words rounded(vector x) {
    words none = (words)(x != x);
    return (((words)x + 0x7fff + (((words)x >> 16) & 1)) & ~none) | (none & 0x7fc00000);
}

static inline vector join2(vector low, vector high) {
    return (vector)((rounded(low) >> 16) | (rounded(high) & 0xffff0000));
}

static inline float word(const float *channels) {
    uint32_t both[2], whole;
    memcpy(both, channels, 8);
    for (int i = 0; i < 2; i++)
        both[i] = channels[i] == channels[i] ? both[i] + 0x7fff + ((both[i] >> 16) & 1) : 0x7fc00000;
    whole = both[0] >> 16 | (both[1] & 0xffff0000);
    float found;
    memcpy(&found, &whole, 4);
    return found;
}

/* Of values that are not negative, or no numbers: their bits are in the same order. */
static inline vector larger(vector x, vector y) {
    halves first = (halves)x > (halves)y;
    return (vector)(((halves)x & first) | ((halves)y & ~first));
}

static inline void add_channels(vector *sums, vector x) {
    sums[0] += (vector)((words)x << 16);
    sums[1] += (vector)((words)x & 0xffff0000);
}

static inline void scatter2(float *out, vector sums, long pitch, long channels) {
    float found[LANES];
    store(found, sums);
    for (long c = 0; c < LANES && c < channels; c += 2) out[c / 2 * pitch] = word(found + c);
}

#endif


#if BYTES

typedef uint8_t bytes __attribute__((vector_size(4 * LANES)));

/* Products of four bytes from 0 to 255, and four from -128 to 127. */
static inline vector plus_bytes(vector sum, vector x, vector y) {
    /* Not the intrinsic: with it GCC 12 reorders the sums, and moves them through memory. */
    __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y));
    return sum;
}

static inline vector numbers(vector sums) { return __builtin_convertvector((bits)sums, vector); }

/* From 0 to 255, the nearest, of two as near the even one; 255 also for what is no number. */
static inline words to_byte(vector x) {
    __m512i nearest = _mm512_cvtps_epi32(_mm512_min_ps((__m512)x, _mm512_set1_ps(255)));
    return (words)_mm512_max_epi32(nearest, _mm512_setzero_si512());
}

static inline vector join4(vector a, vector b, vector c, vector d) {
    return (vector)(to_byte(a) | to_byte(b) << 8 | to_byte(c) << 16 | to_byte(d) << 24);
}

static inline void scatter4(float *out, vector sums, long pitch, long channels) {
    float found[LANES / 4];
    _mm_storeu_si128((__m128i *)found, _mm512_cvtepi32_epi8((__m512i)to_byte(sums)));
    for (long c = 0; c < LANES / 4 && 4 * c < channels; c++) out[c * pitch] = found[c];
}

static inline vector larger(vector x, vector y) {
    bytes first = (bytes)x > (bytes)y;
    return (vector)(((bytes)x & first) | ((bytes)y & ~first));
}

/* Of the pixels of four channels, as floats in planes of their own. */
static inline void mean_of_bytes(const float *in, float *out, long vectors, float scale, long pitch, long channels) {
    words sums[4] = {};
    for (long p = 0; p < vectors * LANES; p += LANES)
        for (int c = 0; c < 4; c++) sums[c] += (words)load(in + p) >> 8 * c & 0xff;
    for (long c = 0; c < 4 && c < channels; c++) {
        uint32_t sum = 0;
        for (int l = 0; l < LANES; l++) sum += sums[c][l];
        out[c * pitch] = sum * scale;
    }
}

#else

/* Of the pixels of a plane; zeros between rows add nothing. */
static inline void mean_of_plane(const float *in, float *out, long vectors, long pixels) {
    vector sums[PACKED] = {};
    for (long p = 0; p < vectors * LANES; p += LANES) add_channels(sums, load(in + p));
    float means[PACKED];
    for (int c = 0; c < PACKED; c++) {
        float found[LANES], sum = 0;
        store(found, sums[c]);
        for (int l = 0; l < LANES; l++) sum += found[l];
        means[c] = sum / pixels;
    }
    *out = word(means);
}

#endif

/* Rows and columns of a plane by parity, as four planes; what is missing of the odd ones is zero. */
static inline void split_plane(const float *in, float *out, long height, long width, long row, long half_row, long pitch) {
    for (long y = 0; y < height; y++) {
        const float *from = in + y * row;
        float *even = out + y % 2 * 2 * pitch + y / 2 * half_row, *odd = even + pitch;
        for (long x = 0; x < width / 2; x++) {
            even[x] = from[2 * x];
            odd[x] = from[2 * x + 1];
        }
        if (width % 2) {
            even[width / 2] = from[width - 1];
            odd[width / 2] = 0;
        }
    }
    if (height % 2)
        for (long phase = 2; phase < 4; phase++)
            memset(out + phase * pitch + height / 2 * half_row, 0, 4 * ((width + 1) / 2));
}

/* The largest of every window of a split plane. */
static inline void max_of_plane(const float *in, float *out, const int32_t *pixels, long vectors, const long *taps, long count) {
    for (long p = 0; p < vectors * LANES; p += LANES) {
        vector most = load(in + p + taps[0]);
        for (long t = 1; t < count; t++) most = larger(most, load(in + p + taps[t]));
        store(out + p, only(most, pixels + p));
    }
}

#if PACKED == 1 && !BYTES

/* Convolutions by way of points; what the numbers are of is in Lavin and Gray, arXiv:1509.09308, for four outputs of three. */

static inline __attribute__((always_inline)) void put(float *to, vector values, long count) {
    if (count == LANES)
        store(to, values);
    else
        memcpy(to, &values, 4 * count);
}

/* What is beyond a row's end becomes zero, as whatever lies behind it is: zeros, then the begin of the next row. */
static inline vector until(vector values, long count) {
    static const int32_t there[2 * LANES] = {[0 ... LANES - 1] = -1};
    return only(values, there + LANES - count);
}

/* Rows may be written beyond their ends, since the next is written later, and behind the last one are zeros enough. */
static inline __attribute__((always_inline)) void points_of_rows(const float *const *rows, long x, float *to, long apart, long count) {
    vector a = load(rows[0] + x), b = load(rows[1] + x), c = load(rows[2] + x);
    vector d = load(rows[3] + x), e = load(rows[4] + x), f = load(rows[5] + x);
    vector far = e - 4 * c, near = d - 4 * b, wide = e - c, narrow = 2 * (d - b);
    vector found[6] = {4 * a - 5 * c + e, far + near, far - near, wide + narrow, wide - narrow, 4 * b - 5 * d + f};
    for (int i = 0; i < 6; i++) store(to + i * apart + x, count < LANES ? until(found[i], count) : found[i]);
}

/* A plane at points, the first in a plane of a quarter of its rows, the others so many words apart. */
static inline __attribute__((always_inline)) void points_of_plane(
    const float *in, float *out, long height, long width, long row, long out_row, long apart) {
    static const float nothing[IMAGE_WIDTH + LANES];
    const long whole = width / LANES * LANES;
    for (long y = 0; y < height; y += 4, out += out_row) {
        const float *rows[6];
        for (long i = 0; i < 6; i++) rows[i] = y + i < 1 || y + i > height ? nothing : in + (y + i - 1) * row;
        for (long x = 0; x < whole; x += LANES) points_of_rows(rows, x, out, apart, LANES);
        if (width > whole) points_of_rows(rows, whole, out, apart, width - whole);
    }
}

static inline __attribute__((always_inline)) void rows_of_points(
    const float *in, float *to, vector bias, long row, long rows, long apart, int positive, long count) {
    vector a = load(in), b = load(in + apart), c = load(in + 2 * apart);
    vector d = load(in + 3 * apart), e = load(in + 4 * apart), f = load(in + 5 * apart);
    vector near = b + c, far = d + e, less = b - c, least = d - e;
    vector found[4] = {a + near + far + bias, less + 2 * least + bias, near + 4 * far + bias, less + 8 * least + f + bias};
    for (long i = 0; i < rows; i++) put(to + i * row, positive ? relu(found[i]) : found[i], count);
}

/* The other way: what comes of products at points. */
static inline __attribute__((always_inline)) void plane_of_points(
    const float *in, float *out, const float *bias, long height, long width, long in_row, long row, long apart, int positive) {
    const long whole = width / LANES * LANES, rest = width - whole;
    const vector more = all(bias);
    for (long y = 0; y < height; y += 4, in += in_row, out += 4 * row) {
        long rows = height - y < 4 ? height - y : 4;
        for (long x = 0; x < whole; x += LANES) rows_of_points(in + x, out + x, more, row, rows, apart, positive, LANES);
        if (rest) rows_of_points(in + whole, out + whole, more, row, rows, apart, positive, rest);
    }
}

#endif
