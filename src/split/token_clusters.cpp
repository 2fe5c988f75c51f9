#include "split/token_clusters.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <functional>
#include <memory>

#include "error.h"
#include "surgery/moe_plan.h"

namespace mixwright::split {
namespace {

constexpr std::int64_t window = 32;  // tokens whose routing is looked at together
constexpr int rounds = 50;

// Hands the routed mass [N, E] of every MoE layer on.
class MassTaps final : public model::Taps {
public:
    MassTaps(std::int64_t num_experts, std::function<void(std::int64_t layer, const at::Tensor& mass)> take) : num_experts_(num_experts), take_(std::move(take)) {}

    void routing(std::int64_t layer, const ops::Routing& routing) override {
        take_(layer, at::zeros({routing.experts.size(0), num_experts_}, at::TensorOptions(at::kFloat).device(routing.weights.device()))
                         .scatter_add(1, routing.experts, routing.weights.to(at::kFloat)).to(at::kCPU));
    }

private:
    std::int64_t num_experts_;
    std::function<void(std::int64_t, const at::Tensor&)> take_;
};

// The number of each layer among the MoE layers.
std::vector<std::size_t> moe_positions(const arch::ModelSpec& spec) {
    std::vector<std::size_t> positions(static_cast<std::size_t>(spec.num_layers));
    std::size_t next = 0;
    for (const std::int64_t layer : surgery::moe_layers(spec)) positions[static_cast<std::size_t>(layer)] = next++;
    return positions;
}

// take(batch, number of the MoE layer, mass [N, E]) for all batches and layers.
void run(const arch::OpenModel& moe, const std::vector<model::StreamedBatch>& batches, const model::Placement& placement,
         const std::function<void(std::size_t, std::size_t, const at::Tensor&)>& take) {
    const c10::InferenceMode guard;
    const std::vector<std::size_t> position = moe_positions(moe.spec);
    std::vector<std::unique_ptr<MassTaps>> taps;
    for (std::size_t b = 0; b < batches.size(); ++b)
        taps.push_back(std::make_unique<MassTaps>(moe.spec.num_experts, [&, b](std::int64_t layer, const at::Tensor& mass) { take(b, position[static_cast<std::size_t>(layer)], mass); }));
    model::LayerStream(moe, placement).run(batches, [&](std::size_t b) { return taps[b].get(); });
}

// Windows of one sequence are whole; what is left of it at its end is left out.
at::Tensor by_window(const at::Tensor& mass_NE, std::int64_t length) {
    const std::int64_t width = std::min(window, length), per_sequence = length / width;
    return mass_NE.view({-1, length, mass_NE.size(1)}).narrow(1, 0, per_sequence * width).reshape({-1, width, mass_NE.size(1)}).mean(1);
}

}  // namespace

at::Tensor spherical_clusters(const at::Tensor& points, std::int64_t count) {
    const at::Tensor unit = points / points.norm(2, {1}, true).clamp_min(1e-12);
    // Each start is the row farthest from those before; the first, from the mean of all.
    std::vector<at::Tensor> centers;
    at::Tensor nearest = at::mv(unit, unit.mean(0));
    for (std::int64_t c = 0; c < count; ++c) {
        centers.push_back(unit[nearest.argmin()]);
        const at::Tensor to_new = at::mv(unit, centers.back());
        nearest = c == 0 ? to_new : at::maximum(nearest, to_new);
    }
    at::Tensor means = at::stack(centers), assigned;
    for (int round = 0; round < rounds; ++round) {
        const at::Tensor now = at::mm(unit, means.t()).argmax(1);
        if (assigned.defined() && now.equal(assigned)) break;
        assigned = now;
        const at::Tensor sums = at::zeros_like(means).index_add(0, assigned, unit), length = sums.norm(2, {1}, true);
        means = at::where(length.gt(0), sums / length.clamp_min(1e-12), means);
    }
    return assigned;
}

ExpertClusters cluster_experts(const arch::OpenModel& moe, const std::vector<model::StreamedBatch>& batches, std::int64_t count, const model::Placement& placement) {
    const std::size_t layers = surgery::moe_layers(moe.spec).size();
    std::vector<std::vector<at::Tensor>> windows(layers);  // [layer][batch]: [windows, E]
    run(moe, batches, placement, [&](std::size_t b, std::size_t layer, const at::Tensor& mass) { windows[layer].push_back(by_window(mass, batches[b].ids.size(1))); });
    std::vector<at::Tensor> joined;
    for (const auto& of_layer : windows) joined.push_back(at::cat(of_layer));
    const at::Tensor mass = at::cat(joined, 1), mean = mass.mean(0).clamp_min(1e-9);  // [windows, layers * E]
    if (mass.size(0) < count)
        throw Error(ErrorCode::usage, fmt::format("--students {}: the text has {} windows of {} tokens only", count, mass.size(0), window), "give more text (--data, --tokens)");
    const at::Tensor assigned = spherical_clusters((mass - mean) / mean.sqrt(), count);
    const at::Tensor sums = at::zeros({count, mass.size(1)}).index_add(0, assigned, mass), sizes = at::bincount(assigned, {}, count).clamp_min(1).unsqueeze(1);
    const at::Tensor home = (sums / sizes / mean).argmax(0).contiguous();
    ExpertClusters clusters;
    const auto* of = home.const_data_ptr<std::int64_t>();
    for (std::size_t layer = 0; layer < layers; ++layer, of += moe.spec.num_experts) clusters.emplace_back(of, of + moe.spec.num_experts);
    return clusters;
}

std::vector<at::Tensor> cluster_shares(const arch::OpenModel& moe, const std::vector<model::StreamedBatch>& batches, const ExpertClusters& clusters,
                                       std::int64_t count, const model::Placement& placement) {
    std::vector<at::Tensor> members;  // [E, count] of each layer
    for (const auto& of_layer : clusters) members.push_back(at::one_hot(at::tensor(of_layer, at::kLong), count).to(at::kFloat));
    std::vector<at::Tensor> shares(batches.size());
    run(moe, batches, placement, [&](std::size_t b, std::size_t layer, const at::Tensor& mass) {
        const at::Tensor part = at::mm(mass, members[layer]);
        shares[b] = shares[b].defined() ? shares[b] + part : part;
    });
    at::Tensor mean = at::zeros({count});
    double tokens = 0;
    for (const at::Tensor& share : shares) {
        mean = mean + share.sum(0);
        tokens += static_cast<double>(share.size(0));
    }
    mean = (mean / tokens).clamp_min(1e-9);
    for (at::Tensor& share : shares) {
        share = share / mean;
        share = share / share.sum(1, true).clamp_min(1e-9);
    }
    return shares;
}

}  // namespace mixwright::split
