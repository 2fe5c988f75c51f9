#include "ops/norm.h"

#include <ATen/ATen.h>

#include "ops/rms_norm.h"

namespace mixwright::ops {

using arch::NormForm;

at::Tensor norm(const at::Tensor& x, const Norm& weights, NormForm form, double eps) {
    switch (form) {
        case NormForm::rms: return rms_norm(x, weights.weight, eps);
        // In f32 throughout: 1 + w in bf16 would lose the low bits of w.
        case NormForm::rms_plus_one: return rms_norm(x.to(at::kFloat), weights.weight.to(at::kFloat) + 1, eps).to(x.scalar_type());
        case NormForm::layer:
        case NormForm::layer_without_bias: return at::layer_norm(x, weights.weight.sizes(), weights.weight, weights.bias, eps);
    }
    return {};
}

at::Tensor l2_norm(const at::Tensor& x, double eps) {
    const at::Tensor wide = x.to(at::kFloat);
    return (wide * at::rsqrt(wide.square().mean(-1, true) + eps)).to(x.scalar_type());
}

}  // namespace mixwright::ops
