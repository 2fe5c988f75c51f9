#include "ops/mlp.h"

#include <ATen/ATen.h>

namespace mixwright::ops {
namespace {

using arch::Activation;

at::Tensor activate(const at::Tensor& x, Activation activation) {
    switch (activation) {
        case Activation::gelu: return at::gelu(x);
        case Activation::gelu_tanh: return at::gelu(x, "tanh");
        default: return at::silu(x);
    }
}

}  // namespace

at::Tensor gated_activation(const at::Tensor& gate, const at::Tensor& up, Activation activation, double swiglu_limit) {
    if (activation != Activation::clamped_swiglu) return activate(gate, activation) * up;
    constexpr double alpha = 1.702;  // where x sigmoid(alpha x) is close to gelu
    const at::Tensor g = gate.clamp_max(swiglu_limit), u = up.clamp(-swiglu_limit, swiglu_limit);
    return (u + 1) * (g * at::sigmoid(g * alpha));
}

at::Tensor Mlp::operator()(const at::Tensor& x) const {
    if (!gate.weight.defined()) return down(activate(up(x), activation));
    return down(gated_activation(gate(x), up(x), activation, swiglu_limit));
}

}  // namespace mixwright::ops
