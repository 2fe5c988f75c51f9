#include "surgery/self_test.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>

#include "error.h"
#include "model/layer_stream.h"
#include "surgery/planned_tensors.h"

namespace mixwright::surgery {
namespace {

constexpr double tolerance = 1e-3;  // of the largest logit: far above f32 rounding, far below any lost part
constexpr std::uint64_t seed = 20;

// The recipe with the base for every expert, scaled so that routed and shared experts add up to one MLP.
BuildRecipe base_only(BuildRecipe recipe, const MoeTarget& target) {
    const bool shared = !recipe.shared_experts.empty();
    const bool gated = target.architecture().moe->shared_gate == arch::SharedGate::sigmoid;
    for (ExpertRecipe& expert : recipe.experts) expert = {.source = recipe.base, .residual_scale = shared ? 0.5 : 1.0};
    // A gate of zeros lets one half through by itself.
    const double share = (gated ? 1.0 : 0.5) / static_cast<double>(std::max<std::size_t>(1, recipe.shared_experts.size()));
    for (ExpertRecipe& expert : recipe.shared_experts) expert = {.source = recipe.base, .residual_scale = share};
    recipe.dtype = Dtype::f32;
    return recipe;
}

SourceModels base_only(const SourceModels& sources) {
    return {.all = {sources.base},
            .base = sources.base,
            .experts = std::vector(sources.experts.size(), sources.base),
            .shared_experts = std::vector(sources.shared_experts.size(), sources.base)};
}

std::vector<LayerGates> arbitrary_gates(const arch::ModelSpec& spec, bool shared) {
    at::Generator generator = at::detail::createCPUGenerator(seed);
    std::vector<LayerGates> gates(moe_layers(spec).size());
    for (LayerGates& layer : gates) {
        const at::Tensor rows = at::empty({spec.num_experts * spec.hidden_size}, at::kFloat).normal_(0, 1, generator);
        layer.experts.assign(rows.const_data_ptr<float>(), rows.const_data_ptr<float>() + rows.numel());
        if (shared) layer.shared.assign(static_cast<std::size_t>(spec.hidden_size), 0.0f);
    }
    return gates;
}

at::Tensor logits_of(const arch::OpenModel& model, const at::Tensor& ids, at::Device device) {
    const model::LayerStream stream(model, {.dtype = at::kFloat, .device = device});
    return stream.decoder().logits(stream.outer(), stream.run({{ids, {}}}).front()).to(at::kCPU, at::kDouble);
}

}  // namespace

SelfTest run_self_test(const BuildRecipe& recipe, const SourceModels& sources, const MoeTarget& target, ExpertLayout layout,
                       at::Device device, std::int64_t length) {
    const c10::InferenceMode guard;
    const BuildRecipe test_recipe = base_only(recipe, target);
    const SourceModels test_sources = base_only(sources);
    const arch::ModelSpec spec = moe_spec(target, test_recipe, test_sources.specs());
    const auto gates = arbitrary_gates(spec, !recipe.shared_experts.empty());
    const MoePlan plan = plan_moe(test_recipe, test_sources, target, layout, gates, seed);

    at::Generator generator = at::detail::createCPUGenerator(seed);
    const at::Tensor ids = at::randint(0, spec.vocab_size, {1, std::min(length, spec.max_positions)}, generator, at::kLong);
    const at::Tensor expected = logits_of(sources.base->open, ids, device);
    const at::Tensor got = logits_of(open_plan(plan.output, "the self-test"), ids, device);
    const SelfTest result{.max_difference = (got - expected).abs().max().item<double>(), .max_logit = expected.abs().max().item<double>()};
    // Written so that NaN fails it.
    if (!(result.max_difference <= tolerance * std::max(1.0, result.max_logit)))
        throw Error(ErrorCode::failed,
                    fmt::format("self-test: with the base as every expert the logits differ from the base's by {:g} (largest logit {:g})",
                                result.max_difference, result.max_logit),
                    "this is a bug of mixwright: please report it with the recipe and the base's config.json");
    return result;
}

}  // namespace mixwright::surgery
