#include "model/decoder.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "error.h"
#include "model/self_attention.h"
#include "ops/expert_dispatch.h"

namespace mixwright::model {

void Taps::layer_input(std::int64_t, const at::Tensor&) {}
void Taps::mlp_input(std::int64_t, const at::Tensor&) {}
void Taps::routing(std::int64_t, const ops::Routing&) {}

void Step::advance(std::int64_t length) const {
    if (cache != nullptr) cache->advance(length);
    for (const Segment& segment : segments) segment.cache->advance(segment.length);
}

Step Decoder::positions(std::int64_t first, std::int64_t length, at::Device device) const {
    const at::Tensor positions = at::arange(first, first + length, at::TensorOptions(at::kLong).device(device));
    const auto angles = [&](const arch::Rope& rope) { return ops::rope_angles(rope, spec_.rope_head_dim(), spec_.max_positions, positions, first + length); };
    Step step{.angles = angles(spec_.rope)};
    if (spec_.local_rope) step.local_angles = angles(*spec_.local_rope);
    if (spec_.temperature_scale > 0)
        step.temperature = (at::log1p(at::floor((positions.to(at::kFloat) + 1) / spec_.temperature_floor)) * spec_.temperature_scale + 1).unsqueeze(-1);
    return step;
}

Step Decoder::step(std::int64_t length, at::Device device, KvCache* cache, Taps* taps) const {
    Step step = positions(cache != nullptr ? cache->length() : 0, length, device);
    step.cache = cache;
    step.taps = taps;
    return step;
}

Step Decoder::step(std::vector<Segment> segments, at::Device device) const {
    std::vector<Step> parts;
    for (const Segment& segment : segments) parts.push_back(positions(segment.cache->length(), segment.length, device));
    const auto join = [&](const auto& part_of) {
        std::vector<at::Tensor> pieces;
        for (const Step& part : parts) pieces.push_back(part_of(part));
        return pieces.front().defined() ? at::cat(pieces) : at::Tensor();
    };
    const auto join_angles = [&](ops::RopeAngles Step::* angles) {
        return ops::RopeAngles{join([&](const Step& s) { return (s.*angles).cos; }), join([&](const Step& s) { return (s.*angles).sin; }), (parts.front().*angles).interleaved};
    };
    Step step{.angles = join_angles(&Step::angles), .local_angles = join_angles(&Step::local_angles), .temperature = join([](const Step& s) { return s.temperature; })};
    step.segments = std::move(segments);
    return step;
}

at::Tensor Decoder::embed(const ModelWeights& weights, const at::Tensor& ids, std::optional<at::ScalarType> dtype) const {
    // The embedding reads unchecked memory in release builds of libtorch's fast paths: look before.
    if (ids.numel() > 0) {
        const auto lowest = ids.min().item<std::int64_t>(), highest = ids.max().item<std::int64_t>();
        if (lowest < 0 || highest >= spec_.vocab_size)
            throw Error(ErrorCode::mismatch, fmt::format("token id {} is not in the vocabulary (0 to {})",
                                                         lowest < 0 ? lowest : highest, spec_.vocab_size - 1),
                        "the tokenizer may belong to another model");
    }
    const at::Tensor embedded = at::embedding(weights.embedding, ids).to(dtype.value_or(weights.embedding.scalar_type()));
    if (spec_.embedding_multiplier == 1.0) return embedded;
    // The multiplier is rounded to the dtype first, as the models were trained.
    return embedded * at::scalar_tensor(spec_.embedding_multiplier, embedded.options());
}

at::Tensor Decoder::norm(const at::Tensor& x, const ops::Norm& weights) const {
    return ops::norm(x, weights, spec_.architecture->norm, spec_.rms_norm_eps);
}

at::Tensor Decoder::experts(const MoeWeights& weights, const at::Tensor& x_ND, const ops::Routing& routing) const {
    const auto run = [&](const at::Tensor& x, const ops::Routing& r) {
        return weights.stack.defined() ? ops::grouped_experts(x, r, weights.stack) : ops::dispatch_to_experts(x, r, weights.experts);
    };
    if (!spec_.architecture->moe->weigh_input) return run(x_ND, routing);
    // Each of a token's k experts sees an input of its own, so each becomes a token with one expert.
    const std::int64_t num_tokens = x_ND.size(0), top_k = routing.experts.size(1);
    const at::Tensor weighed = (x_ND.unsqueeze(1) * routing.weights.unsqueeze(-1).to(x_ND.scalar_type())).flatten(0, 1);
    const ops::Routing single{.weights = at::ones({num_tokens * top_k, 1}, routing.weights.options()), .experts = routing.experts.reshape({-1, 1})};
    return run(weighed, single).view({num_tokens, top_k, -1}).sum(1);
}

at::Tensor Decoder::moe(const MoeWeights& weights, std::int64_t layer, std::int64_t iteration, const at::Tensor& x_BLD, Taps* taps) const {
    const at::Tensor x_ND = x_BLD.reshape({-1, spec_.hidden_size});
    const std::size_t router = weights.routers.size() > 1 ? static_cast<std::size_t>(iteration) : 0;
    ops::Routing routing = ops::route(x_ND, weights.routers[router], ops::router_form(spec_));
    routing.iteration = iteration;
    if (taps != nullptr) {
        if (iteration > 0) taps->mlp_input(layer, x_BLD);  // run_layer() showed the first
        taps->routing(layer, routing);
    }
    at::Tensor y_ND = experts(weights, x_ND, routing);
    if (weights.shared.down.weight.defined()) {
        at::Tensor shared = weights.shared(x_ND);
        if (weights.shared_gate.defined()) shared = at::sigmoid(at::linear(x_ND, weights.shared_gate)) * shared;
        y_ND = y_ND + shared;
    }
    return y_ND.view(x_BLD.sizes());
}

at::Tensor Decoder::chain(const MoeWeights& weights, std::int64_t layer, const at::Tensor& x_BLD, Taps* taps) const {
    const arch::Chain& form = *spec_.layers[static_cast<std::size_t>(layer)].chain;
    at::Tensor x = x_BLD;
    for (std::int64_t t = 0; t < form.iterations; ++t) {
        at::Tensor y = moe(weights, layer, t, x, taps);
        if (form.inner_residual) y = x + y;
        if (form.initial_residual) y = x_BLD + y;
        x = std::move(y);
    }
    return x;
}

at::Tensor Decoder::chain_on_stream(const LayerWeights& weights, std::int64_t layer, const at::Tensor& stream, const at::Tensor& normed, Taps* taps) const {
    const arch::Chain& form = *spec_.layers[static_cast<std::size_t>(layer)].chain;
    at::Tensor x = stream;
    for (std::int64_t t = 0; t < form.iterations; ++t) {
        const at::Tensor increment = moe(weights.moe, layer, t, t == 0 ? normed : norm(x, weights.post_attention_norm), taps);
        x = rejoin(x, form.scale == 1.0 ? increment : increment * form.scale, weights.mlp_output_norm);
    }
    return x;
}

at::Tensor Decoder::rejoin(const at::Tensor& stream, const at::Tensor& branch, const ops::Norm& after) const {
    const at::Tensor normed = after.weight.defined() ? norm(branch, after) : branch;
    return stream + (spec_.residual_multiplier == 1.0 ? normed : normed * spec_.residual_multiplier);
}

at::Tensor Decoder::run_layer(const LayerWeights& weights, std::int64_t layer, const at::Tensor& hidden_BLD, const Step& step) const {
    const arch::LayerSpec& form = spec_.layers[static_cast<std::size_t>(layer)];
    const auto normed = [&](const at::Tensor& x, const ops::Norm& before) { return before.weight.defined() ? norm(x, before) : x; };
    if (step.taps != nullptr) step.taps->layer_input(layer, hidden_BLD);
    const std::int64_t length = hidden_BLD.size(1), asked = step.last_only && layer + 1 == spec_.num_layers ? 1 : length;
    const at::Tensor attended = rejoin(last_of(hidden_BLD, 1, asked),
                                       self_attention(spec_, weights.attention, layer, normed(hidden_BLD, weights.input_norm), asked, step), weights.attention_output_norm);

    const at::Tensor x = normed(attended, weights.post_attention_norm);
    if (step.taps != nullptr) step.taps->mlp_input(layer, x);
    if (form.chain && form.chain->on_stream) return chain_on_stream(weights, layer, attended, x, step.taps);
    if (form.chain) {
        const at::Tensor y = chain(weights.moe, layer, x, step.taps);
        if (form.chain->outer_residual) return rejoin(attended, y, weights.mlp_output_norm);
        return weights.mlp_output_norm.weight.defined() ? norm(y, weights.mlp_output_norm) : y;
    }
    return rejoin(attended, form.kind == arch::LayerKind::moe ? moe(weights.moe, layer, 0, x, step.taps) : weights.mlp(x), weights.mlp_output_norm);
}

at::Tensor Decoder::final_norm(const ModelWeights& weights, const at::Tensor& hidden) const {
    return norm(hidden, weights.final_norm);
}

at::Tensor Decoder::run(const ModelWeights& weights, const at::Tensor& ids, const Step& step) const {
    at::Tensor hidden = embed(weights, ids);
    for (std::int64_t layer = 0; layer < spec_.num_layers; ++layer)
        hidden = run_layer(weights.layers[static_cast<std::size_t>(layer)], layer, hidden, step);
    step.advance(ids.size(1));
    return final_norm(weights, hidden);
}

at::Tensor Decoder::logits(const ModelWeights& weights, const at::Tensor& hidden) const {
    at::Tensor logits = weights.quantized_head.weight.defined() ? weights.quantized_head(hidden)
                                                                : ops::Linear{weights.lm_head, weights.lm_head_bias}(hidden);
    if (spec_.logits_divisor != 1.0) logits = logits / spec_.logits_divisor;
    if (spec_.logit_softcap > 0) logits = at::tanh(logits / spec_.logit_softcap) * spec_.logit_softcap;
    return logits;
}

}  // namespace mixwright::model
