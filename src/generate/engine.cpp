#include "generate/engine.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "error.h"
#include "progress.h"

namespace mixwright::generate {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// A long prompt goes in by pieces: activations stay small, and the cache makes the result the same.
constexpr std::int64_t prompt_chunk = 2048;

}  // namespace

GenerateResult generate(const model::Model& model, std::span<const std::int64_t> prompt, const GenerateOptions& options,
                        const std::function<bool(std::int64_t)>& on_token, model::Taps* taps) {
    const c10::InferenceMode guard;
    const std::int64_t context = options.context_size > 0 ? options.context_size : model.decoder.spec().max_positions;
    if (prompt.empty()) throw Error(ErrorCode::usage, "the prompt is empty", "give at least one token");
    if (static_cast<std::int64_t>(prompt.size()) > context)
        throw Error(ErrorCode::failed, fmt::format("the prompt does not fit the context (got {} tokens, limit {})", prompt.size(), context),
                    "shorten the prompt or raise the context size");

    Sampler sampler(options.sampling);
    model::KvCache cache(model.decoder.spec(), context);
    std::vector<std::int64_t> ids(prompt.begin(), prompt.end());
    const auto forward = [&](std::int64_t first, std::int64_t count) {
        const at::Tensor input = at::tensor(at::ArrayRef<std::int64_t>(ids.data() + first, static_cast<std::size_t>(count)), at::kLong)
                                     .unsqueeze(0).to(model.placement.device);
        const model::Step step = model.decoder.step(count, model.placement.device, &cache, taps);
        return model.decoder.run(model.weights, input, step).select(1, count - 1);  // [1, D]
    };

    GenerateResult result;
    auto start = Clock::now();
    at::Tensor last;
    for (std::int64_t first = 0; first < static_cast<std::int64_t>(prompt.size()); first += prompt_chunk) {
        check_interrupted();
        last = forward(first, std::min<std::int64_t>(prompt_chunk, static_cast<std::int64_t>(prompt.size()) - first));
    }
    result.prompt_seconds = seconds_since(start);

    start = Clock::now();
    while (static_cast<std::int64_t>(result.ids.size()) < options.max_new_tokens) {
        check_interrupted();
        const std::int64_t id = sampler.sample(model.decoder.logits(model.weights, last).squeeze(0), ids);
        if (std::ranges::find(options.stop_ids, id) != options.stop_ids.end()) {
            result.stopped = true;
            break;
        }
        ids.push_back(id);
        result.ids.push_back(id);
        if (on_token && !on_token(id)) {
            result.stopped = true;
            break;
        }
        const auto length = static_cast<std::int64_t>(ids.size());
        if (length > context || static_cast<std::int64_t>(result.ids.size()) == options.max_new_tokens) break;
        last = forward(length - 1, 1);
    }
    result.decode_seconds = seconds_since(start);
    return result;
}

}  // namespace mixwright::generate
