#include "train/recipe.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "dtype.h"
#include "error.h"
#include "io/file.h"
#include "io/json.h"
#include "io/paths.h"
#include "io/yaml.h"
#include "nearest.h"

namespace mixwright::train {
namespace {

using io::Yaml;
namespace fs = std::filesystem;

using std::string_view;

constexpr std::array decay_names{string_view("constant"), string_view("linear"), string_view("cosine")};
constexpr std::array trainable_names{string_view("all"), string_view("mlp"), string_view("experts"), string_view("router"), string_view("lora")};
constexpr std::array lora_targets{string_view("q_proj"), string_view("k_proj"), string_view("v_proj"), string_view("o_proj"),
                                  string_view("gate_proj"), string_view("up_proj"), string_view("down_proj"),
                                  string_view("w1"), string_view("w2"), string_view("w3")};
constexpr std::int64_t many = 1'000'000'000;

template <std::size_t N>
std::size_t index_of(const Yaml& value, const std::array<string_view, N>& names, string_view what) {
    const auto it = std::ranges::find(names, value.text());
    if (it == names.end())
        value.refuse(fmt::format("unknown {} \"{}\"", what, printable(value.text())),
                     fmt::format("{}known: {}", did_you_mean(value.text(), names), fmt::join(names, ", ")));
    return static_cast<std::size_t>(it - names.begin());
}

std::vector<fs::path> find_data(const Yaml& value, const fs::path& recipe_folder) {
    std::vector<fs::path> found;
    for (const std::string& text : value.texts()) {
        if (auto path = io::find_path(text, recipe_folder))
            found.push_back(std::move(*path));
        else
            value.refuse(fmt::format("data \"{}\" is not there", printable(text)), "give a text file, a .jsonl file or a folder of either");
    }
    if (found.empty()) value.refuse("the list of data is empty");
    return found;
}

LoraRecipe read_lora(const Yaml& value) {
    constexpr std::array keys{string_view("rank"), string_view("alpha"), string_view("targets")};
    value.expect_keys(keys);
    LoraRecipe lora;
    if (const auto rank = value.get("rank")) lora.rank = rank->integer(1, 4096);
    lora.alpha = 2 * static_cast<double>(lora.rank);
    if (const auto alpha = value.get("alpha")) lora.alpha = alpha->number(1e-3, 1e6);
    if (const auto targets = value.get("targets")) {
        if (targets->is_scalar() && targets->text() == "all") return lora;
        if (targets->is_scalar())
            index_of(*targets, lora_targets, "target");
        else
            for (const Yaml& target : targets->items()) index_of(target, lora_targets, "target");
        lora.targets = targets->texts();
    }
    return lora;
}

// "7", "4-27" or "4-".
void read_layers(const Yaml& value, TrainRecipe& recipe) {
    const std::string& text = value.text();
    const char* const end = text.data() + text.size();
    auto [rest, error] = std::from_chars(text.data(), end, recipe.first_layer);
    bool valid = error == std::errc{} && recipe.first_layer >= 0;
    if (valid && rest == end) {
        recipe.last_layer = recipe.first_layer;
    } else if (valid && *rest == '-') {
        if (++rest != end) {
            const auto [stop, last_error] = std::from_chars(rest, end, recipe.last_layer);
            valid = last_error == std::errc{} && stop == end;
        }
    } else {
        valid = false;
    }
    if (!valid || recipe.last_layer < recipe.first_layer)
        value.refuse(fmt::format("got \"{}\", expected a layer (7) or a range of layers (4-27, 4-)", printable(text)));
}

// A count of steps, or a share of them: "10" or "0.1".
void read_warmup(const Yaml& value, TrainRecipe& recipe) {
    const double number = value.number(0, static_cast<double>(many));
    if (number < 1) {
        recipe.warmup_share = number;
    } else {
        if (number != std::floor(number)) value.refuse(fmt::format("got {}, expected a number of steps (10) or a share below 1 (0.1)", value.text()));
        recipe.warmup_steps = static_cast<std::int64_t>(number);
    }
}

io::Json to_json(const Yaml& value) {
    if (value.is_null()) return nullptr;
    if (value.is_list()) {
        io::Json list = io::Json::array();
        for (const Yaml& item : value.items()) list.push_back(to_json(item));
        return list;
    }
    if (value.is_map()) {
        io::Json object = io::Json::object();
        for (const auto& [key, item] : value.entries()) object[key] = to_json(item);
        return object;
    }
    // A scalar is what JSON would take it for, else text.
    const io::Json parsed = io::Json::parse(value.text(), nullptr, false);
    return parsed.is_number() || parsed.is_boolean() ? parsed : io::Json(value.text());
}

// `config:` as a mapping, or the file that holds it.
io::Json read_config(const Yaml& value, const fs::path& folder) {
    if (value.is_map()) return to_json(value);
    const auto path = io::find_path(value.text(), folder);
    if (!path) value.refuse(fmt::format("config \"{}\" is not there", printable(value.text())), "give a config.json, or the config itself as a mapping");
    return io::read_json(*path);
}

// A model named by a path from the working directory, or from the recipe's.
std::string find_model(const std::string& model, const fs::path& folder) {
    const auto path = io::find_path(model, folder);
    return path ? path->string() : model;
}

std::string read_dtype(const Yaml& value) {
    const auto dtype = dtype_from_name(value.text());
    if (dtype != Dtype::bf16 && dtype != Dtype::f32)
        value.refuse(fmt::format("got dtype \"{}\", expected bfloat16 or float32", printable(value.text())));
    return std::string(torch_name(*dtype));
}

void read_teacher(const Yaml& root, const fs::path& folder, TrainRecipe& recipe) {
    const auto teacher = root.get("teacher"), settings = root.get("distill");
    if (settings && !teacher) settings->refuse("`distill` without `teacher`", "name the model to learn from");
    if (!teacher) return;
    recipe.teacher = find_model(teacher->text(), folder);
    if (!settings) return;
    constexpr std::array keys{string_view("logits"), string_view("temperature"), string_view("hidden"), string_view("ce"), string_view("dtype")};
    settings->expect_keys(keys);
    Distillation& distillation = recipe.distillation;
    if (const auto value = settings->get("logits")) distillation.logits = value->number(0, 1e6);
    if (const auto value = settings->get("temperature")) distillation.temperature = value->number(0.01, 100);
    if (const auto value = settings->get("hidden")) distillation.hidden = value->number(0, 1e6);
    if (const auto value = settings->get("ce")) distillation.cross_entropy = value->number(0, 1e6);
    if (const auto value = settings->get("dtype")) distillation.dtype = read_dtype(*value);
    if (distillation.logits == 0 && distillation.hidden == 0)
        settings->refuse("neither `logits` nor `hidden`: nothing is learnt from the teacher", "give one of them a weight, or leave `teacher` out");
}

void read_model(const Yaml& root, const fs::path& folder, TrainRecipe& recipe) {
    const auto config = root.get("config"), tokenizer = root.get("tokenizer");
    if (!config) {
        if (tokenizer) tokenizer->refuse("`tokenizer` without `config`", "a model brings its own tokenizer");
        recipe.model = recipe.tokenizer = find_model(root.at("model").text(), folder);
        return;
    }
    if (root.get("model")) config->refuse("`config` beside `model`", "keep one: `config` makes a new model, `model` goes on with one");
    recipe.config = read_config(*config, folder);
    if (!recipe.config->is_object()) config->refuse("the config is not a mapping");
    if (!tokenizer) config->refuse("`config` without `tokenizer`", "name the model whose tokenizer the new one takes over");
    recipe.tokenizer = find_model(tokenizer->text(), folder);
}

void read_auxiliary(const Yaml& root, AuxiliaryWeights& weights) {
    if (const auto value = root.get("sequence_balance_loss")) weights.sequence_balance = value->number(0, 100);
    if (const auto value = root.get("balance_loss")) weights.batch_balance = value->number(0, 100);
    if (const auto value = root.get("router_z_loss")) weights.router_z = value->number(0, 100);
}

void read_optimizer(const Yaml& root, TrainRecipe& recipe) {
    if (const auto value = root.get("lr")) recipe.lr = value->number(0, 10);
    if (const auto value = root.get("min_lr")) {
        recipe.min_lr = value->number(0, 10);
        if (recipe.min_lr > recipe.lr) value->refuse(fmt::format("min_lr {} is above lr {}", recipe.min_lr, recipe.lr));
    }
    if (const auto value = root.get("warmup")) read_warmup(*value, recipe);
    if (const auto value = root.get("schedule")) recipe.decay = static_cast<Decay>(index_of(*value, decay_names, "schedule"));
    if (const auto value = root.get("betas")) {
        const auto items = value->items();
        if (items.size() != 2) value->refuse(fmt::format("got {} betas, expected two: [0.9, 0.95]", items.size()));
        recipe.beta1 = items[0].number(0, 0.99999);
        recipe.beta2 = items[1].number(0, 0.9999999);
    }
    if (const auto value = root.get("eps")) recipe.eps = value->number(1e-20, 1);
    if (const auto value = root.get("weight_decay")) recipe.weight_decay = value->number(0, 10);
    if (const auto value = root.get("clip")) recipe.clip = value->number(0, 1e9);
}

void read_trained(const Yaml& root, TrainRecipe& recipe) {
    if (const auto value = root.get("trainable")) {
        recipe.trainable.clear();
        for (const Yaml& part : value->is_scalar() ? std::vector{*value} : value->items())
            recipe.trainable.push_back(static_cast<Trainable>(index_of(part, trainable_names, "trainable")));
        if (recipe.trainable.size() != 1 && (recipe.trainable.empty() || recipe.trains(Trainable::all) || recipe.trains(Trainable::lora)))
            value->refuse(fmt::format("got [{}], expected one part or several of mlp, experts, router", recipe.trained_parts()),
                          "`all` holds every part, and the factors of `lora` are trained while everything else stays");
    }
    if (const auto value = root.get("layers")) read_layers(*value, recipe);
    if (const auto value = root.get("lora")) {
        if (!recipe.trains(Trainable::lora)) value->refuse("`lora` settings without `trainable: lora`", "add `trainable: lora`");
        recipe.lora = read_lora(*value);
    }
    if (const auto value = root.get("adapter")) {
        recipe.adapter = value->boolean();
        if (recipe.adapter && !recipe.trains(Trainable::lora)) value->refuse("`adapter` without `trainable: lora`", "only a LoRA can be written as an adapter");
    }
}

}  // namespace

Schedule TrainRecipe::schedule(std::int64_t total_steps) const {
    const auto share = static_cast<std::int64_t>(std::lround(warmup_share * static_cast<double>(total_steps)));
    return {.decay = decay, .peak = lr, .floor = min_lr, .warmup_steps = std::min(warmup_share > 0 ? share : warmup_steps, total_steps), .total_steps = total_steps};
}

std::string TrainRecipe::trained_parts() const {
    std::vector<string_view> names;
    for (const Trainable part : trainable) names.push_back(trainable_names[static_cast<std::size_t>(part)]);
    return fmt::format("{}", fmt::join(names, ", "));
}

TrainRecipe parse_train_recipe(string_view text, string_view source) {
    const Yaml root = Yaml::parse(text, source);
    const fs::path folder = fs::path(source).parent_path();
    if (!root.is_map()) root.refuse("the recipe is not a mapping", "it needs at least `model:` (or `config:` and `tokenizer:`) and `data:`");
    constexpr std::array keys{
        string_view("model"),      string_view("data"),     string_view("eval_data"),    string_view("held_out"),    string_view("steps"),
        string_view("epochs"),     string_view("lr"),       string_view("batch_size"),   string_view("seq_len"),     string_view("grad_accumulation"),
        string_view("min_lr"),     string_view("warmup"),   string_view("schedule"),     string_view("betas"),       string_view("eps"),
        string_view("clip"),       string_view("layers"),   string_view("weight_decay"), string_view("trainable"),   string_view("lora"),
        string_view("adapter"),    string_view("dtype"),    string_view("seed"),         string_view("shuffle"),     string_view("eval_every"),
        string_view("eval_tokens"), string_view("save_every"), string_view("config"),      string_view("tokenizer"),   string_view("patience"),
        string_view("balance_loss"), string_view("router_z_loss"), string_view("sequence_balance_loss"), string_view("checkpointing"),
        string_view("teacher"),    string_view("distill"),
        string_view("balance_bias"), string_view("expert_parallel")};
    root.expect_keys(keys);

    TrainRecipe recipe{.source = std::string(source), .text = std::string(text)};
    read_model(root, folder, recipe);
    recipe.data = find_data(root.at("data"), folder);
    if (const auto value = root.get("eval_data")) recipe.eval_data = find_data(*value, folder);
    if (const auto value = root.get("held_out")) {
        recipe.held_out = value->number(0, 0.5);
        if (!recipe.eval_data.empty()) value->refuse("`held_out` beside `eval_data`", "keep one of the two");
    }
    if (const auto value = root.get("steps")) recipe.steps = value->integer(1, many);
    if (const auto value = root.get("epochs")) {
        if (recipe.steps) value->refuse("`epochs` beside `steps`", "keep one of the two");
        recipe.epochs = value->number(1e-6, 1e6);
    }
    if (const auto value = root.get("batch_size")) recipe.batch_size = value->integer(1, 1'000'000);
    if (const auto value = root.get("seq_len")) recipe.seq_len = value->integer(2, 10'000'000);
    if (const auto value = root.get("grad_accumulation")) recipe.grad_accumulation = value->integer(1, 1'000'000);
    read_optimizer(root, recipe);
    read_auxiliary(root, recipe.auxiliary);
    if (const auto value = root.get("balance_bias")) recipe.balance_bias = value->number(0, 1);
    if (const auto value = root.get("expert_parallel")) recipe.expert_parallel = value->integer(1, 65'536);
    read_trained(root, recipe);
    read_teacher(root, folder, recipe);
    if (const auto value = root.get("dtype")) recipe.dtype = read_dtype(*value);
    if (const auto value = root.get("seed")) recipe.seed = static_cast<std::uint64_t>(value->integer(0, INT64_MAX));
    if (const auto value = root.get("shuffle")) recipe.shuffle = value->boolean();
    if (const auto value = root.get("eval_every")) recipe.eval_every = value->integer(0, many);
    if (const auto value = root.get("eval_tokens")) recipe.eval_tokens = value->integer(1, many);
    if (const auto value = root.get("patience")) {
        recipe.patience = value->integer(1, many);
        if (recipe.eval_every == 0) value->refuse("`patience` without `eval_every`", "say how often to evaluate");
    }
    if (const auto value = root.get("checkpointing")) recipe.checkpointing = value->boolean();
    if (const auto value = root.get("save_every")) recipe.save_every = value->integer(0, many);
    return recipe;
}

TrainRecipe read_train_recipe(const fs::path& path) {
    constexpr std::size_t limit = 4u << 20;
    return parse_train_recipe(io::read_file(path, limit), path.string());
}

}  // namespace mixwright::train
