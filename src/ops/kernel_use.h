// When our own CPU kernels stand in for libtorch's operations.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/InferenceMode.h>

namespace mixwright::ops {

/// Whether this is inference (not a pass of training that happens to need no gradients: its sums must be those of the other
/// passes, to the last bit), and the kernels take the device and dtype of `x` (bf16 or f32 on a CPU).
inline bool kernels_apply(const at::Tensor& x) {
    return c10::InferenceMode::is_enabled() && x.is_cpu() && (x.scalar_type() == at::kBFloat16 || x.scalar_type() == at::kFloat);
}

/// Whether libtorch multiplies matrices of this dtype on this CPU at the speed of its arithmetic: bf16 where there are instructions
/// for it, and at a tenth of the rate of f32 elsewhere; f32 unless the CPU has AVX512 and another maker than MKL, which takes 256 bits
/// there and half the rate.
bool has_fast_products(at::ScalarType dtype);

/// Whether our products of many rows (kernels/matmul.h) beat libtorch's in this dtype: where those are slow; and with bf16 unless the CPU multiplies
/// matrices (AMX): where it has dot products of bf16 the two are equally fast, and ours need no copies around them.
bool has_faster_panels(at::ScalarType dtype);

}  // namespace mixwright::ops
