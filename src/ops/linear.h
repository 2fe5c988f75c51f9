// y = x W^T + b, with an optional low-rank update beside it.
#pragma once

#include <ATen/core/Tensor.h>

namespace mixwright::ops {

struct Linear {
    at::Tensor weight;            // [out, in]
    at::Tensor bias;              // [out], or undefined
    at::Tensor lora_a, lora_b;    // [r, in] and [out, r], or undefined
    double lora_scale = 1.0;

    /// x [..., in] -> [..., out], in the dtype of x, which must be that of the weight. Differentiable.
    at::Tensor operator()(const at::Tensor& x) const;
};

}  // namespace mixwright::ops
