// What both kernels stand on: vectors, and one loop in which nearly all of their time goes.
//
// A tile is a few rows times a panel of PANEL columns. Its sums stay in registers while the panel, [in, PANEL] in memory,
// streams by once, in order. Every sum runs over its terms in order, however many rows there are: what is computed for a row
// does not depend on the others, not in a single bit. Float32; vectors are those of GCC and Clang.

#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

typedef int64_t Int;

#ifdef __AVX512F__
constexpr int WIDTH = 16, ROWS = 12;
#elif defined(__AVX__)
constexpr int WIDTH = 8, ROWS = 6;  // 12 sums, two vectors of the panel, one number of a row: 15 of 16 registers
#else
constexpr int WIDTH = 4, ROWS = 6;
#endif
constexpr Int PANEL = 2 * WIDTH;

typedef float Vector __attribute__((vector_size(4 * WIDTH)));
typedef int32_t Whole __attribute__((vector_size(4 * WIDTH)));
typedef float Anywhere __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));

inline Vector load(const float *p) { return *(const Anywhere *)p; }
inline Vector once(const float *p) { return *(const volatile Anywhere *)p; }  // else GCC loads it again for every row
inline void store(float *p, Vector v) { *(Anywhere *)p = v; }
inline Int up(Int n) { return (n + PANEL - 1) / PANEL * PANEL; }

inline float sum(Vector v) {
    float s = 0;
    for (int i = 0; i < WIDTH; i++) s += v[i];
    return s;
}

// x held between `low` and `high`; what is not a number stays so.
inline Vector held(Vector x, float low, float high) {
    const Vector least = Vector{} + low, most = Vector{} + high;
    x = x < least ? least : x;
    return x > most ? most : x;
}

// exp within 2 units in the last place from -87 to 88; what is below stays at about 1e-38, what is above at about 1e38, and NaN
// is NaN: beyond, the exponent would run into the sign. Cephes' polynomial.
inline Vector exponential(Vector x) {
    x = held(x, -87.0f, 88.0f);
    Vector n = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: what is added to it becomes whole
    n -= 12582912.0f;
    const Vector r = x - n * 0.693359375f + n * 2.12194440e-4f;
    const Vector p = ((((1.9875691500e-4f * r + 1.3981999507e-3f) * r + 8.3334519073e-3f) * r + 4.1665795894e-2f) * r
                      + 1.6666665459e-1f) * r + 5.0000001201e-1f;
    const Whole power = (__builtin_convertvector(n, Whole) + 127) << 23;
    Vector scale;
    memcpy(&scale, &power, sizeof scale);
    return (p * r * r + r + 1.0f) * scale;
}

enum Into { SET, ADD };  // what a product does to where it goes

// y[R, PANEL] (+)= x[R, inner] w[inner, PANEL]; the numbers of x are `down` apart from row to row, `along` within a row.
template <int R>
void tile(const float *__restrict x, Int down, Int along, const float *__restrict w, float *__restrict y, Int ldy, Int inner, Into into) {
    Vector left[R] = {}, right[R] = {};
    for (int r = 0; into == ADD && r < R; r++) left[r] = load(y + r * ldy), right[r] = load(y + r * ldy + WIDTH);
    for (Int k = 0; k < inner; k++, x += along, w += PANEL) {
        const Vector a = once(w), b = once(w + WIDTH);
        for (int r = 0; r < R; r++) left[r] += x[r * down] * a, right[r] += x[r * down] * b;
    }
    for (int r = 0; r < R; r++) store(y + r * ldy, left[r]), store(y + r * ldy + WIDTH, right[r]);
}

template <int R>
void tiles(Int rows, const float *x, Int down, Int along, const float *w, float *y, Int ldy, Int inner, Into into) {
    if (rows == R) return tile<R>(x, down, along, w, y, ldy, inner, into);
    if constexpr (R > 1) tiles<R - 1>(rows, x, down, along, w, y, ldy, inner, into);
}

// The same for any number of rows, in tiles of like height.
inline void column(Int rows, const float *x, Int down, Int along, const float *w, float *y, Int ldy, Int inner, Into into) {
    const Int count = (rows + ROWS - 1) / ROWS;
    for (Int t = 0; t < count; t++) {
        const Int from = rows * t / count, to = rows * (t + 1) / count;
        tiles<ROWS>(to - from, x + from * down, down, along, w, y + from * ldy, ldy, inner, into);
    }
}

// Of numbers. NaN may be passed over: it shows where they are summed.
inline float largest(const float *s, Int length) {
    float most = -INFINITY;
    Int t = 0;
    if (length >= WIDTH) {
        Vector top = load(s);
        for (t = WIDTH; t + WIDTH <= length; t += WIDTH) top = top > load(s + t) ? top : load(s + t);
        for (int i = 0; i < WIDTH; i++) most = most > top[i] ? most : top[i];
    }
    for (; t < length; t++) most = most > s[t] ? most : s[t];
    return most;
}

// s[0..length) becomes its softmax; returns the logarithm of the sum of exponentials. s has room for whole vectors.
inline float softmax(float *s, Int length) {
    const Int whole = (length + WIDTH - 1) / WIDTH * WIDTH;
    for (Int t = length; t < whole; t++) s[t] = -INFINITY;
    const float highest = largest(s, length);
    Vector total = {};
    for (Int t = 0; t < whole; t += WIDTH) {
        const Vector e = exponential(load(s + t) - highest);
        total += e;
        store(s + t, e);
    }
    const float all = sum(total);
    for (Int t = 0; t < whole; t += WIDTH) store(s + t, load(s + t) * (1 / all));
    return highest + std::log(all);
}

// Rotate heads of D by a position's cosines [D/2] and sines [D/2]; back, if `way` is -1.
inline void turn(float *x, const float *by, Int heads, Int dim, float way) {
    const Int half = dim / 2;
    for (float *end = x + heads * dim; x < end; x += dim)
        for (Int i = 0; i < half; i += WIDTH) {
            const Vector a = load(x + i), b = load(x + half + i), cosine = load(by + i), sine = load(by + half + i) * way;
            store(x + i, a * cosine - b * sine);
            store(x + half + i, b * cosine + a * sine);
        }
}

}  // namespace
