#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gemm.cpp"
#include <hwy/foreach_target.h>  // compiles this file once for every target

#include "kernels/tile-inl.h"

#include <hwy/highway.h>

#include "kernels/gemm.h"
#include "kernels/scratch.h"

#include <algorithm>

#ifndef MIXWRIGHT_KERNELS_GEMM
#define MIXWRIGHT_KERNELS_GEMM
namespace mixwright::kernels {

// As in BLIS: a block of b [gemm_depth, gemm_cols] lies packed in the outer caches, a block of a [gemm_rows, gemm_depth] in the second,
// and one panel of b after another, two vectors wide, comes to the first.
constexpr std::int64_t gemm_depth = 256, gemm_cols = 512;

inline const float* row_f32(const Factor& f, std::int64_t i) { return static_cast<const float*>(f.values) + (f.row_of == nullptr ? i : f.row_of[i]) * f.stride; }
inline const std::uint16_t* row_bf16(const Factor& f, std::int64_t i) {
    return static_cast<const std::uint16_t*>(f.values) + (f.row_of == nullptr ? i : f.row_of[i]) * f.stride;
}

}  // namespace mixwright::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace mixwright::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr std::int64_t max_tile = rows_at_once * 2 * static_cast<std::int64_t>(hn::MaxLanes(F32()));

template <class T>
HWY_INLINE void copy_widened(const T* from, std::int64_t count, float* to) {
    std::int64_t i = 0;
    for (; i + lanes() <= count; i += lanes()) hn::StoreU(load_floats(from + i), F32(), to + i);
    for (; i < count; ++i) to[i] = widen(from[i]);
}

// Calls visit(pointer to the stored row i) with the factor's own type.
HWY_INLINE void with_row(const Factor& f, std::int64_t i, const auto& visit) {
    if (f.format == Format::f32)
        visit(row_f32(f, i));
    else
        visit(row_bf16(f, i));
}

// A rest of a strip of a transposed factor, or all of it: [count] neighbours.
template <int count, class T>
HWY_INLINE void copy_neighbours(const T* from, float* to) {
    for (int r = 0; r < count; ++r) to[r] = widen(from[r]);
}

// Rows [first, first + rows) and columns [k0, k0 + depth) of a, in strips of rows_at_once. Strips of a transposed factor are [depth, rows],
// the others [rows, depth]: either way memory is read as it lies.
void pack_a(const Factor& a, std::int64_t first, std::int64_t rows, std::int64_t k0, std::int64_t depth, float* out) {
    if (!a.transposed) {
        for (std::int64_t i = 0; i < rows; ++i) with_row(a, first + i, [&](const auto* row) { copy_widened(row + k0, depth, out + i * depth); });
        return;
    }
    for (std::int64_t k = 0; k < depth; ++k)
        with_row(a, k0 + k, [&](const auto* row) {
            std::int64_t i = 0;
            for (; i + rows_at_once <= rows; i += rows_at_once) copy_neighbours<rows_at_once>(row + first + i, out + i * depth + k * rows_at_once);
            for (std::int64_t r = 0; r < rows - i; ++r) out[i * depth + k * (rows - i) + r] = widen(row[first + i + r]);
        });
}

// Four steps of four columns, turned: to[step * width + column].
template <class T>
HWY_INLINE void turn_four(const T* const (&columns)[4], std::int64_t k, float* to, std::int64_t width) {
#if HWY_TARGET == HWY_SCALAR
    for (int step = 0; step < 4; ++step)
        for (int i = 0; i < 4; ++i) to[step * width + i] = widen(columns[i][k + step]);
#else
    const hn::FixedTag<float, 4> d;
    const hn::RepartitionToWide<decltype(d)> pairs;
    const auto load = [&](const T* from) {
        if constexpr (sizeof(T) == 4) {
            return hn::LoadU(d, from);
        } else {
            const hn::FixedTag<std::uint32_t, 4> bits;
            return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(bits, hn::LoadU(hn::Rebind<std::uint16_t, decltype(bits)>(), from))));
        }
    };
    const auto a = load(columns[0] + k), b = load(columns[1] + k), c = load(columns[2] + k), e = load(columns[3] + k);
    const auto ab_low = hn::BitCast(pairs, hn::InterleaveLower(d, a, b)), ab_high = hn::BitCast(pairs, hn::InterleaveUpper(d, a, b));
    const auto ce_low = hn::BitCast(pairs, hn::InterleaveLower(d, c, e)), ce_high = hn::BitCast(pairs, hn::InterleaveUpper(d, c, e));
    hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, ab_low, ce_low)), d, to);
    hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, ab_low, ce_low)), d, to + width);
    hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, ab_high, ce_high)), d, to + 2 * width);
    hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, ab_high, ce_high)), d, to + 3 * width);
#endif
}

// Columns [j0, j0 + count) of steps [k0, k0 + depth) of a factor whose columns are rows in memory.
template <class T>
HWY_INLINE void pack_turned(const Factor& b, const auto& row_of, std::int64_t k0, std::int64_t depth, std::int64_t j0, std::int64_t count, float* panel) {
    const std::int64_t width = tile_width();
    std::int64_t t = 0;
    for (; t + 4 <= count; t += 4) {
        const T* const columns[4] = {row_of(b, j0 + t) + k0, row_of(b, j0 + t + 1) + k0, row_of(b, j0 + t + 2) + k0, row_of(b, j0 + t + 3) + k0};
        std::int64_t k = 0;
        for (; k + 4 <= depth; k += 4) turn_four<T>(columns, k, panel + k * width + t, width);
        for (; k < depth; ++k)
            for (int i = 0; i < 4; ++i) panel[k * width + t + i] = widen(columns[i][k]);
    }
    for (; t < count; ++t) {
        const T* column = row_of(b, j0 + t) + k0;
        for (std::int64_t k = 0; k < depth; ++k) panel[k * width + t] = widen(column[k]);
    }
}

