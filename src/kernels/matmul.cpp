#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/matmul.cpp"
#include <hwy/foreach_target.h>  // compiles this file once for every target

#include "kernels/tile-inl.h"

#include <hwy/highway.h>

#include "kernels/matmul.h"
#include "kernels/quantize.h"
#include "kernels/scratch.h"

#include <algorithm>
#include <bit>
#include <vector>

#ifndef MIXWRIGHT_KERNELS_MATMUL
#define MIXWRIGHT_KERNELS_MATMUL
namespace mixwright::kernels {

// The depth of one pass: a panel of it stays in the first or second cache, whatever K is.
constexpr std::int64_t block_depth = 512;
constexpr std::int64_t tile_bytes = 128 << 10;  // of widened weights

}  // namespace mixwright::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace mixwright::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

std::int64_t panel_width() { return tile_width(); }
std::int64_t row_multiple() { return rows_at_once; }

template <class T>
void fill(const T* x, std::int64_t stride, std::int64_t cols, std::span<const std::int32_t> rows, float* panel) {
    const std::int64_t width = panel_width(), count = static_cast<std::int64_t>(rows.size());
    if (count < width) std::fill(panel, panel + cols * width, 0.0f);
    // A few columns at a time, so that the lines of the panel stay in the cache until all tokens have written to them.
    constexpr std::int64_t strip = 64;
    for (std::int64_t first = 0; first < cols; first += strip)
        for (std::int64_t t = 0; t < count; ++t) {
            const T* from = x + rows[static_cast<std::size_t>(t)] * stride;
            for (std::int64_t c = first; c < std::min(cols, first + strip); ++c) panel[c * width + t] = widen(from[c]);
        }
}
void fill_f32(const float* x, std::int64_t stride, std::int64_t cols, std::span<const std::int32_t> rows, float* panel) { fill(x, stride, cols, rows, panel); }
void fill_bf16(const std::uint16_t* x, std::int64_t stride, std::int64_t cols, std::span<const std::int32_t> rows, float* panel) {
    fill(x, stride, cols, rows, panel);
}

// Columns [first, first + count) of one row as f32.
HWY_INLINE void widen_row(const Weights& weights, std::int64_t row, std::int64_t first, std::int64_t count, float* out) {
    const F32 d;
    switch (weights.format) {
        case Format::f32: {
            const float* from = static_cast<const float*>(weights.values) + row * weights.cols + first;
            std::copy(from, from + count, out);
            break;
        }
        case Format::bf16: {
            const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
            const std::uint16_t* from = static_cast<const std::uint16_t*>(weights.values) + row * weights.cols + first;
            std::int64_t c = 0;
            for (; c + lanes <= count; c += lanes) hn::StoreU(load_floats(from + c), d, out + c);
            for (; c < count; ++c) out[c] = widen(from[c]);
            break;
        }
        case Format::int8: {
            const hn::Rebind<std::int8_t, F32> d8;
            const hn::Rebind<std::int32_t, F32> d32;
            const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
            const auto* from = static_cast<const std::int8_t*>(weights.values) + row * weights.cols + first;
            const float scale = static_cast<const float*>(weights.scales)[row];
            std::int64_t c = 0;
            for (; c + lanes <= count; c += lanes)
                hn::StoreU(hn::Mul(hn::ConvertTo(d, hn::PromoteTo(d32, hn::LoadU(d8, from + c))), hn::Set(d, scale)), d, out + c);
            for (; c < count; ++c) out[c] = scale * static_cast<float>(from[c]);
            break;
        }
        case Format::int4: {
            const std::int64_t groups = int4_groups(weights.cols);
            const auto* from = static_cast<const std::uint8_t*>(weights.values) + row * row_bytes(Format::int4, weights.cols);
            const auto* scales = static_cast<const std::uint16_t*>(weights.scales) + row * 2 * groups;
            // Groups begin where blocks do: block_depth is a multiple of two groups.
            for (std::int64_t c = 0; c < count; c += int4_group) {
                const std::int64_t group = (first + c) / int4_group;
                const float scale = widen(scales[group]), least = widen(scales[groups + group]);
                const std::uint8_t* nibbles = from + group / 2 * int4_group;
                const int shift = group % 2 == 0 ? 0 : 4;
                for (std::int64_t j = 0; j < std::min(int4_group, count - c); ++j)
                    out[c + j] = least + scale * static_cast<float>((nibbles[j] >> shift) & 15);
            }
            break;
        }
    }
}

