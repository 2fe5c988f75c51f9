#include "surgery/routing_report.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <memory>

namespace mixwright::surgery {
namespace {

// Counts choices of one batch into [layers, experts] of its domain.
class CountingTaps final : public model::Taps {
public:
    CountingTaps(at::Tensor first, at::Tensor chosen, at::Tensor tokens) : first_(first), chosen_(chosen), tokens_(tokens) {}

    void routing(std::int64_t layer, const ops::Routing& routing) override {
        // Padding is routed too, but is no text.
        const at::Tensor experts = routing.experts.to(at::kCPU).index_select(0, tokens_);
        first_[layer].add_(at::bincount(experts.select(1, 0), {}, first_.size(1)));
        chosen_[layer].add_(at::bincount(experts.flatten(), {}, chosen_.size(1)));
    }

private:
    at::Tensor first_, chosen_;  // [layers, E] f64
    at::Tensor tokens_;          // rows that are text, int64
};

at::Tensor text_rows(const model::StreamedBatch& batch) {
    if (!batch.key_mask.defined()) return at::arange(batch.ids.numel(), at::kLong);
    return batch.key_mask.flatten().nonzero().flatten();
}

std::string matrix(const at::Tensor& shares_DE) {
    std::string text = "| domain |";
    for (std::int64_t e = 0; e < shares_DE.size(1); ++e) text += fmt::format(" expert {} |", e);
    text += "\n|---|";
    for (std::int64_t e = 0; e < shares_DE.size(1); ++e) text += "---:|";
    for (std::int64_t d = 0; d < shares_DE.size(0); ++d) {
        text += fmt::format("\n| of expert {} |", d);
        for (std::int64_t e = 0; e < shares_DE.size(1); ++e) text += fmt::format(" {:.1f} % |", 100 * shares_DE[d][e].item<double>());
    }
    return text + "\n";
}

io::Json nested(const at::Tensor& tensor) {
    io::Json json = io::Json::array();
    for (std::int64_t i = 0; i < tensor.size(0); ++i) {
        if (tensor.dim() == 1)
            json.push_back(tensor[i].item<double>());
        else
            json.push_back(nested(tensor[i]));
    }
    return json;
}

}  // namespace

double RoutingReport::accuracy() const { return first.diagonal(0, 1, 2).mean().item<double>(); }

std::vector<std::pair<std::int64_t, std::int64_t>> RoutingReport::dead() const {
    std::vector<std::pair<std::int64_t, std::int64_t>> pairs;
    const at::Tensor used = chosen.sum(1);
    for (std::int64_t l = 0; l < used.size(0); ++l)
        for (std::int64_t e = 0; e < used.size(1); ++e)
            if (used[l][e].item<double>() == 0) pairs.emplace_back(layers[static_cast<std::size_t>(l)], e);
    return pairs;
}

io::Json RoutingReport::json() const {
    return {{"accuracy", accuracy()}, {"layers", layers}, {"first", nested(first)}, {"chosen", nested(chosen)}};
}

std::string RoutingReport::text(bool every_layer) const {
    std::string text = "First expert of the tokens of each expert's domain, mean over layers:\n\n" + matrix(first.mean(0));
    if (every_layer)
        for (std::size_t l = 0; l < layers.size(); ++l)
            text += fmt::format("\nlayer {}:\n\n", layers[l]) + matrix(first[static_cast<std::int64_t>(l)]);
    return text;
}

RoutingReport measure_routing(const arch::OpenModel& model, const std::vector<std::vector<model::StreamedBatch>>& samples,
                              const model::Placement& placement) {
    const c10::InferenceMode guard;
    const arch::ModelSpec& spec = model.spec;
    std::vector<model::StreamedBatch> batches;
    std::vector<std::unique_ptr<CountingTaps>> taps;  // one a batch
    std::vector<at::Tensor> first, chosen;            // one a domain
    for (const auto& sample : samples) {
        first.push_back(at::zeros({spec.num_layers, spec.num_experts}, at::kDouble));
        chosen.push_back(at::zeros({spec.num_layers, spec.num_experts}, at::kDouble));
        for (const model::StreamedBatch& batch : sample) {
            batches.push_back(batch);
            taps.push_back(std::make_unique<CountingTaps>(first.back(), chosen.back(), text_rows(batch)));
        }
    }
    model::LayerStream(model, placement).run(batches, [&](std::size_t batch) { return taps[batch].get(); });

    RoutingReport report;
    for (std::int64_t layer = 0; layer < spec.num_layers; ++layer)
        if (spec.layers[static_cast<std::size_t>(layer)].kind == arch::LayerKind::moe) report.layers.push_back(layer);
    const at::Tensor routed = at::tensor(report.layers, at::kLong);
    const at::Tensor tokens = at::stack(first, 1).sum(2, true).index_select(0, routed).clamp_min(1);  // [layers, domains, 1]
    report.first = at::stack(first, 1).index_select(0, routed) / tokens;
    report.chosen = at::stack(chosen, 1).index_select(0, routed) / tokens;
    return report;
}

}  // namespace mixwright::surgery
