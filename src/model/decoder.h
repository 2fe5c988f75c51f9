// The model graph: one decoder for every architecture of the registry, driven by its ModelSpec. It computes layer by
// layer on weights it is handed, so the same code runs a resident model and one streamed from disk.
//
// Shape legend: B batch, L length of this call, D hidden size, V vocabulary, N = B * L tokens, E experts, K top_k.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "arch/architecture.h"
#include "model/kv_cache.h"
#include "model/weights.h"
#include "ops/rope.h"
#include "ops/router.h"

namespace mixwright::model {

/// Receives what flows through a layer. Every tensor is the one the graph goes on with: do not write to it.
class Taps {
public:
    virtual ~Taps() = default;
    /// The residual stream before the layer, [B, L, D].
    virtual void layer_input(std::int64_t layer, const at::Tensor& hidden_BLD);
    /// What the MLP or router sees: the post-attention norm of the stream, [B, L, D].
    virtual void mlp_input(std::int64_t layer, const at::Tensor& hidden_BLD);
    /// Where the N = B * L tokens of a MoE layer go.
    virtual void routing(std::int64_t layer, const ops::Routing& routing);
};

/// One call's positions and masks, shared by all layers.
struct Step {
    ops::RopeAngles angles;
    at::Tensor key_mask;        // bool [B, Lk], false for padding; undefined without padding
    KvCache* cache = nullptr;   // null: the call sees whole sequences
    Taps* taps = nullptr;
};

class Decoder {
public:
    explicit Decoder(arch::ModelSpec spec) : spec_(std::move(spec)) {}

    const arch::ModelSpec& spec() const noexcept { return spec_; }

    /// A step of `length` tokens after those in `cache` (from position 0 without one).
    Step step(std::int64_t length, at::Device device, KvCache* cache = nullptr, Taps* taps = nullptr) const;

    /// ids [B, L] int64 -> [B, L, D]. Error(mismatch) when an id is not in the vocabulary.
    at::Tensor embed(const ModelWeights& weights, const at::Tensor& ids) const;
    /// The stream after one layer.
    at::Tensor run_layer(const LayerWeights& weights, std::int64_t layer, const at::Tensor& hidden_BLD, const Step& step) const;
    /// The final norm, [.., D] -> [.., D].
    at::Tensor final_norm(const ModelWeights& weights, const at::Tensor& hidden) const;

    /// All layers and the final norm on resident weights: ids [B, L] -> [B, L, D]. Advances the cache of the step.
    at::Tensor run(const ModelWeights& weights, const at::Tensor& ids, const Step& step) const;
    /// [.., D] -> [.., V], in the dtype of the weights.
    at::Tensor logits(const ModelWeights& weights, const at::Tensor& hidden) const;

private:
    at::Tensor attend(const AttentionWeights& weights, std::int64_t layer, const at::Tensor& x_BLD, const Step& step) const;
    at::Tensor moe(const MoeWeights& weights, std::int64_t layer, const at::Tensor& x_BLD, Taps* taps) const;

    arch::ModelSpec spec_;
};

}  // namespace mixwright::model
