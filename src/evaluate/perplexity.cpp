#include "evaluate/perplexity.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "error.h"
#include "model/layer_stream.h"
#include "progress.h"

namespace mixwright::evaluate {
namespace {

// Windows of one length, stacked: inputs [B, L] and the tokens they predict [B, L - 1].
std::vector<at::Tensor> make_batches(std::span<const std::int64_t> ids, std::optional<std::int64_t> bos, const PerplexityOptions& options) {
    const auto prefix = static_cast<std::int64_t>(bos.has_value());
    const std::int64_t stride = options.context - prefix;  // tokens of the text in a window
    auto total = static_cast<std::int64_t>(ids.size());
    if (options.max_tokens > 0) total = std::min(total, options.max_tokens);

    std::vector<at::Tensor> batches, open;
    const auto close = [&] {
        if (!open.empty()) batches.push_back(at::stack(open));
        open.clear();
    };
    for (std::int64_t first = 0; first < total; first += stride) {
        const std::int64_t count = std::min(stride, total - first);
        if (count + prefix < 2) break;
        std::vector<std::int64_t> window;
        if (bos) window.push_back(*bos);
        window.insert(window.end(), ids.begin() + first, ids.begin() + first + count);
        if (count < stride) close();  // the last window may be shorter: it cannot be stacked with the others
        open.push_back(at::tensor(window, at::kLong));
        if (static_cast<std::int64_t>(open.size()) == options.batch) close();
    }
    close();
    if (batches.empty())
        throw Error(ErrorCode::mismatch, "the text is too short to be predicted", "it must have at least two tokens");
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
void add_batch(Mean& mean, const model::Decoder& decoder, const model::ModelWeights& weights, const at::Tensor& ids, const at::Tensor& hidden) {
    const std::int64_t predicted = ids.size(1) - 1;
    const at::Tensor states = hidden.narrow(1, 0, predicted).reshape({-1, hidden.size(2)});
    mean.add(token_nll(decoder, weights, states, ids.narrow(1, 1, predicted).reshape({-1}).to(hidden.device())));
}

}  // namespace

double Perplexity::perplexity() const { return std::exp(nll); }

at::Tensor token_nll(const model::Decoder& decoder, const model::ModelWeights& weights, const at::Tensor& hidden_ND, const at::Tensor& targets_N) {
    constexpr std::int64_t rows = 256;  // times a vocabulary of 150,000 in f32: 150 MB
    std::vector<at::Tensor> parts;
    for (std::int64_t first = 0; first < hidden_ND.size(0); first += rows) {
        const std::int64_t count = std::min(rows, hidden_ND.size(0) - first);
        const at::Tensor logits = decoder.logits(weights, hidden_ND.narrow(0, first, count)).to(at::kFloat);
        const at::Tensor chosen = logits.gather(1, targets_N.narrow(0, first, count).unsqueeze(1)).squeeze(1);
        parts.push_back(logits.logsumexp(1) - chosen);
    }
    return at::cat(parts);
}

Perplexity perplexity(const model::Model& model, std::span<const std::int64_t> ids, std::optional<std::int64_t> bos,
                      const PerplexityOptions& options) {
    const c10::InferenceMode guard;
    const std::vector<at::Tensor> batches = make_batches(ids, bos, options);
    Mean mean;
    Progress progress("evaluating", ids.size(), "tokens");
    for (const at::Tensor& batch : batches) {
        const at::Tensor input = batch.to(model.placement.device);
        const model::Step step = model.decoder.step(batch.size(1), model.placement.device);
        add_batch(mean, model.decoder, model.weights, batch, model.decoder.run(model.weights, input, step));
        progress.advance(static_cast<std::uint64_t>(batch.numel()));
    }
    return mean.result();
}

Perplexity perplexity_streamed(const arch::OpenModel& model, const model::Placement& placement, std::span<const std::int64_t> ids,
                               std::optional<std::int64_t> bos, const PerplexityOptions& options) {
    const c10::InferenceMode guard;
    const model::LayerStream stream(model, placement);
    std::vector<model::StreamedBatch> batches;
    for (const at::Tensor& batch : make_batches(ids, bos, options)) batches.push_back({batch, {}});
    const std::vector<at::Tensor> hidden = stream.run(batches);
    Mean mean;
    for (std::size_t b = 0; b < batches.size(); ++b) add_batch(mean, stream.decoder(), stream.outer(), batches[b].ids, hidden[b]);
    return mean.result();
}

}  // namespace mixwright::evaluate
