// The gated MLP of Llama and its kin: down(silu(gate(x)) * up(x)) (SwiGLU, arXiv 2002.05202).
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/linear.h"

namespace mixwright::ops {

struct Mlp {
    Linear gate, up;   // [F, D]
    Linear down;       // [D, F]

    /// x [..., D] -> [..., D]. Differentiable.
    at::Tensor operator()(const at::Tensor& x) const;
};

}  // namespace mixwright::ops
