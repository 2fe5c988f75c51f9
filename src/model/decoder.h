// The model graph: one decoder for every architecture of the registry, driven by its ModelSpec. It computes layer by
// layer on weights it is handed, so the same code runs a resident model and one streamed from disk.
//
// Shape legend: B batch, L length of this call, D hidden size, V vocabulary, N = B * L tokens, E experts, K top_k.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "arch/architecture.h"
#include "model/step.h"
#include "model/weights.h"

namespace mixwright::model {

class Decoder {
public:
    explicit Decoder(arch::ModelSpec spec) : spec_(std::move(spec)) {}

    const arch::ModelSpec& spec() const noexcept { return spec_; }

    /// A step of `length` tokens after those in `cache` (from position 0 without one).
    Step step(std::int64_t length, at::Device device, KvCache* cache = nullptr, Taps* taps = nullptr) const;
    /// A step of several sequences, of any length each: the call is [1, N] with their next tokens one behind the other, in the
    /// order of `segments`. Nothing is padded: a token costs what it costs alone, and the weights are read once for all.
    Step step(std::vector<Segment> segments, at::Device device) const;

    /// ids [B, L] int64 -> [B, L, D] in `dtype`, that of the weights when undefined; scaled where the architecture says so.
    /// Error(mismatch) when an id is not in the vocabulary.
    at::Tensor embed(const ModelWeights& weights, const at::Tensor& ids, std::optional<at::ScalarType> dtype = std::nullopt) const;
    /// The stream after one layer: [B, L, D], or [B, 1, D] after the last one of a step that is last_only.
    at::Tensor run_layer(const LayerWeights& weights, std::int64_t layer, const at::Tensor& hidden_BLD, const Step& step) const;
    /// The final norm, [.., D] -> [.., D].
    at::Tensor final_norm(const ModelWeights& weights, const at::Tensor& hidden) const;

    /// All layers and the final norm on resident weights: ids [B, L] -> [B, L, D], [B, 1, D] when the step is last_only. Advances its cache.
    at::Tensor run(const ModelWeights& weights, const at::Tensor& ids, const Step& step) const;
    /// [.., D] -> [.., V], in the dtype of the weights: divided and soft-capped where the architecture says so.
    at::Tensor logits(const ModelWeights& weights, const at::Tensor& hidden) const;

private:
    /// Positions [first, first + length) of a sequence that then has `first + length` tokens.
    Step positions(std::int64_t first, std::int64_t length, at::Device device) const;
    at::Tensor norm(const at::Tensor& x, const ops::Norm& weights) const;
    at::Tensor experts(const MoeWeights& weights, const at::Tensor& x_ND, const ops::Routing& routing) const;
    at::Tensor moe(const MoeWeights& weights, std::int64_t layer, std::int64_t iteration, const at::Tensor& x_BLD, Taps* taps) const;
    at::Tensor chain_on_stream(const LayerWeights& weights, std::int64_t layer, const at::Tensor& stream, const at::Tensor& normed, Taps* taps) const;
    at::Tensor chain(const MoeWeights& weights, std::int64_t layer, const at::Tensor& x_BLD, Taps* taps) const;
    at::Tensor rejoin(const at::Tensor& stream, const at::Tensor& branch, const ops::Norm& after) const;

    arch::ModelSpec spec_;
};

}  // namespace mixwright::model
