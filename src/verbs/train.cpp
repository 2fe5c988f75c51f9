// `train RECIPE OUT`: trains a model on text, alone or by a teacher.
#include <fmt/format.h>

#include <chrono>
#include <cmath>

#include "distributed/ranks.h"
#include "error.h"
#include "io/staged_directory.h"
#include "progress.h"
#include "verbs/resource_use.h"
#include "verbs/training_run.h"
#include "verbs/verb_table.h"

namespace mixwright::verbs {
namespace {

using Clock = std::chrono::steady_clock;
using io::Json;

// The name a recipe would have for --dtype.
std::string training_dtype(const std::string& requested) {
    const auto dtype = dtype_from_name(requested);
    if (dtype != Dtype::bf16 && dtype != Dtype::f32)
        throw Error(ErrorCode::usage, fmt::format("--dtype: cannot train in \"{}\"", printable(requested)), "use bfloat16 or float32");
    return std::string(torch_name(*dtype));
}

class Train final : public Verb {
public:
    void declare(CLI::App& app) override {
        app.add_option("RECIPE", recipe_file_, "YAML file: model, data, what to train and how")->required();
        app.add_option("OUT", out_, "directory to write; it must not exist yet")->required();
        app.add_option("--out-shard-size", shard_size_, "largest file of weights: 5GB, 500MB, ...")->capture_default_str();
        app.add_flag("--resume", write_.resume, "go on where an interrupted run of the same recipe stopped");
        app.add_flag("--force", write_.force, "replace OUT when it exists");
    }

    void run(const CommonOptions& common) override {
        const auto start = Clock::now();
        train::TrainRecipe recipe = train::read_train_recipe(recipe_file_);
        const distributed::Ranks ranks = distributed::Ranks::from_environment(recipe.expert_parallel);
        if (!ranks.leads()) set_progress_sink(nullptr);
        if (!common.dtype.empty()) recipe.dtype = training_dtype(common.dtype);
        if (common.seed != 0) recipe.seed = common.seed;
        write_.shard_bytes = checkpoint::parse_byte_size(shard_size_);
        const TrainingOutcome outcome = run_training(recipe, {.out = io::output_path(out_), .write = write_}, common.device, ranks);
        if (ranks.leads()) report(common, outcome, std::chrono::duration<double>(Clock::now() - start).count());
    }

private:
    void report(const CommonOptions& common, const TrainingOutcome& outcome, double seconds) const {
        const train::TrainResult& result = outcome.result;
        if (common.json) {
            Json json{{"out", out_},
                      {"bytes", outcome.bytes},
                      {"parameters", outcome.parameters},
                      {"active_parameters", outcome.active_parameters},
                      {"seconds", seconds},
                      {"peak_rss_bytes", peak_rss_bytes()},
                      {"trained_parameters", outcome.trained_parameters},
                      {"steps", result.steps},
                      {"tokens", result.tokens},
                      {"tokens_per_second", result.tokens_per_second()},
                      {"first_loss", result.first_loss},
                      {"last_loss", result.last_loss}};
            if (result.eval_before) json["eval_loss_before"] = *result.eval_before;
            if (result.eval_after) json["eval_loss_after"] = *result.eval_after;
            fmt::print("{}\n", json.dump());
            return;
        }
        std::string losses = fmt::format("loss {:.4f} -> {:.4f}", result.first_loss, result.last_loss);
        if (result.eval_before && result.eval_after)
            losses += fmt::format(", held-out perplexity {:.3f} -> {:.3f}", std::exp(*result.eval_before), std::exp(*result.eval_after));
        fmt::print("{}: {} steps, {}, {:.0f} tokens/s, {:.1f} s, peak memory {:.0f} MB\n", out_, result.steps, losses, result.tokens_per_second(), seconds,
                   static_cast<double>(peak_rss_bytes()) / 1e6);
    }

    std::string recipe_file_, out_, shard_size_ = "5GB";
    checkpoint::WriteOptions write_;
};

}  // namespace

std::unique_ptr<Verb> make_train() { return std::make_unique<Train>(); }

}  // namespace mixwright::verbs
