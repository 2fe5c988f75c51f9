// Scaled dot product attention over grouped key/value heads.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace mixwright::ops {

/// What a query may look at.
struct AttentionMask {
    bool causal = true;        // key position <= query position
    std::int64_t window = 0;   // > 0: and key position > query position - window
    std::int64_t chunk = 0;    // > 0: and key and query position lie in the same chunk of so many
    at::Tensor keys;           // bool [B, Lk] of keys that exist at all (padding is false), or undefined
};

/// What is done to the scores q k^T.
struct AttentionScores {
    double scale = 0;          // 0: 1/sqrt(d)
    double softcap = 0;        // c tanh(score / c); 0: none
    at::Tensor sinks;          // [H]: a logit beside the scores that takes attention and gives nothing, or undefined
};

/// q [B, H, Lq, d], k [B, Hkv, Lk, d] and v [B, Hkv, Lk, dv] with H a multiple of Hkv; the last query stands at the last
/// key. Returns [B, Lq, H * dv]. A query that may look at no key gets the mean of all
/// values, as in transformers. Differentiable.
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const AttentionMask& mask,
                     const AttentionScores& scores = {});

}  // namespace mixwright::ops
