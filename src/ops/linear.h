// y = x W^T + b, with an optional low-rank update beside it.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>

namespace mixwright::ops {

struct Linear {
    at::Tensor weight;            // [out, in]; with scales: int8 [out, in], or packed int4 [out, row bytes] (kernels/matvec.h)
    at::Tensor bias;              // [out], or undefined
    at::Tensor lora_a, lora_b;    // [r, in] and [out, r], or undefined
    double lora_scale = 1.0;
    at::Tensor scales;            // of quantised weights: int8 f32 [out]; int4 bf16 [out, 2, groups]. Else undefined

    /// x [..., in] -> [..., out], in the dtype of x, which must be that of the weight. Differentiable unless quantised.
    at::Tensor operator()(const at::Tensor& x) const;

    /// Outputs [first, first + count) alone: views of the same weights.
    Linear rows(std::int64_t first, std::int64_t count) const;
};

/// Three maps of one input, as queries, keys and values are: one pass over the weights where that is faster.
std::array<at::Tensor, 3> project(const Linear& a, const Linear& b, const Linear& c, const at::Tensor& x);

}  // namespace mixwright::ops
