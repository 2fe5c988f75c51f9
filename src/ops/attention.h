// Scaled dot product attention over grouped key/value heads.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace mixwright::ops {

/// What a query may look at.
struct AttentionMask {
    bool causal = true;        // key position <= query position
    std::int64_t window = 0;   // > 0: and key position > query position - window
    at::Tensor keys;           // bool [B, Lk] of keys that exist at all (padding is false), or undefined
};

/// q [B, H, Lq, d], k and v [B, Hkv, Lk, d] with H a multiple of Hkv; the last query stands at the last key.
/// Returns [B, Lq, H * d]. Scores are scaled by 1/sqrt(d). A query that may look at no key gets the mean of all
/// values, as in transformers. Differentiable.
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const AttentionMask& mask);

}  // namespace mixwright::ops
