// Matrix products at the speed of the CPU's arithmetic: libtorch's, or our own (ops/gemm.h) where those are slow (kernel_use.h), and for f32 in
// training. Our own sums are f32 and rounded once; what autograd keeps stays narrow.
#pragma once

#include <ATen/core/Tensor.h>

namespace mixwright::ops {

/// at::linear: x [..., D], weight [out, D], bias [out] or undefined -> [..., out] in the dtype of x. Differentiable.
at::Tensor linear_product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {});

/// at::mm: a [n, k], b [k, m] of one dtype -> [n, m]. Not differentiable.
at::Tensor matrix_product(const at::Tensor& a, const at::Tensor& b);
/// The same into `out`.
void matrix_product_out(at::Tensor& out, const at::Tensor& a, const at::Tensor& b);

}  // namespace mixwright::ops
