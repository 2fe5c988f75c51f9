#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/matmul.cpp"
#include <hwy/foreach_target.h>  // compiles this file once for every target

#include "kernels/tile-inl.h"

#include <hwy/highway.h>

#include "kernels/bf16_dots.h"
#include "kernels/bf16_panels.h"
#include "kernels/matmul.h"
#include "kernels/quantize.h"
#include "kernels/scratch.h"

#include <algorithm>
#include <array>
#include <bit>
#include <vector>

#ifndef MIXWRIGHT_KERNELS_MATMUL
#define MIXWRIGHT_KERNELS_MATMUL
namespace mixwright::kernels {

// The depth of one pass: a panel of it stays in the first or second cache, whatever K is.
constexpr std::int64_t block_depth = 256;
constexpr std::int64_t block_pairs_depth = 2048;  // of bf16: half the bytes, and twice the arithmetic a load
constexpr std::int64_t tile_bytes = 64 << 10;  // of widened weights

}  // namespace mixwright::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace mixwright::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

std::int64_t f32_panel_width() { return tile_width(); }
std::int64_t row_multiple() { return rows_at_once; }

template <class T>
void fill(const T* x, std::int64_t stride, std::int64_t cols, std::span<const std::int32_t> rows, float* panel) {
    const std::int64_t width = tile_width(), count = static_cast<std::int64_t>(rows.size());
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

void multiply_f32(const Weights& weights, std::int64_t begin, std::int64_t end, const Panels& x, float* out, std::int64_t panel_step) {
    const std::int64_t width = tile_width(), rows = end - begin;
    thread_local Scratch scratch;
    float* widened = scratch.of(rows * std::min(block_depth, weights.cols));
    for (std::int64_t first = 0; first < weights.cols; first += block_depth) {
        const std::int64_t depth = std::min(block_depth, weights.cols - first);
        for (std::int64_t row = 0; row < rows; ++row) widen_row(weights, begin + row, first, depth, widened + row * depth);
        for (std::int64_t p = 0; p < x.count(); ++p) {
            const float* panel = x.panel<float>(p, first);
            float* to = out + p * panel_step;
            std::int64_t row = 0;
            for (; row + rows_at_once <= rows; row += rows_at_once) tile<rows_at_once>(false, first > 0, widened + row * depth, depth, depth, panel, to + row * width, width);
            for (; row + 4 <= rows; row += 4) tile<4>(false, first > 0, widened + row * depth, depth, depth, panel, to + row * width, width);
            for (; row < rows; ++row) tile<1>(false, first > 0, widened + row * depth, depth, depth, panel, to + row * width, width);
        }
    }
}

// Columns [first, first + count) of one row as bf16, one after the other.
void narrow_row(const Weights& weights, std::int64_t row, std::int64_t first, std::int64_t count, std::uint16_t* out) {
    if (weights.format == Format::bf16) {
        std::copy_n(static_cast<const std::uint16_t*>(weights.values) + row * weights.cols + first, count, out);
        return;
    }
    std::array<float, block_pairs_depth> wide;
    widen_row(weights, row, first, count, wide.data());
    for (std::int64_t c = 0; c < count; ++c) out[c] = narrow(wide[static_cast<std::size_t>(c)]);
}

void turn_results(const float* HWY_RESTRICT from, std::int64_t width, std::int64_t rows, std::int64_t count, float* HWY_RESTRICT to, std::int64_t stride) {
    std::int64_t o = 0;
#if HWY_TARGET != HWY_SCALAR
    const hn::FixedTag<float, 4> d;
    const hn::RepartitionToWide<decltype(d)> wide;
    for (; o + 4 <= rows; o += 4) {
        std::int64_t t = 0;
        for (; t + 4 <= count; t += 4) {
            const float* at = from + o * width + t;
            const auto a = hn::LoadU(d, at), b = hn::LoadU(d, at + width), e = hn::LoadU(d, at + 2 * width), f = hn::LoadU(d, at + 3 * width);
            // Pairs of rows, then pairs of pairs.
            const auto ab_low = hn::BitCast(wide, hn::InterleaveLower(d, a, b)), ab_high = hn::BitCast(wide, hn::InterleaveUpper(d, a, b));
            const auto ef_low = hn::BitCast(wide, hn::InterleaveLower(d, e, f)), ef_high = hn::BitCast(wide, hn::InterleaveUpper(d, e, f));
            float* out = to + t * stride + o;
            hn::StoreU(hn::BitCast(d, hn::InterleaveLower(wide, ab_low, ef_low)), d, out);
            hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(wide, ab_low, ef_low)), d, out + stride);
            hn::StoreU(hn::BitCast(d, hn::InterleaveLower(wide, ab_high, ef_high)), d, out + 2 * stride);
            hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(wide, ab_high, ef_high)), d, out + 3 * stride);
        }
        for (; t < count; ++t)
            for (std::int64_t i = o; i < o + 4; ++i) to[t * stride + i] = from[i * width + t];
    }
#endif
    for (; o < rows; ++o)
        for (std::int64_t t = 0; t < count; ++t) to[t * stride + o] = from[o * width + t];
}

}  // namespace HWY_NAMESPACE
}  // namespace mixwright::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mixwright::kernels {

HWY_EXPORT(f32_panel_width);
HWY_EXPORT(row_multiple);
HWY_EXPORT(fill_f32);
HWY_EXPORT(fill_bf16);
HWY_EXPORT(multiply_f32);
HWY_EXPORT(narrow_row);
HWY_EXPORT(turn_results);

