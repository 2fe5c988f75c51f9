#include "generate/batch.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <list>

#include "error.h"
#include "progress.h"

namespace mixwright::generate {
namespace {

using Clock = std::chrono::steady_clock;

// Tokens of a step: long prompts go in by pieces, beside the next tokens of the others.
constexpr std::int64_t step_tokens = 2048;

struct Sequence {
    std::size_t number;            // of its prompt
    std::vector<std::int64_t> ids;
    model::KvCache cache;
    Sampler sampler;

    std::int64_t waiting() const { return static_cast<std::int64_t>(ids.size()) - cache.length(); }
};

class Batch {
public:
    Batch(const model::Model& model, std::span<const std::vector<std::int64_t>> prompts, const GenerateOptions& options,
          const std::function<bool(std::size_t, std::int64_t)>& on_token)
        : model_(model), prompts_(prompts), options_(options), on_token_(on_token), results_(prompts.size()),
          context_(options.context_size > 0 ? options.context_size : model.decoder.spec().max_positions) {
        for (std::size_t i = 0; i < prompts.size(); ++i) {
            if (prompts[i].empty()) throw Error(ErrorCode::usage, fmt::format("prompt {} is empty", i + 1), "give at least one token");
            if (static_cast<std::int64_t>(prompts[i].size()) > context_)
                throw Error(ErrorCode::failed, fmt::format("prompt {} does not fit the context (got {} tokens, limit {})", i + 1, prompts[i].size(), context_),
                            "shorten the prompt or raise the context size");
        }
    }

    std::vector<GenerateResult> run(std::size_t parallel) {
        Progress progress("generating", prompts_.size(), "prompts");
        std::size_t next = 0;
        while (next < prompts_.size() || !active_.empty()) {
            check_interrupted();
            for (; next < prompts_.size() && active_.size() < parallel; ++next) start(next);
            const std::size_t before = active_.size();
            step();
            progress.advance(before - active_.size());
        }
        return std::move(results_);
    }

private:
    void start(std::size_t number) {
        if (options_.max_new_tokens == 0) return;
        SamplingOptions sampling = options_.sampling;
        sampling.seed += number;
        active_.push_back({number, prompts_[number], model::KvCache(model_.decoder.spec(), context_), Sampler(sampling)});
    }

    // Runs the next tokens of as many sequences as fit a step; those whose tokens have all been seen get a new one.
    void step() {
        if (active_.empty()) return;
        const auto began = Clock::now();
        std::vector<model::Segment> segments;
        std::vector<std::int64_t> ids, last;           // last: rows whose logits are asked for
        std::vector<std::list<Sequence>::iterator> ready;
        bool prompt = false;
        for (auto sequence = active_.begin(); sequence != active_.end() && static_cast<std::int64_t>(ids.size()) < step_tokens; ++sequence) {
            const auto first = static_cast<std::int64_t>(ids.size()), count = std::min(sequence->waiting(), step_tokens - first);
            const auto from = sequence->ids.begin() + sequence->cache.length();
            if (count == sequence->waiting()) {
                ready.push_back(sequence);
                last.push_back(first + count - 1);
            }
            prompt |= count > 1;
            ids.insert(ids.end(), from, from + count);
            segments.push_back({first, count, &sequence->cache});
        }
        const at::Device device = model_.placement.device;
        const at::Tensor hidden = model_.run(at::tensor(ids, at::kLong).unsqueeze(0).to(device), model_.decoder.step(std::move(segments), device)).squeeze(0);
        if (!ready.empty()) {
            const at::Tensor logits = model_.logits(hidden.index_select(0, at::tensor(last, at::kLong).to(device)));
            for (std::size_t i = 0; i < ready.size(); ++i)
                if (!extend(*ready[i], logits.select(0, static_cast<std::int64_t>(i)))) active_.erase(ready[i]);
        }
        const double seconds = std::chrono::duration<double>(Clock::now() - began).count();
        for (GenerateResult& result : results_) (prompt ? result.prompt_seconds : result.decode_seconds) += seconds;
    }

    // Chooses the next token; whether the sequence goes on.
    bool extend(Sequence& sequence, const at::Tensor& logits) {
        GenerateResult& result = results_[sequence.number];
        const std::int64_t id = sequence.sampler.sample(logits, sequence.ids);
        if (std::ranges::find(options_.stop_ids, id) != options_.stop_ids.end()) {
            result.stopped = true;
            return false;
        }
        sequence.ids.push_back(id);
        result.ids.push_back(id);
        if (on_token_ && !on_token_(sequence.number, id)) {
            result.stopped = true;
            return false;
        }
        return static_cast<std::int64_t>(sequence.ids.size()) <= context_ && static_cast<std::int64_t>(result.ids.size()) < options_.max_new_tokens;
    }

    const model::Model& model_;
    std::span<const std::vector<std::int64_t>> prompts_;
    const GenerateOptions& options_;
    const std::function<bool(std::size_t, std::int64_t)>& on_token_;
    std::vector<GenerateResult> results_;
    std::int64_t context_;
    std::list<Sequence> active_;   // a list: segments point to their caches
};

}  // namespace

std::vector<GenerateResult> generate_together(const model::Model& model, std::span<const std::vector<std::int64_t>> prompts, const GenerateOptions& options,
                                              std::int64_t parallel, const std::function<bool(std::size_t, std::int64_t)>& on_token) {
    const c10::InferenceMode guard;
    if (parallel < 1) throw Error(ErrorCode::usage, fmt::format("--parallel: out of range (got {}, allowed 1 and up)", parallel));
    return Batch(model, prompts, options, on_token).run(static_cast<std::size_t>(parallel));
}

}  // namespace mixwright::generate
