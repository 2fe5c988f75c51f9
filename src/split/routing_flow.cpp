#include "split/routing_flow.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <cmath>
#include <memory>

#include "merge/align.h"
#include "surgery/moe_plan.h"

namespace mixwright::split {
namespace {

constexpr double floor_weight = 1e-9;  // of what was never seen: its logarithm is finite

// What all batches add up to, by layer.
struct Sums {
    std::vector<at::Tensor> mass, flow;  // [layers]; undefined where nothing came
    std::vector<double> shared;
    std::int64_t tokens = 0;
};

// Follows one batch: the weights of the MoE layer before are kept until the next one is reached.
class FlowTaps final : public model::Taps {
public:
    FlowTaps(const arch::OpenModel& moe, const model::Placement& placement, Sums& sums) : moe_(moe), placement_(placement), sums_(sums) {}

    void mlp_input(std::int64_t layer, const at::Tensor& hidden_BLD) override {
        const arch::MoeTable& table = *moe_.spec.architecture->moe;
        if (table.shared_gate_name.empty() || moe_.spec.layers[static_cast<std::size_t>(layer)].kind != arch::LayerKind::moe) return;
        const std::string name = arch::layer_tensor(layer, table.shared_gate_name);
        if (moe_.tensors->find(name) == nullptr) return;
        const at::Tensor gate = model::load_tensor(moe_, name, placement_);
        sums_.shared[static_cast<std::size_t>(layer)] += at::sigmoid(at::linear(hidden_BLD, gate)).sum(at::kDouble).item<double>();
    }

    void routing(std::int64_t layer, const ops::Routing& routing) override {
        const at::Tensor weights = at::zeros({routing.experts.size(0), moe_.spec.num_experts}, at::TensorOptions(at::kFloat).device(routing.weights.device()))
                                       .scatter_add(1, routing.experts, routing.weights.to(at::kFloat));
        const auto add = [](at::Tensor& sum, at::Tensor value) { sum = sum.defined() ? sum + value : std::move(value); };
        const auto l = static_cast<std::size_t>(layer);
        add(sums_.mass[l], weights.sum(0, false, at::kDouble).to(at::kCPU));
        if (before_.defined()) add(sums_.flow[l], at::mm(before_.t(), weights).to(at::kCPU, at::kDouble));
        before_ = weights;
    }

private:
    const arch::OpenModel& moe_;
    const model::Placement& placement_;
    Sums& sums_;
    at::Tensor before_;
};

}  // namespace

std::vector<LayerRouting> measure_routing_flow(const arch::OpenModel& moe, const std::vector<model::StreamedBatch>& batches,
                                               const model::Placement& placement) {
    const c10::InferenceMode guard;
    const auto num_layers = static_cast<std::size_t>(moe.spec.num_layers);
    Sums sums{std::vector<at::Tensor>(num_layers), std::vector<at::Tensor>(num_layers), std::vector<double>(num_layers, 0.0)};
    std::vector<std::unique_ptr<FlowTaps>> taps;
    for (const model::StreamedBatch& batch : batches) {
        taps.push_back(std::make_unique<FlowTaps>(moe, placement, sums));
        sums.tokens += batch.ids.numel();
    }
    model::LayerStream(moe, placement).run(batches, [&](std::size_t b) { return taps[b].get(); });

    const auto n = static_cast<double>(sums.tokens);
    const bool gated = !moe.spec.architecture->moe->shared_gate_name.empty();
    std::vector<LayerRouting> routing;
    for (const std::int64_t layer : surgery::moe_layers(moe.spec)) {
        const auto l = static_cast<std::size_t>(layer);
        LayerRouting one{.layer = layer, .mass = sums.mass[l] / n};
        if (sums.flow[l].defined()) one.flow = sums.flow[l] / n;
        if (gated) one.shared_gate = sums.shared[l] / n;
        routing.push_back(std::move(one));
    }
    return routing;
}

std::vector<LayerRouting> uniform_routing(const arch::OpenModel& moe) {
    const std::int64_t experts = moe.spec.num_experts;
    std::vector<LayerRouting> routing;
    for (const std::int64_t layer : surgery::moe_layers(moe.spec)) {
        const auto share = 1.0 / static_cast<double>(experts);
        LayerRouting one{.layer = layer, .mass = at::full({experts}, share, at::kDouble)};
        if (!routing.empty()) one.flow = at::full({experts, experts}, share * share, at::kDouble);
        if (!moe.spec.architecture->moe->shared_gate_name.empty()) one.shared_gate = 0.5;
        routing.push_back(std::move(one));
    }
    return routing;
}

std::vector<std::int64_t> strongest_path(const std::vector<LayerRouting>& routing) {
    // score[e]: of the best path that ends in expert e; from[l][e]: where that path was a layer before.
    at::Tensor score = routing.at(0).mass.clamp_min(floor_weight).log();
    std::vector<at::Tensor> from;
    for (std::size_t l = 1; l < routing.size(); ++l) {
        const at::Tensor step = score.unsqueeze(1) + routing[l].flow.clamp_min(floor_weight).log();
        auto [best, origin] = step.max(0);
        score = best + routing[l].mass.clamp_min(floor_weight).log();
        from.push_back(origin);
    }
    std::vector<std::int64_t> path(routing.size());
    path.back() = score.argmax().item<std::int64_t>();
    for (std::size_t l = routing.size() - 1; l > 0; --l) path[l - 1] = from[l - 1][path[l]].item<std::int64_t>();
    return path;
}

std::vector<std::vector<std::int64_t>> disjoint_paths(const std::vector<LayerRouting>& routing) {
    const std::int64_t experts = routing.at(0).mass.size(0);
    std::vector<std::vector<std::int64_t>> paths(static_cast<std::size_t>(experts));
    for (std::int64_t e = 0; e < experts; ++e) paths[static_cast<std::size_t>(e)].push_back(e);
    for (std::size_t l = 1; l < routing.size(); ++l) {
        // Lift over chance: a popular expert would otherwise be everybody's next.
        const at::Tensor expected = at::outer(routing[l - 1].mass, routing[l].mass).clamp_min(floor_weight);
        const std::vector<std::int64_t> next = merge::assign(-(routing[l].flow / expected));
        for (auto& path : paths) path.push_back(next[static_cast<std::size_t>(path.back())]);
    }
    return paths;
}

}  // namespace mixwright::split
