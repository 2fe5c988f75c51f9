// What happens in the MoE block of one layer on calibration text: its inputs, where the router sends them, and how much
// the result matters to the stream. It knows nothing of what the statistics are for.
//
// Shape legend: N tokens, D hidden size, E experts, K top_k.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <vector>

#include "model/decoder.h"

namespace mixwright::calibrate {

/// The tokens of one expert.
struct ExpertTokens {
    at::Tensor tokens;         // [n] int64, ascending
    at::Tensor gates;          // [n] f32
    std::int64_t num_fit = 0;  // the first so many are for fitting, the rest held out
};

struct RoutedLayer {
    at::Tensor inputs;         // [N, D], what the MoE block sees
    at::Tensor logits;         // [N, E]
    at::Tensor experts;        // [N, K] int64
    at::Tensor gates;          // [N, K] f32
    at::Tensor weights;        // [N] f32: what an error of the output counts, one over the size of the stream it is added to
    std::int64_t num_fit = 0;  // the first so many tokens are for fitting, the rest held out

    static constexpr auto parts() { return std::array{&RoutedLayer::inputs, &RoutedLayer::logits, &RoutedLayer::experts, &RoutedLayer::gates, &RoutedLayer::weights}; }
    std::int64_t num_tokens() const { return inputs.size(0); }
    ExpertTokens of(std::int64_t expert) const;
    /// Tokens per expert, [E].
    std::vector<std::int64_t> counts(std::int64_t num_experts) const;
};

/// The iterations of a chain as one: a row for each token in each of them, those for fitting of all iterations first. Its experts are the
/// same in each iteration, and what an error counts is taken to be the same.
RoutedLayer joined(std::vector<RoutedLayer> iterations);

/// What enters an expert's down projection, [n, F] f32.
at::Tensor expert_activations(const ops::Mlp& expert, const at::Tensor& x);

/// Taps that collect a RoutedLayer over batches, those for fitting first; of a chained layer, one for each iteration. One layer at a
/// time: take_iterations() empties them.
class RoutedLayerTaps final : public model::Taps {
public:
    void mlp_input(std::int64_t layer, const at::Tensor& hidden_BLD) override;
    void routing(std::int64_t layer, const ops::Routing& routing) override;
    /// The stream after the layer, of the batch that just passed, [B, L, D].
    void layer_output(const at::Tensor& hidden_BLD);

    std::vector<RoutedLayer> take_iterations(std::int64_t num_fit);

private:
    struct Batches {
        std::vector<at::Tensor> inputs, logits, experts, gates;
    };
    at::Tensor input_;                  // of the routing to come
    std::vector<Batches> iterations_;
    std::vector<at::Tensor> weights_;
};

}  // namespace mixwright::calibrate
