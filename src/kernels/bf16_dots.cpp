#include "kernels/bf16_dots.h"

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

// R rows by V vectors of 16 tokens in V R registers.
template <int R, int V, bool add>
MIXWRIGHT_BF16_TARGET inline void tile(const std::uint16_t* weights, std::int64_t stride, std::int64_t pairs, const std::uint16_t* panel, float* out) {
    __m512 sums[R][V];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) sums[r][v] = add ? _mm512_loadu_ps(out + r * bf16_panel_width + 16 * v) : _mm512_setzero_ps();
    for (std::int64_t k = 0; k < pairs; ++k) {
        __m512bh tokens[V];
        for (int v = 0; v < V; ++v) tokens[v] = (__m512bh)_mm512_load_si512(panel + k * 2 * bf16_panel_width + 32 * v);
        for (int r = 0; r < R; ++r) {
            std::int32_t pair;
            std::memcpy(&pair, weights + r * stride + 2 * k, sizeof pair);
            const auto both = (__m512bh)_mm512_set1_epi32(pair);
            for (int v = 0; v < V; ++v) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], both, tokens[v]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) _mm512_storeu_ps(out + r * bf16_panel_width + 16 * v, sums[r][v]);
}

template <int V, bool add>
MIXWRIGHT_BF16_TARGET void tiles(const std::uint16_t* weights, std::int64_t stride, std::int64_t rows, std::int64_t pairs, const std::uint16_t* panel, float* out) {
    std::int64_t row = 0;
    const auto some = [&]<int R>() MIXWRIGHT_BF16_TARGET {
        tile<R, V, add>(weights + row * stride, stride, pairs, panel, out + row * bf16_panel_width);
        row += R;
    };
    // Of half a panel as many registers are filled by twice the rows.
    if constexpr (V == 1)
        while (row + 2 * bf16_rows_at_once <= rows) some.template operator()<2 * bf16_rows_at_once>();
    // Sixteen that are left go as two times eight: four at a time fill too few registers to keep the multipliers busy.
    while (row + bf16_rows_at_once <= rows && rows - row != 16) some.template operator()<bf16_rows_at_once>();
    while (row + 8 <= rows) some.template operator()<8>();
    while (row + 4 <= rows) some.template operator()<4>();
    while (row < rows) some.template operator()<1>();
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

void multiply_pairs(const std::uint16_t* weights, std::int64_t stride, std::int64_t rows, std::int64_t pairs, const std::uint16_t* panel, std::int64_t tokens, bool add, float* out) {
    if (tokens > bf16_panel_width / 2)
        add ? tiles<2, true>(weights, stride, rows, pairs, panel, out) : tiles<2, false>(weights, stride, rows, pairs, panel, out);
    else
        add ? tiles<1, true>(weights, stride, rows, pairs, panel, out) : tiles<1, false>(weights, stride, rows, pairs, panel, out);
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
void multiply_pairs(const std::uint16_t*, std::int64_t, std::int64_t, std::int64_t, const std::uint16_t*, std::int64_t, bool, float*) { std::abort(); }
void dot_pairs(const std::uint16_t*, std::int64_t, std::int64_t, std::span<const std::uint16_t* const>, float*, std::int64_t) { std::abort(); }
#endif

}  // namespace mixwright::kernels
