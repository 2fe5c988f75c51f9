#include "ops/rms_norm.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "ops/fast_math.h"
#include "ops/kernel_use.h"

namespace mixwright::ops {
namespace {

template <class T>
MIXWRIGHT_INLINE void normalise_row(const T* x, const T* weight, std::int64_t size, float eps, T* out) {
    constexpr std::int64_t lanes = 32;  // partial sums, so that the loop vectorises
    float sums[lanes] = {};
    std::int64_t i = 0;
    for (; i + lanes <= size; i += lanes)
        for (std::int64_t lane = 0; lane < lanes; ++lane) sums[lane] += widen(x[i + lane]) * widen(x[i + lane]);
    float sum = 0;
    for (; i < size; ++i) sum += widen(x[i]) * widen(x[i]);
    for (const float part : sums) sum += part;
    const float factor = 1.0f / fast_sqrt(sum / static_cast<float>(size) + eps);
    for (i = 0; i < size; ++i) out[i] = narrow<T>(widen(x[i]) * factor * widen(weight[i]));
}

MIXWRIGHT_VECTORISED void rows_bf16(const std::uint16_t* x, const std::uint16_t* weight, std::int64_t rows, std::int64_t size, float eps, std::uint16_t* out) {
    for (std::int64_t n = 0; n < rows; ++n) normalise_row(x + n * size, weight, size, eps, out + n * size);
}
MIXWRIGHT_VECTORISED void rows_f32(const float* x, const float* weight, std::int64_t rows, std::int64_t size, float eps, float* out) {
    for (std::int64_t n = 0; n < rows; ++n) normalise_row(x + n * size, weight, size, eps, out + n * size);
}

// x contiguous [rows, size]
at::Tensor normalise(const at::Tensor& x, const at::Tensor& weight, double eps) {
    const std::int64_t size = x.size(-1), rows = x.numel() / size;
    at::Tensor out = at::empty_like(x);
    const void *from = x.const_data_ptr(), *factors = weight.const_data_ptr();
    void* to = out.mutable_data_ptr();
    const bool bf16 = x.scalar_type() == at::kBFloat16;
    at::parallel_for(0, rows, std::max<std::int64_t>(1, (1 << 15) / size), [&](std::int64_t begin, std::int64_t end) {
        if (bf16)
            rows_bf16(static_cast<const std::uint16_t*>(from) + begin * size, static_cast<const std::uint16_t*>(factors), end - begin, size,
                      static_cast<float>(eps), static_cast<std::uint16_t*>(to) + begin * size);
        else
            rows_f32(static_cast<const float*>(from) + begin * size, static_cast<const float*>(factors), end - begin, size, static_cast<float>(eps),
                     static_cast<float*>(to) + begin * size);
    });
    return out;
}

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
    if (kernels_apply(x) && weight.scalar_type() == x.scalar_type() && weight.is_contiguous() && x.numel() > 0) {
        if (x.is_contiguous()) return normalise(x, weight, eps);
        // Heads [B, H, L, d] are a view of [B, L, H, d].
        if (x.dim() == 4 && x.transpose(1, 2).is_contiguous()) return normalise(x.transpose(1, 2), weight, eps).transpose(1, 2);
    }
    return at::rms_norm(x, weight.sizes(), weight, eps);
}

}  // namespace mixwright::ops
