// The MLPs of decoders: gated, down(act(gate(x)) * up(x)) (arXiv 2002.05202), and plain, down(act(up(x))).
#pragma once

#include <ATen/core/Tensor.h>

#include "arch/architecture.h"
#include "ops/linear.h"

namespace mixwright::ops {

struct Mlp {
    Linear gate, up;   // [F, D]; a plain MLP has no gate
    Linear down;       // [D, F]
    arch::Activation activation = arch::Activation::silu;
    double swiglu_limit = 7.0;   // of Activation::clamped_swiglu

    /// x [..., D] -> [..., D]. Differentiable.
    at::Tensor operator()(const at::Tensor& x) const;
};

/// What enters down: act(gate) * up, or the clamped form of gpt-oss. gate and up [..., F].
at::Tensor gated_activation(const at::Tensor& gate, const at::Tensor& up, arch::Activation activation, double swiglu_limit);

}  // namespace mixwright::ops
