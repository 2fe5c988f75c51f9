#include "ops/linear.h"

#include <ATen/ATen.h>

namespace mixwright::ops {

at::Tensor Linear::operator()(const at::Tensor& x) const {
    at::Tensor y = at::linear(x, weight, bias);
    if (lora_a.defined()) y = y + at::linear(at::linear(x, lora_a), lora_b) * lora_scale;
    return y;
}

}  // namespace mixwright::ops
