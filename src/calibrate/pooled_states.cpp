#include "calibrate/pooled_states.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <memory>

namespace mixwright::calibrate {
namespace {

// Rows pass the model in groups of about so many tokens: the widest intermediate of a layer stays small.
constexpr std::int64_t tokens_at_once = 4096;

class PoolingTaps final : public model::Taps {
public:
    PoolingTaps(at::Tensor sums, StatePlace place, Pooling pooling) : sums_(std::move(sums)), place_(place), pooling_(pooling) {}

    void layer_input(std::int64_t layer, const at::Tensor& hidden_BLD) override {
        if (place_ == StatePlace::layer_input) add(layer, hidden_BLD);
    }
    void mlp_input(std::int64_t layer, const at::Tensor& hidden_BLD) override {
        if (place_ == StatePlace::mlp_input) add(layer, hidden_BLD);
    }

private:
    void add(std::int64_t layer, const at::Tensor& hidden_BLD) {
        const at::Tensor pooled = pooling_ == Pooling::last_token ? hidden_BLD.select(1, hidden_BLD.size(1) - 1).to(at::kFloat)
                                                                  : hidden_BLD.to(at::kFloat).mean(1);
        sums_[layer].add_(pooled.sum(0).to(at::kCPU));
    }

    at::Tensor sums_;  // [layers, D] f32
    StatePlace place_;
    Pooling pooling_;
};

}  // namespace

std::vector<at::Tensor> pooled_states(const arch::OpenModel& model, const std::vector<model::StreamedBatch>& batches,
                                      const model::Placement& placement, StatePlace place, Pooling pooling) {
    const c10::InferenceMode guard;
    std::vector<at::Tensor> sums;
    std::vector<model::StreamedBatch> groups;
    std::vector<std::unique_ptr<PoolingTaps>> taps;  // one a group
    for (const model::StreamedBatch& batch : batches) {
        sums.push_back(at::zeros({model.spec.num_layers, model.spec.hidden_size}, at::kFloat));
        const std::int64_t rows_at_once = std::max<std::int64_t>(1, tokens_at_once / batch.ids.size(1));
        for (std::int64_t row = 0; row < batch.ids.size(0); row += rows_at_once) {
            const std::int64_t rows = std::min(rows_at_once, batch.ids.size(0) - row);
            groups.push_back({batch.ids.narrow(0, row, rows), batch.key_mask.defined() ? batch.key_mask.narrow(0, row, rows) : at::Tensor()});
            taps.push_back(std::make_unique<PoolingTaps>(sums.back(), place, pooling));
        }
    }
    model::LayerStream(model, placement).run(groups, [&](std::size_t group) { return taps[group].get(); });
    for (std::size_t b = 0; b < batches.size(); ++b) sums[b].div_(static_cast<double>(batches[b].ids.size(0)));
    return sums;
}

}  // namespace mixwright::calibrate
