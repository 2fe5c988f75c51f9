#include "kernels/bf16_panels.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "kernels/bf16_dots.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mixwright::kernels {

#if defined(__x86_64__)
namespace {

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

// Sixteen pairs: the first of each rounded from `first`, the second from `second`.
MIXWRIGHT_BF16_TARGET inline __m512i rounded_pairs(__m512 first, __m512 second) {
    alignas(64) static constexpr std::uint16_t side_by_side[32] = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return _mm512_permutexvar_epi16(_mm512_load_si512(side_by_side), (__m512i)_mm512_cvtne2ps_pbh(second, first));
}

// Puts the rows that row(o, t) gives, 16 tokens from t on, into a panel.
template <class Row>
MIXWRIGHT_BF16_TARGET inline void put_rows(std::int64_t count, std::uint16_t* panel, Row row) {
    for (std::int64_t o = 0; o < count; o += 2)
        for (std::int64_t t = 0; t < bf16_panel_width; t += 16)
            _mm512_storeu_si512(panel + o * bf16_panel_width + 2 * t, rounded_pairs(row(o, t), o + 1 < count ? row(o + 1, t) : _mm512_setzero_ps()));
}

// 2^x for x in [-126, 126]: a polynomial of 2^f for the fraction f in [-1/2, 1/2], relative error 2e-7, times a power.
MIXWRIGHT_BF16_TARGET inline __m512 power_of_two(__m512 x) {
    const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), f = _mm512_sub_ps(x, whole);
    __m512 sum = _mm512_set1_ps(1.33335581e-3f);
    for (const float coefficient : {9.61812911e-3f, 5.55041087e-2f, 2.40226507e-1f, 6.93147181e-1f, 1.0f}) sum = _mm512_fmadd_ps(sum, f, _mm512_set1_ps(coefficient));
    return _mm512_scalef_ps(sum, whole);
}

MIXWRIGHT_BF16_TARGET inline __m512 swiglu(__m512 gate, __m512 up) {
    constexpr float log2_e = 1.44269504f, most = 126.0f;
    // Operands in this order let NaN through.
    const __m512 x = _mm512_max_ps(_mm512_set1_ps(-most), _mm512_min_ps(_mm512_set1_ps(most), _mm512_mul_ps(gate, _mm512_set1_ps(-log2_e))));
    const __m512 divisor = _mm512_add_ps(power_of_two(x), _mm512_set1_ps(1.0f));
    const __m512 estimate = _mm512_rcp14_ps(divisor);  // one step of Newton's makes it exact to the last bits
    const __m512 inverse = _mm512_mul_ps(estimate, _mm512_fnmadd_ps(divisor, estimate, _mm512_set1_ps(2.0f)));
    return _mm512_mul_ps(_mm512_mul_ps(gate, inverse), up);
}

}  // namespace

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
    put_rows(count, panel, [=](std::int64_t o, std::int64_t t) MIXWRIGHT_BF16_TARGET { return _mm512_loadu_ps(results + o * bf16_panel_width + t); });
}

MIXWRIGHT_BF16_TARGET void put_swiglu_pairs(const float* gate, const float* up, std::int64_t count, std::uint16_t* panel) {
    put_rows(count, panel, [=](std::int64_t o, std::int64_t t) MIXWRIGHT_BF16_TARGET {
        const std::int64_t at = o * bf16_panel_width + t;
        return swiglu(_mm512_loadu_ps(gate + at), _mm512_loadu_ps(up + at));
    });
}

MIXWRIGHT_BF16_TARGET void turn_to_bf16(const float* results, std::int64_t rows, std::int64_t count, const std::uint16_t* bias, std::uint16_t* to, std::int64_t stride) {
    constexpr std::int64_t block = 16;  // tokens, and pairs of rows
    for (std::int64_t t = 0; t < count; t += block)
        for (std::int64_t o = 0; o < rows; o += 2 * block) {
            const auto row = [&](std::int64_t r) MIXWRIGHT_BF16_TARGET {
                if (r >= rows) return _mm512_setzero_ps();
                const __m512 values = _mm512_loadu_ps(results + r * bf16_panel_width + t);
                return bias == nullptr ? values : _mm512_add_ps(values, (__m512)_mm512_set1_epi32(bias[r] << 16));
            };
            __m512i square[block];
            for (std::int64_t i = 0; i < block; ++i) square[i] = rounded_pairs(row(o + 2 * i), row(o + 2 * i + 1));
            turn(square);
            const auto present = static_cast<__mmask32>((std::uint64_t{1} << std::min(2 * block, rows - o)) - 1);
            for (std::int64_t i = 0; i < std::min(block, count - t); ++i) _mm512_mask_storeu_epi16(to + (t + i) * stride + o, present, square[i]);
        }
}
#else
void fill_pairs(const std::uint16_t*, std::int64_t, std::int64_t, std::span<const std::int32_t>, std::uint16_t*) { std::abort(); }
void put_pairs(const float*, std::int64_t, std::uint16_t*) { std::abort(); }
void put_swiglu_pairs(const float*, const float*, std::int64_t, std::uint16_t*) { std::abort(); }
void turn_to_bf16(const float*, std::int64_t, std::int64_t, const std::uint16_t*, std::uint16_t*, std::int64_t) { std::abort(); }
#endif

}  // namespace mixwright::kernels
