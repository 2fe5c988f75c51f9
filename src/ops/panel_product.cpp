#include "ops/panel_product.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "kernels/bf16_panels.h"
#include "ops/fast_math.h"

namespace mixwright::ops {
namespace {

// What a core makes of a unit stays in its second cache.
constexpr std::int64_t unit_bytes = 640 << 10;
constexpr std::int64_t units_a_thread = 6;

template <class T>
MIXWRIGHT_INLINE void store(const float* from, const T* bias, std::int64_t count, T* out) {
    if (bias == nullptr)
        for (std::int64_t o = 0; o < count; ++o) out[o] = narrow<T>(from[o]);
    else
        for (std::int64_t o = 0; o < count; ++o) out[o] = narrow<T>(from[o] + widen(bias[o]));
}
MIXWRIGHT_VECTORISED void store_row(const float* from, const float* bias, std::int64_t count, float* out) { store(from, bias, count, out); }
MIXWRIGHT_VECTORISED void store_row(const float* from, const std::uint16_t* bias, std::int64_t count, std::uint16_t* out) { store(from, bias, count, out); }

}  // namespace

kernels::Panels panels_for(const at::Tensor& x, std::int64_t rows, std::int64_t cols) {
    return {rows, cols, x.scalar_type() == at::kBFloat16 ? kernels::Format::bf16 : kernels::Format::f32};
}

kernels::Panels filled_panels(const at::Tensor& x, std::span<const std::int32_t> row_of) {
    kernels::Panels panels = panels_for(x, std::ssize(row_of), x.size(1));
    const void* values = x.const_data_ptr();
    for (std::int64_t p = 0; p < panels.count(); ++p)
        if (x.scalar_type() == at::kBFloat16)
            panels.fill(p, static_cast<const std::uint16_t*>(values), panels.cols(), row_of);
        else
            panels.fill(p, static_cast<const float*>(values), panels.cols(), row_of);
    return panels;
}

RowUnits row_units(const at::Tensor& x, std::int64_t cols, std::int64_t rows, std::int64_t all, std::int64_t least) {
    const kernels::Panels one = panels_for(x, 1, 1);
    const std::int64_t width = one.width(), bytes = cols * (one.format() == kernels::Format::bf16 ? 2 : 4);
    const std::int64_t most = std::max(std::min(unit_bytes / bytes, all / (units_a_thread * at::get_num_threads())), least * width);
    return {rows, width, (rows + most - 1) / most};
}

float* panel_scratch(std::int64_t count) {
    thread_local std::vector<float> memory;
    if (static_cast<std::int64_t>(memory.size()) < count) memory.resize(static_cast<std::size_t>(count));
    return memory.data();
}

template <class T>
void multiply_rows(const kernels::Weights& weights, std::int64_t begin, std::int64_t end, const kernels::Panels& panels, const T* bias, float* sums, T* out, std::int64_t stride) {
    const std::int64_t count = end - begin, width = panels.width(), step = count * width;
    float* const turned = sums + panels.count() * step;
    // Lines that will be written come nearer meanwhile.
    for (std::int64_t t = 0; t < panels.rows(); ++t)
        for (std::int64_t o = begin; o < end + 31; o += 32) __builtin_prefetch(out + t * stride + std::min(o, end - 1), 1, 2);
    kernels::multiply(weights, begin, end, panels, sums, step);
    for (std::int64_t p = 0; p < panels.count(); ++p) {
        const std::int64_t first = p * width, tokens = std::min(width, panels.rows() - first);
        if constexpr (std::is_same_v<T, std::uint16_t>)
            if (panels.format() == kernels::Format::bf16) {
                kernels::turn_to_bf16(sums + p * step, count, tokens, bias == nullptr ? bias : bias + begin, out + first * stride + begin, stride);
                continue;
            }
        kernels::turn(sums + p * step, width, count, tokens, turned, count);
        for (std::int64_t t = 0; t < tokens; ++t) store_row(turned + t * count, bias == nullptr ? bias : bias + begin, count, out + (first + t) * stride + begin);
    }
}

template void multiply_rows(const kernels::Weights&, std::int64_t, std::int64_t, const kernels::Panels&, const float*, float*, float*, std::int64_t);
template void multiply_rows(const kernels::Weights&, std::int64_t, std::int64_t, const kernels::Panels&, const std::uint16_t*, float*, std::uint16_t*, std::int64_t);

}  // namespace mixwright::ops
