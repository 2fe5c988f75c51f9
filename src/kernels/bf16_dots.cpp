#include "kernels/bf16_dots.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mixwright::kernels {
namespace {

bool dots_allowed = true;

}  // namespace

void allow_bf16_dots(bool allowed) { dots_allowed = allowed; }

#if defined(__x86_64__)
namespace {

#define MIXWRIGHT_BF16_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))

// R rows by 32 tokens in 2 R registers.
template <int R, bool add>
MIXWRIGHT_BF16_TARGET inline void tile(const std::uint16_t* weights, std::int64_t stride, std::int64_t pairs, const std::uint16_t* panel, float* out) {
    __m512 low[R], high[R];
    for (int r = 0; r < R; ++r) {
        low[r] = add ? _mm512_loadu_ps(out + r * bf16_panel_width) : _mm512_setzero_ps();
        high[r] = add ? _mm512_loadu_ps(out + r * bf16_panel_width + 16) : _mm512_setzero_ps();
    }
    for (std::int64_t k = 0; k < pairs; ++k) {
        const auto first = (__m512bh)_mm512_load_si512(panel + k * 2 * bf16_panel_width), second = (__m512bh)_mm512_load_si512(panel + k * 2 * bf16_panel_width + 32);
        for (int r = 0; r < R; ++r) {
            std::int32_t pair;
            std::memcpy(&pair, weights + r * stride + 2 * k, sizeof pair);
            const auto both = (__m512bh)_mm512_set1_epi32(pair);
            low[r] = _mm512_dpbf16_ps(low[r], both, first);
            high[r] = _mm512_dpbf16_ps(high[r], both, second);
        }
    }
    for (int r = 0; r < R; ++r) {
        _mm512_storeu_ps(out + r * bf16_panel_width, low[r]);
        _mm512_storeu_ps(out + r * bf16_panel_width + 16, high[r]);
    }
}

template <bool add>
MIXWRIGHT_BF16_TARGET void tiles(const std::uint16_t* weights, std::int64_t stride, std::int64_t rows, std::int64_t pairs, const std::uint16_t* panel, float* out) {
    std::int64_t row = 0;
    for (; row + bf16_rows_at_once <= rows; row += bf16_rows_at_once) tile<bf16_rows_at_once, add>(weights + row * stride, stride, pairs, panel, out + row * bf16_panel_width);
    for (; row + 8 <= rows; row += 8) tile<8, add>(weights + row * stride, stride, pairs, panel, out + row * bf16_panel_width);
    for (; row + 4 <= rows; row += 4) tile<4, add>(weights + row * stride, stride, pairs, panel, out + row * bf16_panel_width);
    for (; row < rows; ++row) tile<1, add>(weights + row * stride, stride, pairs, panel, out + row * bf16_panel_width);
}

// Transposes 16 x 16 pairs: neighbours are exchanged one, two, four and eight rows apart.
MIXWRIGHT_BF16_TARGET inline void turn(__m512i (&square)[16]) {
    __m512i a[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_epi32(square[i], square[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(square[i], square[i + 1]);
    }
    __m512i b[16];  // b[4 g + j], lane l: column 4 l + j of rows 4 g to 4 g + 3
    for (int g = 0; g < 16; g += 4) {
        b[g] = _mm512_unpacklo_epi64(a[g], a[g + 2]);
        b[g + 1] = _mm512_unpackhi_epi64(a[g], a[g + 2]);
        b[g + 2] = _mm512_unpacklo_epi64(a[g + 1], a[g + 3]);
        b[g + 3] = _mm512_unpackhi_epi64(a[g + 1], a[g + 3]);
    }
    for (int j = 0; j < 4; ++j) {
        const __m512i low_even = _mm512_shuffle_i32x4(b[j], b[4 + j], 0x88), low_odd = _mm512_shuffle_i32x4(b[j], b[4 + j], 0xdd);
        const __m512i high_even = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0x88), high_odd = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0xdd);
        square[j] = _mm512_shuffle_i32x4(low_even, high_even, 0x88);
        square[8 + j] = _mm512_shuffle_i32x4(low_even, high_even, 0xdd);
        square[4 + j] = _mm512_shuffle_i32x4(low_odd, high_odd, 0x88);
        square[12 + j] = _mm512_shuffle_i32x4(low_odd, high_odd, 0xdd);
    }
}

// W rows of weights, `step` elements apart, by R rows of activations.
template <int W, int R>
MIXWRIGHT_BF16_TARGET inline void dots(const std::uint16_t* weights, std::int64_t step, std::int64_t cols, const std::uint16_t* const* x, float* out, std::int64_t out_step, std::int64_t out_stride) {
    constexpr std::int64_t lanes = 32;
    __m512 sums[R][W];
    for (auto& r : sums)
        for (__m512& sum : r) sum = _mm512_setzero_ps();
    std::int64_t c = 0;
    for (; c + lanes <= cols; c += lanes)
        for (int i = 0; i < W; ++i) {
            const auto w = (__m512bh)_mm512_loadu_si512(weights + i * step + c);
            for (int r = 0; r < R; ++r) sums[r][i] = _mm512_dpbf16_ps(sums[r][i], w, (__m512bh)_mm512_loadu_si512(x[r] + c));
        }
    if (c < cols) {
        const __mmask32 rest = (__mmask32{1} << (cols - c)) - 1;
        for (int i = 0; i < W; ++i) {
            const auto w = (__m512bh)_mm512_maskz_loadu_epi16(rest, weights + i * step + c);
            for (int r = 0; r < R; ++r) sums[r][i] = _mm512_dpbf16_ps(sums[r][i], w, (__m512bh)_mm512_loadu_si512(x[r] + c));
        }
    }
    for (int r = 0; r < R; ++r)
        for (int i = 0; i < W; ++i) out[r * out_stride + i * out_step] = _mm512_reduce_add_ps(sums[r][i]);
}

template <int W>
MIXWRIGHT_BF16_TARGET inline void dots(const std::uint16_t* weights, std::int64_t step, std::int64_t cols, std::span<const std::uint16_t* const> x, float* out, std::int64_t out_step, std::int64_t out_stride) {
    std::size_t i = 0;
    for (; i + 4 <= x.size(); i += 4) dots<W, 4>(weights, step, cols, &x[i], out + static_cast<std::int64_t>(i) * out_stride, out_step, out_stride);
    for (; i < x.size(); ++i) dots<W, 1>(weights, step, cols, &x[i], out + static_cast<std::int64_t>(i) * out_stride, out_step, out_stride);
}

}  // namespace

