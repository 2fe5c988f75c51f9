#include "surgery/zip_methods.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>

#include "error.h"
#include "merge/neuron_selection.h"
#include "ops/product.h"
#include "progress.h"
#include "surgery/zip_clusters.h"
#include "surgery/zip_typed.h"

namespace mixwright::surgery {
namespace {

struct MethodName {
    ZipMethod method;
    std::string_view name;
    bool narrower;
};

constexpr std::array methods{
    MethodName{ZipMethod::typed, "typed", true},
    MethodName{ZipMethod::neuron, "neuron", true},        MethodName{ZipMethod::heapr, "heapr", true},
    MethodName{ZipMethod::reap, "reap", false},           MethodName{ZipMethod::frequency, "frequency", false},
    MethodName{ZipMethod::random, "random", false},       MethodName{ZipMethod::average, "average", false},
    MethodName{ZipMethod::zipit, "zipit", false},         MethodName{ZipMethod::hc_smoe, "hc-smoe", false},
    MethodName{ZipMethod::mergemoe, "mergemoe", false},   MethodName{ZipMethod::ream, "ream", false},
};

// HEAPr (arXiv 2509.22299, section 3.2): what a neuron's part o_k = g a_k D_k of the output does to the loss, to second order with the
// Fisher matrix for the Hessian: s_k = 1/2 E[o_k^T G G^T o_k], G the gradient with respect to the block's output. gated [n, F], gradients
// [n, D], down [D, F] -> [F] f64. The sum over tokens, not the mean: it ranks the neurons of one expert only.
at::Tensor heapr_scores(const at::Tensor& gated, const at::Tensor& gradients, const at::Tensor& down) {
    return (ops::matrix_product(gradients, down) * gated).square().sum(0, false, at::kDouble) / 2;
}

ops::Mlp narrowed(const ops::Mlp& expert, const std::vector<std::int64_t>& kept, const at::Tensor& down) {
    ops::Mlp narrow = neurons_of(expert, kept);
    narrow.down.weight = down.to(at::kFloat).contiguous();
    return narrow;
}

// The neurons of one expert that its own output, or the loss, needs most, and their maps.
ops::Mlp fewer_neurons(const ZipContext& context, const ops::Mlp& expert, const calibrate::ExpertTokens& reach, std::int64_t width) {
    const at::Tensor gated = expert_activations(expert, context.routed.inputs.index_select(0, reach.tokens)) * reach.gates.unsqueeze(1);
    const at::Tensor a = gated * context.routed.weights.index_select(0, reach.tokens).unsqueeze(1);
    const at::Tensor& down = expert.down.weight;
    const bool by_loss = context.options.method == ZipMethod::heapr;
    std::vector<std::int64_t> largest;
    if (by_loss || !context.options.refit)
        largest = merge::largest(by_loss ? heapr_scores(gated, context.gradients.index_select(0, reach.tokens), down)
                                         : merge::output_energy(a.square().sum(0), down), width);
    if (!context.options.refit) return narrowed(expert, largest, down.index_select(1, at::tensor(largest, at::kLong)));
    merge::NormalEquations fit(a.size(1), down.size(0)), held_out(a.size(1), down.size(0));
    const auto add = [&](merge::NormalEquations& equations, std::int64_t begin, std::int64_t count) {
        const at::Tensor rows = a.narrow(0, begin, count);
        equations.add(rows, ops::linear_product(rows, down));
    };
    add(fit, 0, reach.num_fit);
    add(held_out, reach.num_fit, a.size(0) - reach.num_fit);
    const merge::RefitNeurons refit = by_loss ? merge::refit(fit, held_out, down, std::move(largest)) : merge::select_and_refit(fit, held_out, down, width);
    return narrowed(expert, refit.kept, refit.down);
}

MadeBlock fewer_neurons_each(const ZipContext& context) {
    MadeBlock made{.weights = context.weights};
    for (std::int64_t e = 0; e < context.spec.num_experts; ++e) {
        auto& expert = made.weights.experts[static_cast<std::size_t>(e)];
        expert = fewer_neurons(context, expert, context.routed.of(e), context.result.expert_width);
        check_interrupted();
    }
    made.note = fmt::format("{} of {} neurons an expert", context.result.expert_width, context.spec.expert_width);
    return made;
}

// Where the config gives the shared experts' width as a multiple of the others', they follow.
MadeBlock with_narrower_shared(const ZipContext& context, MadeBlock made) {
    if (context.result.shared_width == context.spec.shared_width) return made;
    const calibrate::ExpertTokens all{at::arange(context.routed.num_tokens()), shared_gates(context.weights, context.routed.inputs).squeeze(1),
                                      context.routed.num_fit};
    made.weights.shared = fewer_neurons(context, made.weights.shared, all, context.result.shared_width);
    return made;
}

// Scores by which whole experts are kept.
at::Tensor expert_scores(const ZipContext& context) {
    const std::int64_t count = context.spec.num_experts;
    if (context.options.method == ZipMethod::random) {
        at::Tensor scores = at::zeros({count}, at::kDouble);
        const auto order = random_order(count, context.options.seed + static_cast<std::uint64_t>(context.layer));
        for (std::size_t i = 0; i < order.size(); ++i) scores[order[i]] = static_cast<double>(i);
        return scores;
    }
    if (context.options.method == ZipMethod::reap) return reap_saliency(context);
    at::Tensor scores = at::zeros({count}, at::kDouble);
    const auto counts = context.routed.counts(count);
    for (std::int64_t e = 0; e < count; ++e) scores[e] = static_cast<double>(counts[static_cast<std::size_t>(e)]);
    return scores;
}

MadeBlock fewer_experts(const ZipContext& context) {
    const auto kept = merge::largest(expert_scores(context), context.result.num_experts);
    MadeBlock made{.weights = context.weights};
    ops::RouterWeights& router = made.weights.routers[0];
    for (at::Tensor* part : {&router.weight, &router.bias, &router.correction})
        if (part->defined()) *part = part->index_select(0, at::tensor(kept, at::kLong)).contiguous();
    made.weights.experts.clear();
    for (const std::int64_t e : kept) made.weights.experts.push_back(context.weights.experts[static_cast<std::size_t>(e)]);
    made.note = fmt::format("experts {}", fmt::join(kept, " "));
    return made;
}

}  // namespace

ZipMethod zip_method(std::string_view name) {
    for (const MethodName& method : methods)
        if (method.name == name) return method.method;
    std::vector<std::string_view> known;
    for (const MethodName& method : methods) known.push_back(method.name);
    throw Error(ErrorCode::usage, fmt::format("--method {}: no such method", printable(name)), fmt::format("known: {}", fmt::join(known, ", ")));
}

std::string_view zip_method_name(ZipMethod method) {
    return std::ranges::find(methods, method, &MethodName::method)->name;
}

bool makes_narrower(ZipMethod method) { return std::ranges::find(methods, method, &MethodName::method)->narrower; }

bool needs_gradients(const ZipOptions& options) { return options.method == ZipMethod::heapr || options.budget == ZipBudget::loss; }

at::Tensor index_of(const std::vector<std::int64_t>& values) { return at::tensor(values, at::kLong); }

ops::Mlp neurons_of(const ops::Mlp& expert, const std::vector<std::int64_t>& neurons) {
    const at::Tensor index = index_of(neurons);
    ops::Mlp part = expert;
    part.gate.weight = expert.gate.weight.index_select(0, index);
    part.up.weight = expert.up.weight.index_select(0, index);
    part.down.weight = expert.down.weight.index_select(1, index);
    return part;
}

model::MoeWeights placed(model::MoeWeights block, const model::Placement& placement) {
    const auto place = [&](at::Tensor& weight) { weight = weight.to(placement.device, placement.dtype); };
    const auto place_mlp = [&](ops::Mlp& mlp) {
        place(mlp.gate.weight);
        place(mlp.up.weight);
        place(mlp.down.weight);
    };
    place(router_of(block));
    for (ops::Mlp& expert : block.experts) place_mlp(expert);
    if (block.shared.down.weight.defined()) place_mlp(block.shared);
    if (block.shared_gate.defined()) place(block.shared_gate);
    return block;
}

MadeBlock make_block(const ZipContext& context) {
    if (context.options.format == ZipFormat::zipped) return typed_block(context);
    switch (context.options.method) {
        case ZipMethod::typed: return with_narrower_shared(context, typed_uniform_block(context));
        case ZipMethod::neuron:
        case ZipMethod::heapr: return with_narrower_shared(context, fewer_neurons_each(context));
        case ZipMethod::reap:
        case ZipMethod::frequency:
        case ZipMethod::random: return fewer_experts(context);
        default: return merged_experts(context);
    }
}

}  // namespace mixwright::surgery
