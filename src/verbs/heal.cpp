#include "verbs/heal.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "error.h"
#include "io/file.h"
#include "io/staged_directory.h"
#include "io/yaml.h"

namespace mixwright::verbs {
namespace {

namespace fs = std::filesystem;
using std::string_view;

constexpr std::size_t file_limit = 1u << 20;
constexpr std::int64_t most_tokens = 1 << 26;  // of text that is read, when the recipe counts epochs
constexpr std::array given_by_verb{string_view("model"), string_view("teacher"), string_view("data"), string_view("config"), string_view("tokenizer"), string_view("adapter")};

// What stands in a recipe unless the file says it.
struct Default {
    string_view key, value;
};
constexpr std::int64_t default_batch = 8;
constexpr std::array defaults{Default{"warmup", "0.1"}, Default{"schedule", "cosine"}, Default{"weight_decay", "0"},
                              Default{"distill", "{logits: 1.0, hidden: 0.1}"}};
constexpr double rate_times_width = 0.25;       // 1e-3 at a width of 256, 6e-5 at 4,096
constexpr double tokens_of_full_rate = 2048;    // of a step; fewer are noisier, and the rate falls with their root (arXiv 2205.10287)

std::string quoted(const std::string& text) { return io::Json(text).dump(-1, ' ', false, io::Json::error_handler_t::replace); }

double default_rate(const io::Yaml& said, const HealSettings& settings) {
    constexpr std::int64_t many = 1'000'000;
    const auto number = [&](string_view key, std::int64_t otherwise) {
        const auto value = said.get(key);
        return value ? value->integer(1, many) : otherwise;
    };
    const auto tokens = static_cast<double>(number("batch_size", default_batch) * number("grad_accumulation", 1) * number("seq_len", settings.context));
    return rate_times_width / static_cast<double>(settings.hidden_size) * std::min(1.0, std::sqrt(tokens / tokens_of_full_rate));
}

}  // namespace

train::TrainRecipe heal_recipe(const HealSettings& settings) {
    std::int64_t steps = 0;
    const char* const end = settings.heal.data() + settings.heal.size();
    const auto [rest, error] = std::from_chars(settings.heal.data(), end, steps);
    std::string text, source = "--heal";
    if (error == std::errc{} && rest == end) {
        if (steps < 1) throw Error(ErrorCode::usage, fmt::format("--heal {}: at least one step", steps));
        text = fmt::format("steps: {}\n", steps);
    } else if (fs::is_regular_file(settings.heal)) {
        source = settings.heal;
        text = io::read_file(settings.heal, file_limit);
        if (!text.ends_with('\n')) text += '\n';
    } else {
        throw Error(ErrorCode::usage, fmt::format("--heal {}: neither a number of steps nor a file", printable(settings.heal)), "for example --heal 200, or a file with `steps: 200`, `lr: ...`");
    }
    const io::Yaml said = io::Yaml::parse(text, source);
    if (!said.is_map()) said.refuse("the recipe is not a mapping", "it needs at least `steps:`");
    for (const string_view key : given_by_verb)
        if (const auto value = said.get(key)) value->refuse(fmt::format("`{}` is not for a recipe of --heal", key), "model, teacher and data are those of the command line");
    const auto add = [&](string_view key, string_view value) {
        if (!said.get(key)) text += fmt::format("{}: {}\n", key, value);
    };
    for (const Default& one : defaults) add(one.key, one.value);
    add("batch_size", std::to_string(default_batch));
    add("trainable", settings.trainable);
    add("lr", fmt::format("{:.2e}", default_rate(said, settings)));
    add("seq_len", std::to_string(settings.context));
    add("dtype", settings.dtype);
    std::vector<std::string> data;
    std::ranges::transform(settings.data, std::back_inserter(data), quoted);
    // Behind what the file says, so that its lines keep their numbers in complaints.
    text += fmt::format("model: {}\nteacher: {}\ndata: [{}]\n", quoted(settings.student), quoted(settings.teacher), fmt::join(data, ", "));
    return train::parse_train_recipe(text, source);
}

std::int64_t heal_tokens(const HealSettings& settings) {
    if (settings.heal.empty()) return 0;
    const train::TrainRecipe recipe = heal_recipe(settings);
    return recipe.steps ? std::min(most_tokens, *recipe.steps * recipe.batch_size * recipe.grad_accumulation * recipe.seq_len + 1) : most_tokens;
}

fs::path unhealed_path(const fs::path& out) { return out.string() + ".unhealed"; }

TrainingOutcome heal(const Healing& healing, const CommonOptions& common) {
    HealSettings settings = healing.settings;
    settings.student = unhealed_path(healing.out).string();
    train::TrainRecipe recipe = heal_recipe(settings);
    if (common.seed != 0) recipe.seed = common.seed;
    const auto length = static_cast<std::size_t>(recipe.seq_len);
    TrainingData data{.learn = data::PackedSequences(healing.text, length), .judge = data::PackedSequences(healing.judge, length)};
    if (data.learn.size() == 0 || data.learn.num_learnt() == 0)
        throw Error(ErrorCode::mismatch, fmt::format("{}: {} tokens to heal it with, not one sequence of {}", healing.out.string(), healing.text.size(), length),
                    "give more text (--data), or a shorter --ctx");
    const auto card = [&](const TrainingOutcome& outcome) -> std::string {
        if (healing.card.empty()) return {};
        return healing.card + fmt::format("\n## Healed\n\nThen distilled from the mixture it was made of ({}, {:.2f} M weights) for {} steps of {} tokens. The recipe is in "
                                          "`train_recipe.yml`, the loss of every step in `train_metrics.jsonl` and drawn in `train_curve.html`.\n\n{}",
                                          recipe.trained_parts(), static_cast<double>(outcome.trained_parameters) / 1e6, outcome.result.steps,
                                          recipe.batch_size * recipe.grad_accumulation * recipe.seq_len, loss_table(outcome.result));
    };
    return run_training(recipe, {.out = io::output_path(healing.out), .write = healing.write, .data = std::move(data), .card = card, .files = healing.files}, common.device);
}

io::Json heal_json(const train::TrainResult& run) {
    io::Json json{{"steps", run.steps}, {"tokens", run.tokens}, {"tokens_per_second", run.tokens_per_second()}, {"first_loss", run.first_loss}, {"last_loss", run.last_loss}};
    if (run.eval_before) json["eval_loss_before"] = *run.eval_before;
    if (run.eval_after) json["eval_loss_after"] = *run.eval_after;
    return json;
}

}  // namespace mixwright::verbs
