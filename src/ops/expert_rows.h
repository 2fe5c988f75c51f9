// What a layer of experts does to each row between its matrix products: SwiGLU and its gradient, and the weighted sum over
// the experts of a token. One pass over memory each on the CPU in f32 and bf16; plain tensor arithmetic elsewhere.
//
// Shape legend: M rows (a token for each expert it goes to, sorted by expert), N tokens, K experts a token, F width, D model.
#pragma once

#include <ATen/core/Tensor.h>

namespace mixwright::ops {

/// hidden [M, 2F], gates beside ups -> silu(gate) * up [M, F].
at::Tensor swiglu_rows(const at::Tensor& hidden_MH);

struct SwigluGradient {
    at::Tensor hidden;      // [M, 2F]
    at::Tensor weights;     // f32 (f64 for f64) [M]: sum of d_output * output
    at::Tensor weighted;    // [M, F]: weight * output, which the gradient of the down projection needs
};

/// Gradient of weights[m] * swiglu(hidden[m]) given d_output [M, F], that of its value. weights [M].
SwigluGradient swiglu_rows_gradient(const at::Tensor& hidden_MH, const at::Tensor& d_output_MF, const at::Tensor& weights_M);

/// out[n] = sum_k weights[n, k] * rows[positions[n, k]], summed in f32: rows [M, D], positions int64 [N, K], weights [N, K] or
/// undefined for ones. Returns [N, D] in the dtype of rows.
at::Tensor combine_rows(const at::Tensor& rows_MD, const at::Tensor& positions_NK, const at::Tensor& weights_NK);

}  // namespace mixwright::ops
