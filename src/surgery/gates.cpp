#include "surgery/gates.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "arch/open_tokenizer.h"
#include "calibrate/pooled_states.h"
#include "calibrate/prompts.h"
#include "calibrate/ridge_router.h"
#include "data/conversations.h"
#include "error.h"

namespace mixwright::surgery {
namespace {

std::vector<float> floats(const at::Tensor& tensor) {
    const at::Tensor flat = tensor.to(at::kCPU, at::kFloat).contiguous();
    return {flat.const_data_ptr<float>(), flat.const_data_ptr<float>() + flat.numel()};
}

// Standard normal as mergekit's `random`, or the initialisation of torch.nn.Linear as its `uniform_random`.
std::vector<LayerGates> random_gates(const BuildRecipe& recipe, const arch::ModelSpec& spec, std::uint64_t seed) {
    at::Generator generator = at::detail::createCPUGenerator(seed);
    const double bound = 1.0 / std::sqrt(static_cast<double>(spec.hidden_size));
    const auto draw = [&](std::int64_t rows) {
        at::Tensor values = at::empty({rows, spec.hidden_size}, at::kFloat);
        return floats(recipe.gate_mode == GateMode::random ? values.normal_(0, 1, generator)
                                                           : values.uniform_(-bound, bound, generator));
    };
    std::vector<LayerGates> gates;
    for (std::size_t i = 0; i < moe_layers(spec).size(); ++i) {
        LayerGates layer{.experts = draw(spec.num_experts)};
        if (!recipe.shared_experts.empty()) layer.shared = draw(1);
        gates.push_back(std::move(layer));
    }
    return gates;
}

constexpr double smallest_norm = 1e-8;  // mergekit's

at::Tensor normalised(const at::Tensor& rows) { return rows / rows.norm(2, {-1}, true).clamp_min(smallest_norm); }

// The prompts of every expert, shared ones last, as batches: positive, and negative where there are any.
struct PromptBatches {
    std::vector<model::StreamedBatch> batches;
    std::vector<std::size_t> positive;
    std::vector<std::optional<std::size_t>> negative;
};

PromptBatches prompt_batches(const BuildRecipe& recipe, const arch::OpenModel& base) {
    const tokenizer::Tokenizer tokenizer = arch::open_tokenizer(base.checkpoint.path.string());
    PromptBatches result;
    const auto add = [&](const std::vector<std::string>& prompts) {
        result.batches.push_back(calibrate::prompt_batch(tokenizer, prompts, base.spec.vocab_size, base.checkpoint.name));
        return result.batches.size() - 1;
    };
    for (const auto* list : {&recipe.experts, &recipe.shared_experts})
        for (const ExpertRecipe& expert : *list) {
            if (expert.positive_prompts.empty()) continue;  // a shared expert without a gate
            result.positive.push_back(add(expert.positive_prompts));
            result.negative.push_back(expert.negative_prompts.empty() ? std::nullopt : std::optional(add(expert.negative_prompts)));
        }
    return result;
}

// Sum of the embeddings of all tokens of a batch, scaled to length one: the same row for every layer.
at::Tensor embedding_direction(const at::Tensor& embedding, const model::StreamedBatch& batch, std::int64_t num_layers) {
    const at::Tensor ids = batch.key_mask.defined() ? batch.ids.masked_select(batch.key_mask) : batch.ids.flatten();
    return normalised(embedding.index_select(0, ids).to(at::kFloat).sum(0, true)).repeat({num_layers, 1});
}

// One [layers, D] of states a batch, by the recipe's mode.
std::vector<at::Tensor> states_of(const BuildRecipe& recipe, const arch::OpenModel& base, const std::vector<model::StreamedBatch>& batches,
                                  const model::Placement& placement) {
    if (recipe.gate_mode != GateMode::cheap_embed)
        return calibrate::pooled_states(
            base, batches, placement,
            recipe.gate_input == GateInput::router ? calibrate::StatePlace::mlp_input : calibrate::StatePlace::layer_input,
            recipe.gate_mode == GateMode::hidden_avg ? calibrate::Pooling::all_positions : calibrate::Pooling::last_token);
    const auto& info = base.tensors->at("model.embed_tokens.weight");
    const at::Tensor embedding = model::load_tensor(base, info.name, {model::scalar_type(info.dtype), at::kCPU});
    std::vector<at::Tensor> states;
    for (const auto& batch : batches) states.push_back(embedding_direction(embedding, batch, base.spec.num_layers));
    return states;
}

// mergekit's rows: the mean state of an expert's positive prompts, less that of its negative ones, of length one.
std::vector<LayerGates> prompt_gates(const BuildRecipe& recipe, const arch::OpenModel& base, const arch::ModelSpec& spec,
                                     const model::Placement& placement) {
    const PromptBatches prompts = prompt_batches(recipe, base);
    const std::vector<at::Tensor> states = states_of(recipe, base, prompts.batches, placement);
    std::vector<at::Tensor> directions;  // [layers, D] an expert
    for (std::size_t e = 0; e < prompts.positive.size(); ++e) {
        at::Tensor direction = states[prompts.positive[e]];
        if (prompts.negative[e]) direction = direction - states[*prompts.negative[e]];
        directions.push_back(normalised(direction));
    }
    const at::Tensor all = at::stack(directions, 1);  // [layers, experts and shared, D]

    std::vector<LayerGates> gates;
    for (const std::int64_t layer : moe_layers(spec)) {
        LayerGates one{.experts = floats(all[layer].narrow(0, 0, spec.num_experts))};
        // Several shared experts are one wide expert: it has one gate, their mean.
        if (all.size(1) > spec.num_experts)
            one.shared = floats(normalised(all[layer].narrow(0, spec.num_experts, all.size(1) - spec.num_experts).mean(0, true)));
        gates.push_back(std::move(one));
    }
    return gates;
}

constexpr std::int64_t sample_tokens = 512;  // of each domain, for the routing report

void add_ridge_gates(const BuildRecipe& recipe, const arch::OpenModel& base, const arch::ModelSpec& spec,
                     const model::Placement& placement, Gates& gates) {
    const tokenizer::Tokenizer tokenizer = arch::open_tokenizer(base.checkpoint.path.string());
    const data::ChatRenderer render_chat = data::chat_renderer_of(base.checkpoint.path.string());
    const calibrate::DomainSettings settings{.tokens = recipe.ridge.tokens_per_expert,
                                             .context = std::min(recipe.ridge.context, base.spec.max_positions),
                                             .held_out = recipe.ridge.held_out};
    std::vector<calibrate::DomainTokens> domains;
    for (std::size_t e = 0; e < recipe.experts.size(); ++e) {
        const ExpertRecipe& expert = recipe.experts[e];
        domains.push_back(calibrate::read_domain(tokenizer, render_chat, expert.data, expert.positive_prompts, settings, base.spec.vocab_size,
                                                 fmt::format("{}: expert {}", expert.place, e)));
        gates.samples.push_back(domains.back().sample(sample_tokens));
    }
    const auto layers = calibrate::fit_ridge_routers(base, domains, placement, recipe.gate_scale);
    double mean_accuracy = 0;
    io::Json by_layer = io::Json::array();
    const auto routed = moe_layers(spec);
    for (const std::int64_t layer : routed) {
        const calibrate::RidgeLayer& fit = layers[static_cast<std::size_t>(layer)];
        gates.layers.push_back({.experts = floats(fit.rows)});
        // A sigmoid of zero: each shared expert's gate stands at one half.
        if (!recipe.shared_experts.empty()) gates.layers.back().shared.assign(static_cast<std::size_t>(spec.hidden_size), 0.0f);
        mean_accuracy += fit.accuracy / static_cast<double>(routed.size());
        by_layer.push_back({{"layer", layer}, {"lambda", fit.lambda}, {"scale", fit.scale}, {"accuracy", fit.accuracy},
                            {"cross_entropy", fit.cross_entropy}});
    }
    std::int64_t held_out = 0;
    for (const auto& domain : domains) held_out += domain.num_held_out;
    gates.report = {{"accuracy", mean_accuracy}, {"held_out_tokens", held_out}, {"layers", std::move(by_layer)}};
}

// Prompts whose routing is worth a look when the gates themselves need none.
void add_prompt_samples(const BuildRecipe& recipe, const arch::OpenModel& base, Gates& gates) {
    const auto without = [](const ExpertRecipe& expert) { return expert.positive_prompts.empty(); };
    if (std::ranges::any_of(recipe.experts, without)) return;
    const tokenizer::Tokenizer tokenizer = arch::open_tokenizer(base.checkpoint.path.string());
    for (const ExpertRecipe& expert : recipe.experts)
        gates.samples.push_back({calibrate::prompt_batch(tokenizer, expert.positive_prompts, base.spec.vocab_size, base.checkpoint.name)});
}

}  // namespace

Gates make_gates(const BuildRecipe& recipe, const SourceModels& sources, const arch::ModelSpec& spec, const GateOptions& options) {
    const arch::OpenModel& base = sources.base->open;
    Gates gates;
    if (recipe.gate_mode == GateMode::ridge) {
        add_ridge_gates(recipe, base, spec, options.placement, gates);
        return gates;
    }
    gates.layers = needs_prompts(recipe.gate_mode) ? prompt_gates(recipe, base, spec, options.placement)
                                                   : random_gates(recipe, spec, options.seed);
    const auto scale = static_cast<float>(recipe.gate_scale.value_or(1.0));
    for (LayerGates& layer : gates.layers)
        for (float& value : layer.experts) value *= scale;
    add_prompt_samples(recipe, base, gates);
    return gates;
}

std::vector<double> condition_numbers(const std::vector<LayerGates>& gates, std::int64_t hidden_size) {
    std::vector<double> numbers;
    for (const LayerGates& layer : gates) {
        const auto rows = static_cast<std::int64_t>(layer.experts.size()) / hidden_size;
        const at::Tensor matrix = at::from_blob(const_cast<float*>(layer.experts.data()), {rows, hidden_size}).to(at::kDouble);
        numbers.push_back(at::linalg_cond(matrix).item<double>());
    }
    return numbers;
}

}  // namespace mixwright::surgery
