// Rotary position embeddings (arXiv 2104.09864) and their length scalings, in the half-split form of Hugging Face models.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "arch/architecture.h"

namespace mixwright::ops {

/// cos and sin of the rotation angles, f32 [L, d] or [B, L, d], scaled by the attention factor of yarn and longrope.
struct RopeAngles {
    at::Tensor cos, sin;
    bool interleaved = false;  // pairs of x are neighbours (2j, 2j + 1), not halves
};

/// Angles for integer `positions` [L] or [B, L]. `sequence_length` is the longest length in play: dynamic and longrope
/// scaling depend on it. Sources: linear and dynamic NTK as in transformers; llama3 (Llama 3.1 release); yarn
/// (arXiv 2309.00071); longrope (arXiv 2402.13753).
RopeAngles rope_angles(const arch::Rope& rope, std::int64_t head_dim, std::int64_t max_positions, const at::Tensor& positions,
                       std::int64_t sequence_length);

/// Rotates x [B, H, L, d]; only the first cos.size(-1) of d rotate. Interleaved pairs come out as halves: scores do not
/// see the order as long as q and k share it. Differentiable.
at::Tensor apply_rope(const at::Tensor& x, const RopeAngles& angles);

}  // namespace mixwright::ops