// Rows [k0, k0 + depth) of columns [j0, j0 + count) of b, in panels [depth, two vectors], the last filled up with zeros.
void pack_b(const Factor& b, std::int64_t k0, std::int64_t depth, std::int64_t j0, std::int64_t count, float* out) {
    const std::int64_t width = tile_width(), whole = count / width * width;
    if (whole < count) std::fill(out + whole * depth, out + (whole + width) * depth, 0.0f);
    if (b.transposed) {
        for (std::int64_t j = 0; j < count; j += width) {
            const std::int64_t columns = std::min(width, count - j);
            if (b.format == Format::f32)
                pack_turned<float>(b, row_f32, k0, depth, j0 + j, columns, out + j * depth);
            else
                pack_turned<std::uint16_t>(b, row_bf16, k0, depth, j0 + j, columns, out + j * depth);
        }
        return;
    }
    for (std::int64_t k = 0; k < depth; ++k)
        with_row(b, k0 + k, [&](const auto* row) {
            for (std::int64_t j = 0; j < whole; j += width) {
                float* to = out + j * depth + k * width;
                hn::Store(load_floats(row + j0 + j), F32(), to);
                hn::Store(load_floats(row + j0 + j + lanes()), F32(), to + lanes());
            }
            if (whole < count) copy_widened(row + j0 + whole, count - whole, out + whole * depth + k * width);
        });
}

// The last rows of a block, fewer than a tile has.
template <int R>
HWY_INLINE void last_rows(std::int64_t rows, bool turned, bool add, const float* a, std::int64_t a_stride, std::int64_t depth, const float* panel, float* out, std::int64_t stride) {
    if (rows == R)
        tile<R>(turned, add, a, a_stride, depth, panel, out, stride);
    else if constexpr (R > 1)
        last_rows<R - 1>(rows, turned, add, a, a_stride, depth, panel, out, stride);
}

// All rows of a block, `a_stride` apart (of turned strips: their depth), times a panel, of whose columns `count` are real.
void block_times_panel(const float* a, std::int64_t a_stride, std::int64_t rows, bool turned, std::int64_t depth, const float* panel, std::int64_t count, bool add, float* out, std::int64_t stride) {
    const std::int64_t width = tile_width();
    alignas(64) float edge[max_tile];
    for (std::int64_t i = 0; i < rows; i += rows_at_once) {
        const std::int64_t r = std::min<std::int64_t>(rows_at_once, rows - i);
        const bool whole = count == width;
        float* to = whole ? out + i * stride : edge;
        const std::int64_t step = whole ? stride : width;
        if (!whole && add)
            for (std::int64_t row = 0; row < r; ++row) std::copy_n(out + (i + row) * stride, count, edge + row * width);
        last_rows<rows_at_once>(r, turned, add, a + i * a_stride, a_stride, depth, panel, to, step);
        if (!whole)
            for (std::int64_t row = 0; row < r; ++row) std::copy_n(edge + row * width, count, out + (i + row) * stride);
    }
}

void gemm(const Factor& a, const Factor& b, std::int64_t m, std::int64_t k, std::int64_t n, const Product& c) {
    thread_local Scratch block, panels, sums;
    const std::int64_t width = tile_width();
    const bool direct = c.format == Format::f32;
    const bool as_it_lies = a.format == Format::f32 && !a.transposed && a.row_of == nullptr;  // nothing to gain by packing: rows are read as in memory
    for (std::int64_t j0 = 0; j0 < n; j0 += gemm_cols) {
        const std::int64_t cols = std::min(gemm_cols, n - j0), stride = direct ? c.stride : cols;
        float* out = direct ? static_cast<float*>(c.values) + j0 : sums.of(m * cols);
        if (k == 0)
            for (std::int64_t i = 0; i < m; ++i) std::fill_n(out + i * stride, cols, 0.0f);
        for (std::int64_t k0 = 0; k0 < k; k0 += gemm_depth) {
            const std::int64_t depth = std::min(gemm_depth, k - k0);
            float* packed_b = panels.of(gemm_depth * gemm_cols);
            pack_b(b, k0, depth, j0, cols, packed_b);
            for (std::int64_t i0 = 0; i0 < m; i0 += gemm_rows) {
                const std::int64_t rows = std::min(gemm_rows, m - i0);
                const float* rows_of_a = as_it_lies ? row_f32(a, i0) + k0 : nullptr;
                if (!as_it_lies) {
                    float* packed = block.of(gemm_rows * gemm_depth);
                    pack_a(a, i0, rows, k0, depth, packed);
                    rows_of_a = packed;
                }
                for (std::int64_t j = 0; j < cols; j += width)
                    block_times_panel(rows_of_a, as_it_lies ? a.stride : depth, rows, a.transposed, depth, packed_b + j * depth, std::min(width, cols - j), k0 > 0, out + i0 * stride + j, stride);
            }
        }
        if (direct) continue;
        for (std::int64_t i = 0; i < m; ++i) {
            auto* to = static_cast<std::uint16_t*>(c.values) + i * c.stride + j0;
            for (std::int64_t j = 0; j < cols; ++j) to[j] = narrow(out[i * cols + j]);
        }
    }
}

}  // namespace HWY_NAMESPACE
}  // namespace mixwright::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mixwright::kernels {

HWY_EXPORT(gemm);

void gemm(const Factor& a, const Factor& b, std::int64_t m, std::int64_t k, std::int64_t n, const Product& c) { HWY_DYNAMIC_DISPATCH(gemm)(a, b, m, k, n, c); }

}  // namespace mixwright::kernels
#endif  // HWY_ONCE
