// `bench`: how fast a model reads and writes here.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <vector>

#include "error.h"
#include "progress.h"
#include "verbs/model_options.h"
#include "verbs/resource_use.h"
#include "verbs/verb_table.h"

namespace mixwright::verbs {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

class Bench final : public Verb {
public:
    void declare(CLI::App& app) override {
        app.add_option("MODEL", model_, "directory, .gguf file or org/name in the hub cache")->required();
        app.add_option("-p,--n-prompt", prompt_, "tokens of a prompt (default 512)")->check(CLI::Range(1, 1 << 20));
        app.add_option("-n,--n-gen", generated_, "tokens to generate, one sequence alone (default 64)")->check(CLI::Range(1, 1 << 20));
        app.add_option("-b,--batch", batch_, "prompts read together (default 8)")->check(CLI::Range(1, 1 << 16));
        app.add_option("-r,--repetitions", repetitions_, "how often to repeat; the median counts (default 3)")->check(CLI::Range(1, 1000));
        declare_quantization(app, model_options_);
        declare_streaming(app, model_options_);
    }

    void run(const CommonOptions& common) override {
        const auto start = Clock::now();
        arch::OpenModel files = arch::open_model(model_);
        const model::Model model = load_model(common, std::move(files), model_options_);
        const c10::InferenceMode guard;
        const std::int64_t vocab = model.decoder.spec().vocab_size;
        std::mt19937_64 random(common.seed);
        std::uniform_int_distribution<std::int64_t> any_id(0, vocab - 1);
        std::vector<std::int64_t> ids(static_cast<std::size_t>(batch_ * prompt_));
        std::ranges::generate(ids, [&] { return any_id(random); });
        const at::Tensor input = at::tensor(ids, at::kLong).view({batch_, prompt_}).to(model.placement.device);

        // The first token: what a person waits for. It also brings the weights into memory.
        decode(model, input.narrow(0, 0, 1).narrow(1, 0, 1), 1);
        const double load_seconds = seconds_since(start);

        std::vector<double> prefill, decoding;
        Progress progress("measuring", static_cast<std::uint64_t>(repetitions_), "runs");
        for (std::int64_t i = 0; i < repetitions_; ++i) {
            prefill.push_back(static_cast<double>(batch_ * prompt_) / prefill_seconds(model, input));
            decoding.push_back(static_cast<double>(generated_) / decode(model, input.narrow(0, 0, 1).narrow(1, 0, 1), generated_));
            progress.advance();
        }
        report(common, median(prefill), median(decoding), load_seconds);
    }

private:
    static double median(std::vector<double> values) {
        std::ranges::sort(values);
        return values[values.size() / 2];
    }

    // Reads `input` [B, L] into a cache and chooses the next token of each sequence.
    static double prefill_seconds(const model::Model& model, const at::Tensor& input) {
        const auto start = Clock::now();
        model::KvCache cache(model.decoder.spec(), input.size(1));
        model::Step step = model.decoder.step(input.size(1), input.device(), &cache);
        step.last_only = true;
        model.logits(model.run(input, step).select(1, 0)).argmax(-1).to(at::kCPU);
        return seconds_since(start);
    }

    // Generates greedily after the one token of `input`.
    static double decode(const model::Model& model, const at::Tensor& input, std::int64_t count) {
        model::KvCache cache(model.decoder.spec(), count);
        at::Tensor id = input;
        const auto start = Clock::now();
        for (std::int64_t i = 0; i < count; ++i) {
            check_interrupted();
            const at::Tensor hidden = model.run(id, model.decoder.step(1, input.device(), &cache));
            id = model.logits(hidden.select(1, 0)).argmax(-1, true);
            id.to(at::kCPU);  // the work of a GPU is done when its result is here
        }
        return seconds_since(start);
    }

    void report(const CommonOptions& common, double prefill, double decoding, double load_seconds) const {
        if (common.json) {
            fmt::print("{}\n", io::Json{{"prefill_tokens_per_second", prefill}, {"decode_tokens_per_second", decoding}, {"load_seconds", load_seconds},
                                        {"peak_rss_bytes", peak_rss_bytes()}}.dump());
            return;
        }
        fmt::print("prefill  {:>9.1f} tokens/s  ({} x {} tokens)\n", prefill, batch_, prompt_);
        fmt::print("decode   {:>9.1f} tokens/s  ({} tokens, one sequence)\n", decoding, generated_);
        fmt::print("load     {:>9.2f} s         (to the first token)\n", load_seconds);
        fmt::print("memory   {:>9.0f} MB        (peak)\n", static_cast<double>(peak_rss_bytes()) / 1e6);
    }

    std::string model_;
    ModelOptions model_options_;
    std::int64_t prompt_ = 512, generated_ = 64, batch_ = 8, repetitions_ = 3;
};

}  // namespace

std::unique_ptr<Verb> make_bench() { return std::make_unique<Bench>(); }

}  // namespace mixwright::verbs
