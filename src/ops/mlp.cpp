#include "ops/mlp.h"

#include <ATen/ATen.h>

namespace mixwright::ops {

at::Tensor Mlp::operator()(const at::Tensor& x) const { return down(at::silu(gate(x)) * up(x)); }

}  // namespace mixwright::ops
