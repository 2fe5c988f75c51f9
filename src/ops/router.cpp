#include "ops/router.h"

#include <ATen/ATen.h>

#include <limits>
#include <tuple>
#include <vector>

#include "ops/linear.h"
#include "ops/router_kernel.h"

namespace mixwright::ops {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// True for experts of groups that are not among the best: scores [N, E] -> bool [N, E].
at::Tensor outside_best_groups(const at::Tensor& scores, const RouterForm& form) {
    const at::Tensor grouped = scores.view({scores.size(0), form.num_groups, -1});  // [N, G, E / G]
    const at::Tensor worth = form.group_score == arch::GroupScore::best ? grouped.amax(-1) : std::get<0>(grouped.topk(2, -1)).sum(-1);
    const at::Tensor best = std::get<1>(worth.topk(form.top_groups, -1));
    const at::Tensor outside = at::ones(worth.sizes(), worth.options().dtype(at::kBool)).scatter(1, best, false);
    return outside.unsqueeze(-1).expand(grouped.sizes()).reshape(scores.sizes());
}

void choose(Routing& routing, const at::Tensor& scores, const at::Tensor& correction, const RouterForm& form) {
    at::Tensor ranked = scores;
    if (correction.defined()) ranked = ranked + correction;
    if (form.num_groups > 1) ranked = ranked.masked_fill(outside_best_groups(ranked, form), -infinity);
    std::tie(routing.weights, routing.experts) = ranked.topk(form.top_k, -1);
    if (correction.defined()) routing.weights = scores.gather(-1, routing.experts);
}

// The k-th expert's weight is its share among those within the margin of it that were not taken before.
void sparsemix(Routing& routing, const RouterForm& form) {
    const at::Tensor logits = routing.logits.to(at::kFloat);
    at::Tensor left = logits;
    std::vector<at::Tensor> weights, experts;
    for (std::int64_t k = 0; k < form.top_k; ++k) {
        const auto [best, expert] = left.max(-1, true);
        const at::Tensor distance = (best - logits) / at::maximum(logits.abs(), best);
        weights.push_back(at::softmax(left.masked_fill(distance > 2 * form.jitter, -infinity), -1).gather(-1, expert));
        experts.push_back(expert);
        left = left.scatter(-1, expert, -infinity);
    }
    routing.weights = at::cat(weights, -1);
    routing.experts = at::cat(experts, -1);
}

}  // namespace

Routing route(const at::Tensor& x, const RouterWeights& router, const RouterForm& form) {
    Routing routing;
    routing.logits = form.f32 ? at::linear(x.to(at::kFloat), router.weight.to(at::kFloat)) : Linear{router.weight}(x);
    if (router.bias.defined()) routing.logits = routing.logits + router.bias;
    if (router_kernel_applies(routing.logits, form)) {
        choose_with_kernel(routing, router.correction, form);
        return routing;
    }
    switch (form.scores) {
        case arch::RouterScores::softmax: choose(routing, at::softmax(routing.logits, -1, at::kFloat), router.correction, form); break;
        case arch::RouterScores::sigmoid: choose(routing, at::sigmoid(routing.logits.to(at::kFloat)), router.correction, form); break;
        case arch::RouterScores::sparsemixer: sparsemix(routing, form); break;
    }
    if (form.normalize) routing.weights = routing.weights / routing.weights.sum(-1, true);
    if (form.scale != 1.0) routing.weights = routing.weights * form.scale;
    return routing;
}

RouterForm router_form(const arch::ModelSpec& spec) {
    const arch::MoeTable& moe = *spec.architecture->moe;
    return {.top_k = spec.top_k,
            .normalize = spec.norm_topk_prob,
            .scale = spec.routed_scaling_factor,
            .scores = moe.scores,
            .f32 = moe.router_f32,
            .num_groups = spec.num_groups,
            .top_groups = spec.top_groups,
            .group_score = moe.groups.value_or(arch::GroupScore::best),
            .jitter = spec.router_jitter};
}

}  // namespace mixwright::ops
