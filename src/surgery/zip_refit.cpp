// The least-squares refit of a whole MoE block to the output it should have.
#include <ATen/ATen.h>

#include <cmath>

#include "merge/least_squares.h"
#include "ops/product.h"
#include "surgery/zip_methods.h"

namespace mixwright::surgery {
namespace {

constexpr int sweeps = 3;
// Experts that overlap could trade outputs against each other for nothing; each should stay what it is.
constexpr double weakest_pull = 1e-2;

// One set of neurons with a down projection of its own, and the tokens that reach it.
struct Unit {
    ops::Mlp* mlp;
    calibrate::ExpertTokens reach;
};

double relative(const at::Tensor& residual, const at::Tensor& target) {
    const double energy = target.square().sum().item<double>();
    return energy > 0 ? residual.square().sum().item<double>() / energy : 0;
}

}  // namespace

at::Tensor shared_gates(const model::MoeWeights& weights, const at::Tensor& x) {
    return weights.shared_gate.defined() ? at::sigmoid(at::linear(x, weights.shared_gate)).to(at::kFloat) : at::ones({x.size(0), 1});
}

at::Tensor block_output(const model::MoeWeights& weights, const calibrate::RoutedLayer& routed) {
    at::Tensor y = at::zeros({routed.num_tokens(), routed.inputs.size(1)}, at::kFloat);
    for (std::size_t e = 0; e < weights.experts.size(); ++e) {
        const calibrate::ExpertTokens reach = routed.of(static_cast<std::int64_t>(e));
        const at::Tensor a = expert_activations(weights.experts[e], routed.inputs.index_select(0, reach.tokens));
        y.index_add_(0, reach.tokens, ops::linear_product(a * reach.gates.unsqueeze(1), weights.experts[e].down.weight.to(at::kFloat)));
    }
    if (weights.shared.down.weight.defined()) {
        const at::Tensor a = expert_activations(weights.shared, routed.inputs) * shared_gates(weights, routed.inputs);
        y.add_(ops::linear_product(a, weights.shared.down.weight.to(at::kFloat)));
    }
    return y;
}

BlockRefit judge_block(const model::MoeWeights& weights, const calibrate::RoutedLayer& routed, const at::Tensor& target) {
    const at::Tensor scale = routed.weights.unsqueeze(1), wanted = target * scale;
    const at::Tensor residual = wanted - block_output(weights, routed) * scale;
    const std::int64_t fit = routed.num_fit, held_out = routed.num_tokens() - fit;
    BlockRefit result;
    result.fitted = relative(residual.narrow(0, 0, fit), wanted.narrow(0, 0, fit));
    result.before = result.after = relative(residual.narrow(0, fit, held_out), wanted.narrow(0, fit, held_out));
    return result;
}

BlockRefit refit_block(model::MoeWeights& weights, const calibrate::RoutedLayer& routed, const at::Tensor& target) {
    const at::Tensor scale = routed.weights.unsqueeze(1), wanted = target * scale;
    at::Tensor residual = wanted - block_output(weights, routed) * scale;
    const std::int64_t fit = routed.num_fit, held_out = routed.num_tokens() - fit;
    const auto error = [&](const at::Tensor& r, bool on_held_out) {
        return on_held_out ? relative(r.narrow(0, fit, held_out), wanted.narrow(0, fit, held_out)) : relative(r.narrow(0, 0, fit), wanted.narrow(0, 0, fit));
    };
    BlockRefit result{.before = error(residual, true)};
    result.after = result.before;

    std::vector<Unit> units;
    if (weights.shared.down.weight.defined())
        units.push_back({&weights.shared, {at::arange(routed.num_tokens()), shared_gates(weights, routed.inputs).squeeze(1), fit}});
    for (std::size_t e = 0; e < weights.experts.size(); ++e) units.push_back({&weights.experts[e], routed.of(static_cast<std::int64_t>(e))});

    for (int sweep = 0; sweep < sweeps; ++sweep) {
        std::vector<at::Tensor> downs;
        for (const Unit& unit : units) downs.push_back(unit.mlp->down.weight);
        const at::Tensor residual_before = residual.clone();
        for (Unit& unit : units) {
            const auto& [tokens, gates, num_fit] = unit.reach;
            if (num_fit == 0) continue;  // nothing to learn from: its map stays
            const at::Tensor a = expert_activations(*unit.mlp, routed.inputs.index_select(0, tokens)) *
                                 (gates * routed.weights.index_select(0, tokens)).unsqueeze(1);
            const at::Tensor down = unit.mlp->down.weight.to(at::kFloat);
            const at::Tensor own = ops::linear_product(a, down), left = residual.index_select(0, tokens) + own;
            const std::int64_t count = tokens.size(0);
            merge::NormalEquations fitting(a.size(1), left.size(1)), judging(a.size(1), left.size(1));
            fitting.add(a.narrow(0, 0, num_fit), left.narrow(0, 0, num_fit));
            judging.add(a.narrow(0, num_fit, count - num_fit), left.narrow(0, num_fit, count - num_fit));
            const at::Tensor fitted = merge::fit_ridge(fitting, judging, down.t(), merge::HeldOut::stay, {.weakest = weakest_pull}).solution.t().to(at::kFloat).contiguous();
            residual.index_add_(0, tokens, own - ops::linear_product(a, fitted));
            unit.mlp->down.weight = fitted.to(unit.mlp->down.weight.scalar_type());
        }
        const double now = error(residual, true);
        if (!(now < result.after * (1 - 1e-3))) {
            for (std::size_t u = 0; u < units.size(); ++u) units[u].mlp->down.weight = downs[u];
            residual = residual_before;
            break;
        }
        result.after = now;
    }
    result.fitted = error(residual, false);
    return result;
}

std::vector<double> recovery(const model::MoeWeights& block, const model::MoeWeights& made, const calibrate::RoutedLayer& routed) {
    std::vector<double> errors;
    for (std::size_t e = 0; e < block.experts.size(); ++e) {
        const calibrate::ExpertTokens reach = routed.of(static_cast<std::int64_t>(e));
        const at::Tensor tokens = reach.tokens.narrow(0, reach.num_fit, reach.tokens.size(0) - reach.num_fit);
        const at::Tensor x = routed.inputs.index_select(0, tokens);
        const auto output = [&](const ops::Mlp& expert) { return ops::linear_product(expert_activations(expert, x), expert.down.weight); };
        const at::Tensor truth = output(block.experts[e]);
        const double energy = truth.square().sum().item<double>();
        errors.push_back(energy > 0 ? (output(made.experts[e]) - truth).square().sum().item<double>() / energy : std::nan(""));
    }
    return errors;
}

}  // namespace mixwright::surgery
