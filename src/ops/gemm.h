// Our own matrix products (kernels/gemm.h) on tensors, shared out among threads.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "kernels/gemm.h"

namespace mixwright::ops {

/// Whether they take factors like `x`: f32 on a CPU, and bf16 where libtorch's products of it are slow.
bool gemm_applies(const at::Tensor& x);

/// A matrix [m, n], or a transposed view of one, as a factor. Its rows or its columns lie in one piece.
kernels::Factor factor_of(const at::Tensor& matrix);
/// Where a product goes; its rows lie in one piece.
kernels::Product product_of(const at::Tensor& matrix);

/// c [m, n] = a [m, k] b [k, n].
struct GemmCall {
    kernels::Factor a, b;
    std::int64_t m, k, n;
    kernels::Product c;
};

/// Runs them all, in pieces of rows or columns. The results do not depend on the number of threads.
void run_gemms(std::span<const GemmCall> calls);

}  // namespace mixwright::ops
