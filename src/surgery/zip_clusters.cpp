#include "surgery/zip_clusters.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "data/packing.h"
#include "merge/align.h"
#include "merge/least_squares.h"
#include "merge/neuron_selection.h"
#include "merge/zipit.h"
#include "ops/product.h"
#include "progress.h"

namespace mixwright::surgery {
namespace {

using merge::Groups;

constexpr std::int64_t sample_tokens = 4096;  // for statistics that look at every expert on every token

at::Tensor outputs_of(const ops::Mlp& expert, const at::Tensor& x) { return ops::linear_product(expert_activations(expert, x), expert.down.weight.to(at::kFloat)); }

// Evenly over the tokens to fit to.
at::Tensor sample(const calibrate::RoutedLayer& routed) {
    const std::int64_t step = std::max<std::int64_t>(1, routed.num_fit / sample_tokens);
    return routed.inputs.index_select(0, at::arange(0, routed.num_fit, step));
}

at::Tensor frequencies(const ZipContext& context) {
    const auto counts = context.routed.counts(context.spec.num_experts);
    return at::tensor(counts, at::kLong).to(at::kDouble).clamp_min(1e-3);
}

// ---- which experts belong together -------------------------------------------------------------------------------

at::Tensor coactivation(const ZipContext& context) {
    const at::Tensor chosen = at::one_hot(context.routed.experts, context.spec.num_experts).sum(1).to(at::kFloat);  // [N, E]
    return ops::matrix_product(chosen.t(), chosen).to(at::kDouble);
}

at::Tensor mean_outputs(const ZipContext& context) {
    const at::Tensor x = sample(context.routed);
    std::vector<at::Tensor> means;
    for (const ops::Mlp& expert : context.weights.experts) means.push_back(outputs_of(expert, x).mean(0));
    return at::stack(means).to(at::kDouble);  // [E, D]
}

// How alike the experts' outputs are, token by token.
at::Tensor output_similarity(const ZipContext& context, bool gated) {
    const at::Tensor x = sample(context.routed);
    const at::Tensor probabilities = gated ? at::softmax(at::linear(x, router_of(context.weights)), -1, at::kFloat) : at::Tensor();
    std::vector<at::Tensor> outputs;
    for (std::size_t e = 0; e < context.weights.experts.size(); ++e) {
        at::Tensor y = outputs_of(context.weights.experts[e], x);
        if (gated) y = y * probabilities.select(1, static_cast<std::int64_t>(e)).unsqueeze(1);
        outputs.push_back(y);
    }
    const at::Tensor flat = at::stack(outputs).flatten(1);
    const at::Tensor unit = flat / flat.norm(2, {1}, true).clamp_min(1e-12);
    return ops::matrix_product(unit, unit.t()).to(at::kDouble);
}

// Takes the loosest members out of groups until there are `count`.
void loosen(Groups& groups, const at::Tensor& ties, std::int64_t count) {
    while (std::ssize(groups) < count) {
        std::size_t group = 0, member = 0;
        double loosest = std::numeric_limits<double>::infinity();
        for (std::size_t g = 0; g < groups.size(); ++g)
            for (std::size_t i = 0; groups[g].size() > 1 && i < groups[g].size(); ++i) {
                double tie = 0;
                for (const std::int64_t other : groups[g])
                    if (other != groups[g][i]) tie += ties[groups[g][i]][other].item<double>();
                tie /= static_cast<double>(groups[g].size() - 1);
                if (tie < loosest) loosest = tie, group = g, member = i;
            }
        const std::int64_t alone = groups[group][member];
        std::erase(groups[group], alone);
        groups.push_back({alone});
    }
    std::ranges::sort(groups);
}

// What binds experts together, [E, E].
at::Tensor ties_between(const ZipContext& context) {
    switch (context.options.grouping) {
        case ZipGrouping::coactivation: return coactivation(context);
        case ZipGrouping::similarity: return output_similarity(context, false);
        case ZipGrouping::random: break;
    }
    return at::ones({context.spec.num_experts, context.spec.num_experts}, at::kDouble);
}

Groups groups_of(const ZipContext& context, const at::Tensor& ties, std::int64_t size) {
    if (context.options.grouping == ZipGrouping::random)
        return merge::random_groups(context.spec.num_experts, size, context.options.seed + static_cast<std::uint64_t>(context.layer));
    return merge::match_groups(ties, size);
}

Groups matched_groups(const ZipContext& context) {
    const std::int64_t experts = context.spec.num_experts, count = context.result.num_experts;
    const at::Tensor ties = ties_between(context);
    Groups groups = groups_of(context, ties, std::max(context.options.group_size, (experts + count - 1) / count));
    loosen(groups, ties, count);
    return groups;
}

// Agglomerative clustering with average linkage on Euclidean distances (HC-SMoE, arXiv 2410.08589, section 3.2).
Groups average_linkage(const at::Tensor& points, std::int64_t count) {
    const at::Tensor distances = at::cdist(points, points).contiguous();
    const auto d = distances.accessor<double, 2>();
    Groups groups;
    for (std::int64_t i = 0; i < points.size(0); ++i) groups.push_back({i});
    const auto linkage = [&](const auto& a, const auto& b) {
        double sum = 0;
        for (const std::int64_t i : a)
            for (const std::int64_t j : b) sum += d[i][j];
        return sum / static_cast<double>(a.size() * b.size());
    };
    while (std::ssize(groups) > count) {
        std::size_t best_a = 0, best_b = 1;
        double nearest = std::numeric_limits<double>::infinity();
        for (std::size_t a = 0; a < groups.size(); ++a)
            for (std::size_t b = a + 1; b < groups.size(); ++b)
                if (const double l = linkage(groups[a], groups[b]); l < nearest) nearest = l, best_a = a, best_b = b;
        groups[best_a].insert(groups[best_a].end(), groups[best_b].begin(), groups[best_b].end());
        groups.erase(groups.begin() + static_cast<std::ptrdiff_t>(best_b));
    }
    for (auto& group : groups) std::ranges::sort(group);
    std::ranges::sort(groups);
    return groups;
}

// MergeMoE (arXiv 2510.14436, section 4.1): the most used experts are centres; the others join the nearest in [U | G].
Groups around_most_used(const ZipContext& context) {
    const std::int64_t count = context.result.num_experts;
    const auto centres = merge::largest(frequencies(context), count);
    std::vector<at::Tensor> rows;
    for (const ops::Mlp& e : context.weights.experts) rows.push_back(at::cat({e.up.weight.flatten(), e.gate.weight.flatten()}).to(at::kFloat));
    const at::Tensor all = at::stack(rows), nearest = at::cdist(all, all.index_select(0, index_of(centres))).argmin(1);
    Groups groups;
    for (const std::int64_t centre : centres) groups.push_back({centre});
    for (std::int64_t e = 0; e < context.spec.num_experts; ++e)
        if (std::ranges::find(centres, e) == centres.end()) groups[static_cast<std::size_t>(nearest[e].item<std::int64_t>())].push_back(e);
    return groups;
}

// REAM (arXiv 2604.04356): the most salient experts are centres; the most salient of them takes the experts most like it, then
// the next. The paper lets one take 16 of 128.
Groups pseudo_pruned(const ZipContext& context) {
    const std::int64_t experts = context.spec.num_experts, at_most = std::max<std::int64_t>(1, experts / 8);
    const at::Tensor saliency = reap_saliency(context), x = sample(context.routed), logits = at::linear(x, router_of(context.weights)).to(at::kFloat).t();
    const at::Tensor unit = logits / logits.norm(2, {1}, true).clamp_min(1e-12);
    const at::Tensor similar = (output_similarity(context, true) + ops::matrix_product(unit, unit.t()).to(at::kDouble)) / 2;
    auto centres = merge::largest(saliency, context.result.num_experts);
    std::ranges::sort(centres, std::ranges::greater{}, [&](std::int64_t e) { return saliency[e].item<double>(); });
    std::vector<std::int64_t> free;
    for (std::int64_t e = 0; e < experts; ++e)
        if (std::ranges::find(centres, e) == centres.end()) free.push_back(e);
    Groups groups;
    for (const std::int64_t centre : centres) {
        std::ranges::sort(free, std::ranges::greater{}, [&](std::int64_t e) { return similar[centre][e].item<double>(); });
        const auto taken = std::min<std::ptrdiff_t>(at_most, std::ssize(free));
        groups.push_back({centre});
        groups.back().insert(groups.back().end(), free.begin(), free.begin() + taken);
        free.erase(free.begin(), free.begin() + taken);
    }
    for (std::size_t g = 0; !free.empty(); g = (g + 1) % groups.size()) groups[g].push_back(free.back()), free.pop_back();
    return groups;
}

// ---- one expert of several ---------------------------------------------------------------------------------------

at::Tensor neuron_weights(const ops::Mlp& e) { return at::cat({e.gate.weight, e.up.weight, e.down.weight.t()}, 1).to(at::kFloat); }

// What neurons are aligned by: their weights (M-SMoE, arXiv 2310.01334), with REAM also their activations.
std::vector<std::int64_t> alignment(const ZipContext& context, const ops::Mlp& reference, const ops::Mlp& other, const at::Tensor& x) {
    if (context.options.method != ZipMethod::ream) return merge::align(neuron_weights(reference), neuron_weights(other));
    const auto unit = [](const at::Tensor& rows) { return rows / rows.norm(2, {1}, true).clamp_min(1e-12); };
    const auto distances = [&](const at::Tensor& a, const at::Tensor& b) { return at::cdist(unit(a), unit(b)); };
    return merge::assign(distances(expert_activations(reference, x).t(), expert_activations(other, x).t()) +
                         distances(neuron_weights(reference), neuron_weights(other)));
}

ops::Mlp averaged(const ZipContext& context, const std::vector<std::int64_t>& group, const at::Tensor& shares, bool aligned, const at::Tensor& x) {
    const ops::Mlp& reference = context.weights.experts[static_cast<std::size_t>(group[0])];
    ops::Mlp sum{.activation = reference.activation, .swiglu_limit = reference.swiglu_limit};
    for (std::size_t i = 0; i < group.size(); ++i) {
        ops::Mlp member = context.weights.experts[static_cast<std::size_t>(group[i])];
        if (aligned && i > 0) member = neurons_of(member, alignment(context, reference, member, x));
        const double share = shares[static_cast<std::int64_t>(i)].item<double>();
        const auto add = [&](at::Tensor& to, const at::Tensor& weight) { to = to.defined() ? to + weight * share : weight * share; };
        add(sum.gate.weight, member.gate.weight);
        add(sum.up.weight, member.up.weight);
        add(sum.down.weight, member.down.weight);
    }
    return sum;
}

// MergeMoE, section 4.3: W_D = [b_1 D_1, b_2 D_2, ...] Q P^+ is the least-squares map from the merged activations P to the
// weighted sum of the members' outputs. The paper's pseudo-inverse breaks down with few tokens, so a trace of ridge is added.
at::Tensor fitted_down(const ZipContext& context, const std::vector<std::int64_t>& group, const at::Tensor& shares, const ops::Mlp& merged) {
    at::Tensor used = context.routed.experts.eq(group[0]);
    for (const std::int64_t member : group) used = used.logical_or(context.routed.experts.eq(member));
    const at::Tensor tokens = used.any(1).nonzero().squeeze(1), x = context.routed.inputs.index_select(0, tokens);
    if (x.size(0) == 0) return merged.down.weight;
    at::Tensor target = at::zeros({x.size(0), x.size(1)}, at::kFloat);
    for (std::size_t i = 0; i < group.size(); ++i)
        target.add_(outputs_of(context.weights.experts[static_cast<std::size_t>(group[i])], x), shares[static_cast<std::int64_t>(i)].item<double>());
    merge::NormalEquations equations(merged.gate.weight.size(0), x.size(1));
    equations.add(expert_activations(merged, x), target);
    return merge::solve(equations.pulled_to({}, 1e-6)).t().to(at::kFloat).contiguous();
}

// ZipIt! (arXiv 2305.03053) on the neurons of the members, its merge and copy-unmerge: features of the group are matched down to
// the width of one expert, rows become means, and each member's down projection reads copies. The gates are tied, so the maps
// of the members add up with their shares, as in HC-SMoE's repository; the residual stream is not zipped.
ops::Mlp zipped_features(const ZipContext& context, const std::vector<std::int64_t>& group, const at::Tensor& shares) {
    at::Tensor used = context.routed.experts.eq(group[0]);
    for (const std::int64_t member : group) used = used.logical_or(context.routed.experts.eq(member));
    const at::Tensor x = context.routed.inputs.index_select(0, used.any(1).nonzero().squeeze(1));
    std::vector<at::Tensor> activations, gates, ups, downs;
    for (std::size_t i = 0; i < group.size(); ++i) {
        const ops::Mlp& member = context.weights.experts[static_cast<std::size_t>(group[i])];
        activations.push_back(expert_activations(member, x));
        gates.push_back(member.gate.weight);
        ups.push_back(member.up.weight);
        downs.push_back(member.down.weight * shares[static_cast<std::int64_t>(i)].item<double>());
    }
    const at::Tensor z = at::cat(activations, 1);
    const double rows = static_cast<double>(std::max<std::int64_t>(1, z.size(0)));
    const at::Tensor similarity = merge::correlation(ops::matrix_product(z.t(), z).to(at::kDouble) / rows, z.sum(0).to(at::kDouble) / rows);
    const auto features = merge::zipit_groups(similarity, context.spec.expert_width,
                                              {.models = std::ssize(group), .alpha = context.options.alpha, .beta = context.options.beta});
    const at::Tensor merge = merge::merge_matrix(features, z.size(1)).to(at::kFloat), unmerge = merge::unmerge_matrix(features, z.size(1)).to(at::kFloat);
    ops::Mlp zipped = context.weights.experts[static_cast<std::size_t>(group[0])];
    zipped.gate.weight = ops::matrix_product(merge, at::cat(gates));
    zipped.up.weight = ops::matrix_product(merge, at::cat(ups));
    zipped.down.weight = ops::matrix_product(at::cat(downs, 1), unmerge);
    return zipped;
}

// One router row for a group whose gates should add up: the linear map nearest to log(sum of exp of the members' logits).
at::Tensor merged_row(const ZipContext& context, const std::vector<std::int64_t>& group) {
    const at::Tensor rows = router_of(context.weights).index_select(0, index_of(group)).to(at::kFloat);
    if (group.size() == 1) return rows[0];
    const at::Tensor x = context.routed.inputs.to(at::kFloat);
    merge::NormalEquations fit(x.size(1), 1), held_out(x.size(1), 1);
    const at::Tensor target = at::logsumexp(at::linear(x, rows), {1}, true);
    const std::int64_t num_fit = context.routed.num_fit;
    fit.add(x.narrow(0, 0, num_fit), target.narrow(0, 0, num_fit));
    held_out.add(x.narrow(0, num_fit, x.size(0) - num_fit), target.narrow(0, num_fit, x.size(0) - num_fit));
    return merge::fit_ridge(fit, held_out, rows.mean(0).unsqueeze(1)).solution.squeeze(1).to(at::kFloat);
}

Groups groups_for(const ZipContext& context) {
    switch (context.options.method) {
        case ZipMethod::hc_smoe: return average_linkage(mean_outputs(context), context.result.num_experts);
        case ZipMethod::mergemoe: return around_most_used(context);
        case ZipMethod::ream: return pseudo_pruned(context);
        default: return matched_groups(context);
    }
}

}  // namespace

std::vector<std::int64_t> random_order(std::int64_t count, std::uint64_t seed) {
    std::vector<std::int64_t> order;
    for (const std::uint32_t item : data::shuffled_order(static_cast<std::size_t>(count), seed, 0)) order.push_back(item);
    return order;
}

merge::Groups paired_experts(const ZipContext& context) { return groups_of(context, ties_between(context), 2); }

at::Tensor reap_saliency(const ZipContext& context) {
    at::Tensor saliency = at::zeros({context.spec.num_experts}, at::kDouble);
    for (std::int64_t e = 0; e < context.spec.num_experts; ++e) {
        const calibrate::ExpertTokens reach = context.routed.of(e);
        if (reach.tokens.size(0) == 0) continue;
        const at::Tensor y = outputs_of(context.weights.experts[static_cast<std::size_t>(e)], context.routed.inputs.index_select(0, reach.tokens));
        saliency[e] = (y.norm(2, {1}) * reach.gates).mean().item<double>();
    }
    return saliency;
}

MadeBlock merged_experts(const ZipContext& context) {
    const ZipMethod method = context.options.method;
    const Groups groups = groups_for(context);
    const at::Tensor weight = method == ZipMethod::ream ? reap_saliency(context).clamp_min(1e-12) : frequencies(context), x = sample(context.routed);
    MadeBlock made{.weights = context.weights};
    made.weights.experts.clear();
    std::vector<at::Tensor> rows;
    std::vector<std::string> names;
    for (const auto& group : groups) {
        const at::Tensor in_group = weight.index_select(0, index_of(group)), shares = in_group / in_group.sum();
        ops::Mlp expert = context.weights.experts[static_cast<std::size_t>(group[0])];
        if (group.size() > 1) {
            expert = method == ZipMethod::zipit ? zipped_features(context, group, shares)
                                                : averaged(context, group, shares, method == ZipMethod::average || method == ZipMethod::ream, x);
            if (method == ZipMethod::mergemoe) expert.down.weight = fitted_down(context, group, shares, expert);
            names.push_back(fmt::format("{}", fmt::join(group, "+")));
        }
        made.weights.experts.push_back(std::move(expert));
        // REAM deletes the rows of those who joined a centre.
        rows.push_back(method == ZipMethod::ream ? router_of(context.weights)[group[0]] : merged_row(context, group));
        check_interrupted();
    }
    router_of(made.weights) = at::stack(rows).to(router_of(context.weights).scalar_type()).contiguous();
    made.note = fmt::format("{}", fmt::join(names, " "));
    return made;
}

}  // namespace mixwright::surgery
