#include "ops/rope_kernel.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "ops/fast_math.h"
#include "ops/kernel_use.h"

namespace mixwright::ops {
namespace {

// `heads` vectors of one position, `x_step` and `out_step` apart.
template <class T>
MIXWRIGHT_INLINE void rotate_heads(const T* x, std::int64_t x_step, std::int64_t heads, std::int64_t rotating, std::int64_t dim, const float* cos,
                                   const float* sin, T* out, std::int64_t out_step) {
    const std::int64_t half = rotating / 2;
    for (std::int64_t h = 0; h < heads; ++h, x += x_step, out += out_step) {
        for (std::int64_t i = 0; i < half; ++i) {
            const float low = widen(x[i]), high = widen(x[half + i]);
            out[i] = narrow<T>(low * cos[i] - high * sin[i]);
            out[half + i] = narrow<T>(high * cos[half + i] + low * sin[half + i]);
        }
        for (std::int64_t i = rotating; i < dim; ++i) out[i] = x[i];
    }
}

MIXWRIGHT_VECTORISED void rotate_bf16(const std::uint16_t* x, std::int64_t x_step, std::int64_t heads, std::int64_t rotating, std::int64_t dim,
                                      const float* cos, const float* sin, std::uint16_t* out, std::int64_t out_step) {
    rotate_heads(x, x_step, heads, rotating, dim, cos, sin, out, out_step);
}
MIXWRIGHT_VECTORISED void rotate_f32(const float* x, std::int64_t x_step, std::int64_t heads, std::int64_t rotating, std::int64_t dim, const float* cos,
                                     const float* sin, float* out, std::int64_t out_step) {
    rotate_heads(x, x_step, heads, rotating, dim, cos, sin, out, out_step);
}

}  // namespace

bool rope_kernel_applies(const at::Tensor& x) { return kernels_apply(x) && x.dim() == 4 && x.stride(3) == 1 && x.numel() > 0; }

at::Tensor rotate_with_kernel(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
    const std::int64_t batch = x.size(0), heads = x.size(1), length = x.size(2), dim = x.size(3), rotating = cos.size(-1);
    const at::Tensor out = at::empty({batch, length, heads, dim}, x.options()), cosines = cos.contiguous(), sines = sin.contiguous();
    const bool per_sequence = cos.dim() == 3, bf16 = x.scalar_type() == at::kBFloat16;
    const auto *c = cosines.const_data_ptr<float>(), *s = sines.const_data_ptr<float>();
    const void* from = x.const_data_ptr();
    void* to = out.mutable_data_ptr();
    at::parallel_for(0, batch * length, std::max<std::int64_t>(1, (1 << 14) / (heads * dim)), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t n = begin; n < end; ++n) {
            const std::int64_t b = n / length, l = n % length, angle = (per_sequence ? n : l) * rotating, at = b * x.stride(0) + l * x.stride(2);
            if (bf16)
                rotate_bf16(static_cast<const std::uint16_t*>(from) + at, x.stride(1), heads, rotating, dim, c + angle, s + angle,
                            static_cast<std::uint16_t*>(to) + n * heads * dim, dim);
            else
                rotate_f32(static_cast<const float*>(from) + at, x.stride(1), heads, rotating, dim, c + angle, s + angle,
                           static_cast<float*>(to) + n * heads * dim, dim);
        }
    });
    return out.transpose(1, 2);
}

}  // namespace mixwright::ops