namespace {

std::span<const std::int32_t> rows_of_panel(std::span<const std::int32_t> row_of, std::int64_t i, std::int64_t width) {
    const auto first = static_cast<std::size_t>(i * width);
    return row_of.subspan(first, std::min(static_cast<std::size_t>(width), row_of.size() - first));
}

void multiply_bf16(const Weights& weights, std::int64_t begin, std::int64_t end, const Panels& x, float* out, std::int64_t panel_step) {
    const std::int64_t rows = end - begin, cols = weights.cols;
    // Rows are read as they lie if they can be: pairs end where they do, and twelve of them do not fall on the same lines of the cache.
    constexpr std::int64_t same_lines = 4096, cache_line = 32;  // bytes; elements
    const bool as_they_lie = weights.format == Format::bf16 && cols % 2 == 0 && row_bytes(Format::bf16, cols) % same_lines != 0;
    constexpr std::int64_t stride = block_pairs_depth + 32;
    thread_local std::vector<std::uint16_t> narrowed;
    if (!as_they_lie && static_cast<std::int64_t>(narrowed.size()) < rows * stride) narrowed.resize(static_cast<std::size_t>(rows * stride));
    for (std::int64_t first = 0; first < cols; first += block_pairs_depth) {
        const std::int64_t depth = std::min(block_pairs_depth, cols - first), pairs = (depth + 1) / 2;
        for (std::int64_t row = 0; row < rows && !as_they_lie; ++row) {
            std::uint16_t* to = narrowed.data() + row * stride;
            HWY_DYNAMIC_DISPATCH(narrow_row)(weights, begin + row, first, depth, to);
            if (depth % 2 != 0) to[depth] = 0;
        }
        const std::uint16_t* from = as_they_lie ? static_cast<const std::uint16_t*>(weights.values) + begin * cols + first : narrowed.data();
        // The rows that the next call is for come nearer meanwhile, a share of them with each panel.
        const std::int64_t next_rows = as_they_lie ? std::min(weights.rows - end, rows) : 0, share = next_rows > 0 ? (next_rows + x.count() - 1) / x.count() : 0;
        for (std::int64_t p = 0; p < x.count(); ++p) {
            for (std::int64_t row = p * share; row < std::min(next_rows, (p + 1) * share); ++row)
                for (std::int64_t c = 0; c < depth; c += cache_line) __builtin_prefetch(from + (rows + row) * cols + c, 0, 2);
            multiply_pairs(from, as_they_lie ? cols : stride, rows, pairs, x.panel<std::uint16_t>(p, first), x.rows() - p * x.width(), first > 0, out + p * panel_step);
        }
    }
}

}  // namespace

Format Panels::kept_as(Format format) { return format == Format::bf16 && has_bf16_dots() ? Format::bf16 : Format::f32; }

Panels::Panels(std::int64_t rows, std::int64_t cols, Format format)
    : format_(kept_as(format)), rows_(rows), cols_(cols), width_(format_ == Format::bf16 ? bf16_panel_width : HWY_DYNAMIC_DISPATCH(f32_panel_width)()),
      count_((rows + width_ - 1) / width_), panel_bytes_(width_ * (format_ == Format::bf16 ? (cols + 1) / 2 * 4 : cols * 4)),
      values_(hwy::AllocateAligned<std::byte>(static_cast<std::size_t>(count_ * panel_bytes_))) {}

void Panels::fill(std::int64_t i, const float* x, std::int64_t stride, std::span<const std::int32_t> row_of) {
    HWY_DYNAMIC_DISPATCH(fill_f32)(x, stride, cols_, rows_of_panel(row_of, i, width_), panel<float>(i));
}

void Panels::fill(std::int64_t i, const std::uint16_t* x, std::int64_t stride, std::span<const std::int32_t> row_of) {
    const auto rows = rows_of_panel(row_of, i, width_);
    if (format_ == Format::bf16)
        fill_pairs(x, stride, cols_, rows, panel<std::uint16_t>(i));
    else
        HWY_DYNAMIC_DISPATCH(fill_bf16)(x, stride, cols_, rows, panel<float>(i));
}

void Panels::put(std::int64_t i, std::int64_t begin, std::int64_t count, const float* results) {
    if (format_ == Format::bf16)
        put_pairs(results, count, panel<std::uint16_t>(i, begin));
    else
        std::copy_n(results, count * width_, panel<float>(i, begin));
}

std::int64_t tile_rows(std::int64_t rows, std::int64_t cols) {
    constexpr std::int64_t least_tiles = 8;
    const std::int64_t multiple = HWY_DYNAMIC_DISPATCH(row_multiple)(), in_cache = tile_bytes / 4 / std::min(cols, block_depth), shared = rows / least_tiles;
    return std::max<std::int64_t>(1, std::min(in_cache, shared) / multiple) * multiple;
}

void multiply(const Weights& weights, std::int64_t begin, std::int64_t end, const Panels& x, float* out, std::int64_t panel_step) {
    if (x.format() == Format::bf16)
        multiply_bf16(weights, begin, end, x, out, panel_step);
    else
        HWY_DYNAMIC_DISPATCH(multiply_f32)(weights, begin, end, x, out, panel_step);
}

void turn(const float* from, std::int64_t width, std::int64_t rows, std::int64_t count, float* to, std::int64_t stride) {
    HWY_DYNAMIC_DISPATCH(turn_results)(from, width, rows, count, to, stride);
}

}  // namespace mixwright::kernels
#endif  // HWY_ONCE
