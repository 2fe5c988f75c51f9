#include "verbs/heal.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "error.h"
#include "io/file.h"
#include "io/json.h"
#include "io/yaml.h"

namespace mixwright::verbs {
namespace {

namespace fs = std::filesystem;
using std::string_view;

constexpr std::size_t file_limit = 1u << 20;
constexpr std::array given_by_split{string_view("model"), string_view("teacher"), string_view("data"), string_view("config"), string_view("tokenizer"), string_view("adapter")};

// What stands in a recipe unless the file says it.
struct Default {
    string_view key, value;
};
constexpr std::array defaults{Default{"trainable", "mlp"},   Default{"batch_size", "8"},   Default{"warmup", "0.1"},
                              Default{"schedule", "cosine"}, Default{"weight_decay", "0"}, Default{"distill", "{logits: 1.0, hidden: 0.1}"}};
constexpr double rate_times_width = 0.25;   // 1e-3 at a width of 256, 6e-5 at 4,096

std::string quoted(const std::string& text) { return io::Json(text).dump(-1, ' ', false, io::Json::error_handler_t::replace); }

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
    for (const string_view key : given_by_split)
        if (const auto value = said.get(key)) value->refuse(fmt::format("`{}` is not for a recipe of --heal", key), "model, teacher and data are those of the split");
    const auto add = [&](string_view key, string_view value) {
        if (!said.get(key)) text += fmt::format("{}: {}\n", key, value);
    };
    for (const Default& one : defaults) add(one.key, one.value);
    add("lr", fmt::format("{:.2e}", rate_times_width / static_cast<double>(settings.hidden_size)));
    add("seq_len", std::to_string(settings.context));
    add("dtype", settings.dtype);
    std::vector<std::string> data;
    std::ranges::transform(settings.data, std::back_inserter(data), quoted);
    // Behind what the file says, so that its lines keep their numbers in complaints.
    text += fmt::format("model: {}\nteacher: {}\ndata: [{}]\n", quoted(settings.student), quoted(settings.teacher), fmt::join(data, ", "));
    return train::parse_train_recipe(text, source);
}

fs::path unhealed_path(const fs::path& out) { return out.string() + ".unhealed"; }

}  // namespace mixwright::verbs
