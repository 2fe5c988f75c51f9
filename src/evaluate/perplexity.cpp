#include "evaluate/perplexity.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "error.h"
#include "model/head.h"
#include "model/layer_stream.h"
#include "progress.h"

namespace mixwright::evaluate {
namespace {

// Windows of one length, stacked.
struct Batch {
    at::Tensor ids;     // int64 [B, L]
    at::Tensor counts;  // bool [B, L - 1]: whether the prediction of ids[:, 1:] counts
};

std::vector<Batch> make_batches(const data::TokenStream& text, std::optional<std::int64_t> bos, const PerplexityOptions& options) {
    const auto prefix = static_cast<std::int64_t>(bos.has_value());
    const std::int64_t stride = options.context - prefix;  // tokens of the text in a window
    auto total = static_cast<std::int64_t>(text.size());
    if (options.max_tokens > 0) total = std::min(total, options.max_tokens);

    std::vector<Batch> batches;
    std::vector<at::Tensor> ids, counts;
    const auto close = [&] {
        if (!ids.empty()) batches.push_back({at::stack(ids), at::stack(counts)});
        ids.clear();
        counts.clear();
    };
    std::int64_t counted = 0;
    for (std::int64_t first = 0; first < total; first += stride) {
        const std::int64_t count = std::min(stride, total - first);
        if (count + prefix < 2) break;
        std::vector<std::int64_t> window(text.ids.begin() + first, text.ids.begin() + first + count);
        if (bos) window.insert(window.begin(), *bos);
        const std::vector<std::uint8_t> learn(text.learn.begin() + first + 1 - prefix, text.learn.begin() + first + count);
        counted += std::count(learn.begin(), learn.end(), 1);
        if (count < stride) close();  // the last window may be shorter: it cannot be stacked with the others
        ids.push_back(at::tensor(window, at::kLong));
        counts.push_back(at::tensor(learn, at::kByte).to(at::kBool));
        if (static_cast<std::int64_t>(ids.size()) == options.batch) close();
    }
    close();
    if (counted == 0)
        throw Error(ErrorCode::mismatch, "the text has no token to predict", "it must have at least two tokens, or a completion");
    return batches;
}

class Mean {
public:
    void add(const at::Tensor& nll) {
        const at::Tensor values = nll.to(at::kCPU, at::kDouble);
        sum_ += values.sum().item<double>();
        squares_ += values.square().sum().item<double>();
        count_ += values.numel();
    }
    Perplexity result() const {
        const auto n = static_cast<double>(count_);
        const double mean = sum_ / n, variance = std::max(0.0, squares_ / n - mean * mean);
        if (!std::isfinite(mean))
            throw Error(ErrorCode::failed, "the model's predictions are not finite numbers", "check the weights: mixwright inspect MODEL --verify");
        return {mean, std::sqrt(variance / n), count_};
    }

private:
    double sum_ = 0, squares_ = 0;
    std::int64_t count_ = 0;
};

// Adds the likelihoods of a batch whose final hidden states are [B, L, D].
void add_batch(Mean& mean, const model::Decoder& decoder, const model::ModelWeights& weights, const Batch& batch, const at::Tensor& hidden) {
    const std::int64_t predicted = batch.ids.size(1) - 1;
    const at::Tensor chosen = batch.counts.reshape({-1}).nonzero().squeeze(1).to(hidden.device());
    const at::Tensor states = hidden.narrow(1, 0, predicted).reshape({-1, hidden.size(2)}).index_select(0, chosen);
    const at::Tensor targets = batch.ids.narrow(1, 1, predicted).reshape({-1}).to(hidden.device()).index_select(0, chosen);
    if (targets.numel() > 0) mean.add(model::token_losses(decoder, weights, states, targets));
}

}  // namespace

double Perplexity::perplexity() const { return std::exp(nll); }

Perplexity perplexity(const model::Model& model, const data::TokenStream& text, std::optional<std::int64_t> bos,
                      const PerplexityOptions& options) {
    const c10::InferenceMode guard;
    const std::vector<Batch> batches = make_batches(text, bos, options);
    std::int64_t total = 0;
    for (const Batch& batch : batches) total += batch.ids.numel();
    Mean mean;
    Progress progress("evaluating", static_cast<std::uint64_t>(total), "tokens");
    for (const Batch& batch : batches) {
        const model::Step step = model.decoder.step(batch.ids.size(1), model.placement.device);
        add_batch(mean, model.decoder, model.weights, batch, model.decoder.run(model.weights, batch.ids.to(model.placement.device), step));
        progress.advance(static_cast<std::uint64_t>(batch.ids.numel()));
    }
    return mean.result();
}

Perplexity perplexity_streamed(const arch::OpenModel& model, const model::Placement& placement, const data::TokenStream& text,
                               std::optional<std::int64_t> bos, const PerplexityOptions& options) {
    const c10::InferenceMode guard;
    const std::vector<Batch> batches = make_batches(text, bos, options);
    const model::LayerStream stream(model, placement);
    std::vector<model::StreamedBatch> inputs;
    for (const Batch& batch : batches) inputs.push_back({batch.ids, {}});
    const std::vector<at::Tensor> hidden = stream.run(inputs);
    Mean mean;
    const model::ModelWeights outer = stream.outer();
    for (std::size_t b = 0; b < batches.size(); ++b) add_batch(mean, stream.decoder(), outer, batches[b], hidden[b]);
    return mean.result();
}

}  // namespace mixwright::evaluate
