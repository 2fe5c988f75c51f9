// Which experts a token goes to, and with what weight.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace mixwright::ops {

struct Routing {
    at::Tensor logits;   // [N, E], in the dtype of x
    at::Tensor weights;  // [N, K] f32
    at::Tensor experts;  // [N, K] int64, best first
};

/// Softmax over all experts in f32, then the top k, renormalised to sum one when `normalize`, times `scale`.
/// x [N, D], router [E, D]. Weights are differentiable, the choice is not.
Routing route(const at::Tensor& x, const at::Tensor& router, std::int64_t top_k, bool normalize, double scale);

}  // namespace mixwright::ops