void multiply(const Weights& weights, std::int64_t begin, std::int64_t end, const Panels& x, float* out, std::int64_t panel_step) {
    const std::int64_t width = tile_width(), rows = end - begin;
    thread_local Scratch scratch;
    float* widened = scratch.of(rows * std::min(block_depth, weights.cols));
    for (std::int64_t first = 0; first < weights.cols; first += block_depth) {
        const std::int64_t depth = std::min(block_depth, weights.cols - first);
        for (std::int64_t row = 0; row < rows; ++row) widen_row(weights, begin + row, first, depth, widened + row * depth);
        for (std::int64_t p = 0; p < x.count(); ++p) {
            const float* panel = x.panel(p) + first * width;
            float* to = out + p * panel_step;
            std::int64_t row = 0;
            for (; row + rows_at_once <= rows; row += rows_at_once) tile<rows_at_once>(false, first > 0, widened + row * depth, depth, depth, panel, to + row * width, width);
            for (; row + 4 <= rows; row += 4) tile<4>(false, first > 0, widened + row * depth, depth, depth, panel, to + row * width, width);
            for (; row < rows; ++row) tile<1>(false, first > 0, widened + row * depth, depth, depth, panel, to + row * width, width);
        }
    }
}

}  // namespace HWY_NAMESPACE
}  // namespace mixwright::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mixwright::kernels {

HWY_EXPORT(panel_width);
HWY_EXPORT(row_multiple);
HWY_EXPORT(fill_f32);
HWY_EXPORT(fill_bf16);
HWY_EXPORT(multiply);

namespace {

std::span<const std::int32_t> rows_of_panel(std::span<const std::int32_t> row_of, std::int64_t i, std::int64_t width) {
    const auto first = static_cast<std::size_t>(i * width);
    return row_of.subspan(first, std::min(static_cast<std::size_t>(width), row_of.size() - first));
}

}  // namespace

std::int64_t Panels::width() { return HWY_DYNAMIC_DISPATCH(panel_width)(); }

Panels::Panels(std::int64_t rows, std::int64_t cols)
    : rows_(rows), cols_(cols), width_(width()), count_((rows + width_ - 1) / width_),
      values_(hwy::AllocateAligned<float>(static_cast<std::size_t>(count_ * cols * width_))) {}

void Panels::fill(std::int64_t i, const float* x, std::int64_t stride, std::span<const std::int32_t> row_of) {
    HWY_DYNAMIC_DISPATCH(fill_f32)(x, stride, cols_, rows_of_panel(row_of, i, width_), panel(i));
}

void Panels::fill(std::int64_t i, const std::uint16_t* x, std::int64_t stride, std::span<const std::int32_t> row_of) {
    HWY_DYNAMIC_DISPATCH(fill_bf16)(x, stride, cols_, rows_of_panel(row_of, i, width_), panel(i));
}

std::int64_t tile_rows(std::int64_t rows, std::int64_t cols) {
    constexpr std::int64_t least_tiles = 8;
    const std::int64_t multiple = HWY_DYNAMIC_DISPATCH(row_multiple)(), in_cache = tile_bytes / 4 / std::min(cols, block_depth), shared = rows / least_tiles;
    return std::max<std::int64_t>(1, std::min(in_cache, shared) / multiple) * multiple;
}

void multiply(const Weights& weights, std::int64_t begin, std::int64_t end, const Panels& x, float* out, std::int64_t panel_step) {
    HWY_DYNAMIC_DISPATCH(multiply)(weights, begin, end, x, out, panel_step);
}

}  // namespace mixwright::kernels
#endif  // HWY_ONCE
