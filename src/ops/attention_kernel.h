// Attention through our own kernel, where nothing asks for gradients: grouped heads share their keys and values, and a
// cache is read where it lies.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/attention.h"

namespace mixwright::ops {

/// Whether attend_with_kernel takes these: on a CPU, without gradients, all bf16 or all f32, the last dimension contiguous.
bool attention_kernel_applies(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

/// q [B, H, Lq, d], k [B, Hkv, Lk, d], v [B, Hkv, Lk, dv] -> [B, Lq, H * dv]. `form` says how the scores are shaped and
/// masked; its sizes and pointers are filled in from the tensors. sinks [H] and key_mask bool [B, Lk], or undefined.
at::Tensor attend_with_kernel(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, kernels::Attention form, const at::Tensor& sinks,
                              const at::Tensor& key_mask);

}  // namespace mixwright::ops
