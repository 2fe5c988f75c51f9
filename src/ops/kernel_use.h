// When our own CPU kernels stand in for libtorch's operations.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>

namespace mixwright::ops {

/// Whether nothing asks for gradients of work on `x`, and the kernels take its device and dtype (bf16 or f32 on a CPU).
inline bool kernels_apply(const at::Tensor& x) {
    return !c10::GradMode::is_enabled() && x.is_cpu() && (x.scalar_type() == at::kBFloat16 || x.scalar_type() == at::kFloat);
}

}  // namespace mixwright::ops
