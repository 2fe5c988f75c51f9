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

Session::Session(const model::Model& model, std::int64_t context_size)
    : model_(model), cache_(model.decoder.spec(), context_size > 0 ? context_size : model.decoder.spec().max_positions) {}

at::Tensor Session::extend(std::int64_t end, model::Taps* taps) {
    at::Tensor last;
    while (cache_.length() < end) {
        check_interrupted();
        const std::int64_t first = cache_.length(), count = std::min(prompt_chunk, end - first);
        const at::Tensor input = at::tensor(at::ArrayRef<std::int64_t>(ids_.data() + first, static_cast<std::size_t>(count)), at::kLong)
                                     .unsqueeze(0).to(model_.placement.device);
        model::Step step = model_.decoder.step(count, model_.placement.device, &cache_, taps);
        step.last_only = taps == nullptr;  // who listens hears of every token
        last = model_.run(input, step).select(1, -1);
    }
    return last;
}

GenerateResult Session::generate(std::span<const std::int64_t> prompt, const GenerateOptions& options,
                                 const std::function<bool(std::int64_t)>& on_token, model::Taps* taps) {
    const c10::InferenceMode guard;
    if (prompt.empty()) throw Error(ErrorCode::usage, "the prompt is empty", "give at least one token");
    const auto prompt_length = static_cast<std::int64_t>(prompt.size());
    if (prompt_length > context_size())
        throw Error(ErrorCode::failed, fmt::format("the prompt does not fit the context (got {} tokens, limit {})", prompt_length, context_size()),
                    "shorten the prompt or raise the context size");
    Sampler sampler(options.sampling);

    GenerateResult result;
    auto start = Clock::now();
    const auto common = std::ranges::mismatch(ids_, prompt).in1 - ids_.begin();
    // The last token of the prompt is always run: its hidden state is what the first new token is chosen from.
    cache_.truncate(taps != nullptr ? 0 : std::min<std::int64_t>(common, prompt_length - 1));
    result.reused = cache_.length();
    ids_.assign(prompt.begin(), prompt.end());
    at::Tensor last = extend(prompt_length, taps);
    result.prompt_seconds = seconds_since(start);

    start = Clock::now();
    while (static_cast<std::int64_t>(result.ids.size()) < options.max_new_tokens) {
        check_interrupted();
        const std::int64_t id = sampler.sample(model_.logits(last).squeeze(0), ids_);
        if (std::ranges::find(options.stop_ids, id) != options.stop_ids.end()) {
            result.stopped = true;
            break;
        }
        ids_.push_back(id);
        result.ids.push_back(id);
        if (on_token && !on_token(id)) {
            result.stopped = true;
            break;
        }
        const auto length = static_cast<std::int64_t>(ids_.size());
        if (length > context_size() || static_cast<std::int64_t>(result.ids.size()) == options.max_new_tokens) break;
        last = extend(length, taps);
    }
    result.decode_seconds = seconds_since(start);
    return result;
}

GenerateResult generate(const model::Model& model, std::span<const std::int64_t> prompt, const GenerateOptions& options,
                        const std::function<bool(std::int64_t)>& on_token, model::Taps* taps) {
    return Session(model, options.context_size).generate(prompt, options, on_token, taps);
}

}  // namespace mixwright::generate
