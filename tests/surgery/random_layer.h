// A small MoE layer of random weights and random routing, for tests of what zip makes of one.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "surgery/zip_typed.h"

namespace mixwright::surgery {

inline constexpr std::int64_t experts = 6, width = 24, hidden = 16, tokens = 1200, top_k = 2;

// A layer of random experts and random routing. With `twins` expert 2i + 1 is expert 2i with its neurons in another order and a
// down projection of its own, and the two run together.
struct Layer {
    arch::ModelSpec spec;
    model::MoeWeights weights;
    calibrate::RoutedLayer routed;

    explicit Layer(bool twins, std::uint64_t seed = 1) {
        spec = arch::parse_config({{"model_type", "qwen3_moe"}, {"vocab_size", 32}, {"hidden_size", hidden}, {"num_hidden_layers", 1}, {"num_attention_heads", 2},
                                   {"head_dim", 8}, {"intermediate_size", 32}, {"num_experts", experts}, {"num_experts_per_tok", top_k}, {"moe_intermediate_size", width}},
                                  "config.json");
        at::manual_seed(seed);
        weights.routers.push_back({.weight = at::randn({experts, hidden})});
        // Neurons of very different importance.
        const at::Tensor size = at::logspace(0, -2, width).unsqueeze(0);
        for (std::int64_t e = 0; e < experts; ++e) {
            ops::Mlp expert;
            expert.gate.weight = at::randn({width, hidden});
            expert.up.weight = at::randn({width, hidden});
            expert.down.weight = at::randn({hidden, width}) * size;
            if (twins && e % 2 == 1) {
                const ops::Mlp& other = weights.experts.back();
                const at::Tensor order = at::randperm(width);
                expert.gate.weight = other.gate.weight.index_select(0, order);
                expert.up.weight = other.up.weight.index_select(0, order);
                expert.down.weight = expert.down.weight.index_select(1, order);
            }
            weights.experts.push_back(expert);
        }
        routed.inputs = at::randn({tokens, hidden});
        const at::Tensor first = at::randint(experts, {tokens}, at::kLong);
        const at::Tensor second = twins ? first.bitwise_xor(1) : (first + at::randint(1, experts, {tokens}, at::kLong)) % experts;
        routed.experts = at::stack({first, second}, 1);
        routed.gates = at::rand({tokens, top_k}) + 0.2;
        routed.logits = at::randn({tokens, experts});
        routed.weights = at::ones({tokens});
        routed.num_fit = 1000;
    }

    MadeBlock make(ZipMethod method, double keep, ZipFormat format = ZipFormat::zipped, bool refit = true) const {
        const ZipOptions options{.method = method, .format = format, .keep = keep, .refit = refit};
        arch::ModelSpec result = spec;
        if (format == ZipFormat::standard) result.expert_width = static_cast<std::int64_t>(keep * width);
        const ZipContext context{spec, result, weights, routed, options, 0};
        return format == ZipFormat::zipped ? typed_block(context) : typed_uniform_block(context);
    }

    // Squared error of the experts' own gated outputs, all tokens.
    double error(const model::MoeWeights& made) const {
        double sum = 0;
        for (std::int64_t e = 0; e < experts; ++e) sum += error(made.experts[static_cast<std::size_t>(e)], e);
        return sum;
    }
    double error(const ops::Mlp& made, std::int64_t e) const {
        const calibrate::ExpertTokens reach = routed.of(e);
        const at::Tensor x = routed.inputs.index_select(0, reach.tokens), gates = reach.gates.unsqueeze(1);
        const auto output = [&](const ops::Mlp& expert) { return at::linear(expert_activations(expert, x) * gates, expert.down.weight); };
        return (output(weights.experts[static_cast<std::size_t>(e)]) - output(made)).square().sum().item<double>();
    }
    // Which neuron of the original each row is, -1 for one of another expert.
    std::vector<std::int64_t> origin(const ops::Mlp& made, std::int64_t e) const {
        const at::Tensor own = weights.experts[static_cast<std::size_t>(e)].gate.weight;
        std::vector<std::int64_t> rows;
        for (std::int64_t r = 0; r < made.gate.weight.size(0); ++r) {
            const at::Tensor same = own.eq(made.gate.weight[r]).all(1).nonzero();
            rows.push_back(same.size(0) > 0 ? same[0][0].item<std::int64_t>() : -1);
        }
        return rows;
    }
};

}  // namespace mixwright::surgery
