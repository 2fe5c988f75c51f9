// One call of the graph: what all layers share, and who listens.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "model/kv_cache.h"
#include "ops/rope.h"
#include "ops/router.h"

namespace mixwright::model {

/// Receives what flows through a layer. Every tensor is the one the graph goes on with: do not write to it.
class Taps {
public:
    virtual ~Taps() = default;
    /// The residual stream before the layer, [B, L, D].
    virtual void layer_input(std::int64_t layer, const at::Tensor& hidden_BLD);
    /// What the MLP or router sees: the post-attention norm of the stream, [B, L, D]. In a chain, once for each iteration.
    virtual void mlp_input(std::int64_t layer, const at::Tensor& hidden_BLD);
    /// Where the N = B * L tokens of a MoE layer go. In a chain, once for each iteration (routing.iteration).
    virtual void routing(std::int64_t layer, const ops::Routing& routing);
};

/// The next tokens of one sequence among those of a call.
struct Segment {
    std::int64_t first = 0, length = 0;  // the call's tokens [first, first + length)
    KvCache* cache = nullptr;            // of one sequence; holds the tokens before
};

/// One call's positions and masks, shared by all layers.
struct Step {
    ops::RopeAngles angles;
    ops::RopeAngles local_angles;  // of layers with LayerSpec::local_rope; undefined without
    at::Tensor temperature;     // f32 [L, 1], on queries of layers that do not rotate; undefined without
    at::Tensor key_mask;        // bool [B, Lk], false for padding; undefined without padding
    KvCache* cache = nullptr;   // null: the call sees whole sequences
    std::vector<Segment> segments;  // of a call [1, N] whose tokens belong to several sequences; each has a cache of its own
    Taps* taps = nullptr;
    bool last_only = false;     // the caller reads the last token's stream alone, and the last layer computes no other (not for segments)

    /// Called once all layers have seen the `length` tokens of a call.
    void advance(std::int64_t length) const;
};

}  // namespace mixwright::model
