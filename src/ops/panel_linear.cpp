#include "ops/panel_linear.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "ops/fast_math.h"
#include "ops/kernel_use.h"
#include "ops/skinny_linear.h"
#include "ops/work_sharing.h"

namespace mixwright::ops {
namespace {

template <class T>
MIXWRIGHT_INLINE void store(const float* from, std::int64_t count, const T* bias, T* out) {
    for (std::int64_t o = 0; o < count; ++o) out[o] = narrow<T>(from[o] + (bias != nullptr ? widen(bias[o]) : 0.0f));
}
MIXWRIGHT_VECTORISED void store_f32(const float* from, std::int64_t count, const float* bias, float* out) { store(from, count, bias, out); }
MIXWRIGHT_VECTORISED void store_bf16(const float* from, std::int64_t count, const std::uint16_t* bias, std::uint16_t* out) { store(from, count, bias, out); }

}  // namespace

bool panels_apply(const Linear& linear, const at::Tensor& x) {
    return kernels_apply(x) && x.numel() > 0 && has_kernel_weights(linear, x) && !linear.lora_a.defined() && has_faster_panels(x.scalar_type()) &&
           (!linear.bias.defined() || (linear.bias.scalar_type() == x.scalar_type() && linear.bias.is_contiguous()));
}

kernels::Panels panels_for(const at::Tensor& x, std::int64_t rows, std::int64_t cols) {
    return {rows, cols, x.scalar_type() == at::kBFloat16 ? kernels::Format::bf16 : kernels::Format::f32};
}

void fill_panel(kernels::Panels& panels, std::int64_t i, const at::Tensor& x, std::span<const std::int32_t> row_of) {
    const void* values = x.const_data_ptr();
    if (x.scalar_type() == at::kBFloat16)
        panels.fill(i, static_cast<const std::uint16_t*>(values), panels.cols(), row_of);
    else
        panels.fill(i, static_cast<const float*>(values), panels.cols(), row_of);
}

float* panel_scratch(std::int64_t count) {
    thread_local std::vector<float> memory;
    if (static_cast<std::int64_t>(memory.size()) < count) memory.resize(static_cast<std::size_t>(count));
    return memory.data();
}

at::Tensor panel_linear(const Linear& linear, const at::Tensor& x) {
    // As many tokens at a time as leave their panels in the cache that all cores share.
    constexpr std::int64_t block_floats = 1 << 20;
    const std::int64_t cols = x.size(-1), num_rows = x.numel() / cols;
    const kernels::Weights weights = kernel_weights(linear, cols);
    const at::Tensor rows = x.contiguous().view({num_rows, cols}), out = at::empty({num_rows, weights.rows}, x.options());
    const std::int64_t block = std::max(block_floats / cols, std::int64_t{64}) / 64 * 64;  // a multiple of any panel's width
    const std::int64_t tile = kernels::tile_rows(weights.rows, cols), tiles = (weights.rows + tile - 1) / tile;
    const bool bf16 = x.scalar_type() == at::kBFloat16;
    const void* bias = linear.bias.defined() ? linear.bias.const_data_ptr() : nullptr;
    void* results = out.data_ptr();
    std::vector<std::int32_t> order(static_cast<std::size_t>(num_rows));
    std::iota(order.begin(), order.end(), 0);
    for (std::int64_t first = 0; first < num_rows; first += block) {
        const std::int64_t block_rows = std::min(block, num_rows - first);
        const auto row_of = std::span(order).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(block_rows));
        kernels::Panels panels = panels_for(x, block_rows, cols);
        const std::int64_t width = panels.width();
        share_work(panels.count(), [&](std::int64_t i) { fill_panel(panels, i, rows, row_of); });
        share_work(tiles, [&](std::int64_t unit) {
            const std::int64_t begin = unit * tile, count = std::min(weights.rows, begin + tile) - begin;
            float* sums = panel_scratch((panels.count() + 1) * tile * width);
            float* turned = sums + panels.count() * tile * width;
            kernels::multiply(weights, begin, begin + count, panels, sums, tile * width);
            for (std::int64_t p = 0; p < panels.count(); ++p) {
                const std::int64_t tokens = std::min(width, block_rows - p * width);
                kernels::turn(sums + p * tile * width, width, count, tokens, turned, count);
                for (std::int64_t t = 0; t < tokens; ++t) {
                    const std::int64_t at = (first + p * width + t) * weights.rows + begin;
                    if (bf16)
                        store_bf16(turned + t * count, count, bias != nullptr ? static_cast<const std::uint16_t*>(bias) + begin : nullptr, static_cast<std::uint16_t*>(results) + at);
                    else
                        store_f32(turned + t * count, count, bias != nullptr ? static_cast<const float*>(bias) + begin : nullptr, static_cast<float*>(results) + at);
                }
            }
        });
    }
    std::vector<std::int64_t> shape = x.sizes().vec();
    shape.back() = weights.rows;
    return out.view(shape);
}

}  // namespace mixwright::ops