bool has_bf16_dots() {
    static const bool has = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    return has && dots_allowed;
}

MIXWRIGHT_BF16_TARGET void fill_pairs(const std::uint16_t* x, std::int64_t stride, std::int64_t cols, std::span<const std::int32_t> row_of, std::uint16_t* panel) {
    const auto count = static_cast<std::int64_t>(row_of.size());
    if (count < bf16_panel_width || cols % 2 != 0) std::fill_n(panel, (cols + 1) / 2 * 2 * bf16_panel_width, std::uint16_t{0});
    const auto row = [&](std::int64_t t) { return x + row_of[static_cast<std::size_t>(t)] * stride; };
    constexpr std::int64_t block = 16;  // pairs and tokens of a square that is turned in registers
    const std::int64_t whole_cols = cols / (2 * block) * (2 * block), whole_tokens = count / block * block;
    for (std::int64_t t = 0; t < whole_tokens; t += block)
        for (std::int64_t c = 0; c < whole_cols; c += 2 * block) {
            __m512i square[block];
            for (std::int64_t i = 0; i < block; ++i) square[i] = _mm512_loadu_si512(row(t + i) + c);
            turn(square);
            for (std::int64_t i = 0; i < block; ++i) _mm512_storeu_si512(panel + (c + 2 * i) * bf16_panel_width + 2 * t, square[i]);
        }
    for (std::int64_t t = 0; t < count; ++t) {
        std::int64_t c = t < whole_tokens ? whole_cols : 0;
        for (; c + 2 <= cols; c += 2) std::memcpy(panel + c * bf16_panel_width + 2 * t, row(t) + c, 2 * sizeof *x);
        if (c < cols) panel[c * bf16_panel_width + 2 * t] = row(t)[c];
    }
}

MIXWRIGHT_BF16_TARGET void put_pairs(const float* results, std::int64_t count, std::uint16_t* panel) {
    for (std::int64_t o = 0; o < count; o += 2)
        for (std::int64_t t = 0; t < bf16_panel_width; t += 16) {
            const float* from = results + o * bf16_panel_width + t;
            const __m512i even = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from)));
            const __m512i odd = o + 1 < count ? _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from + bf16_panel_width))) : _mm512_setzero_si512();
            _mm512_storeu_si512(panel + o * bf16_panel_width + 2 * t, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
        }
}

void multiply_pairs(const std::uint16_t* weights, std::int64_t stride, std::int64_t rows, std::int64_t pairs, const std::uint16_t* panel, bool add, float* out) {
    add ? tiles<true>(weights, stride, rows, pairs, panel, out) : tiles<false>(weights, stride, rows, pairs, panel, out);
}

MIXWRIGHT_BF16_TARGET void dot_pairs(const std::uint16_t* weights, std::int64_t rows, std::int64_t cols, std::span<const std::uint16_t* const> x, float* out, std::int64_t out_stride) {
    // Rows that pass together lie far apart, as in matvec.cpp.
    constexpr int rows_at_once = 4;
    const std::int64_t spread = rows / rows_at_once;
    for (std::int64_t row = 0; row < spread; ++row) dots<rows_at_once>(weights + row * cols, spread * cols, cols, x, out + row, spread, out_stride);
    for (std::int64_t row = spread * rows_at_once; row < rows; ++row) dots<1>(weights + row * cols, 0, cols, x, out + row, 0, out_stride);
}
#else
bool has_bf16_dots() { return false; }
void fill_pairs(const std::uint16_t*, std::int64_t, std::int64_t, std::span<const std::int32_t>, std::uint16_t*) { std::abort(); }
void put_pairs(const float*, std::int64_t, std::uint16_t*) { std::abort(); }
void multiply_pairs(const std::uint16_t*, std::int64_t, std::int64_t, std::int64_t, const std::uint16_t*, bool, float*) { std::abort(); }
void dot_pairs(const std::uint16_t*, std::int64_t, std::int64_t, std::span<const std::uint16_t* const>, float*, std::int64_t) { std::abort(); }
#endif

}  // namespace mixwright::kernels
