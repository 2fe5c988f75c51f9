#include "surgery/recipe.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <set>

#include "error.h"
#include "io/file.h"
#include "io/paths.h"
#include "io/yaml.h"
#include "nearest.h"

namespace mixwright::surgery {
namespace {

using io::Yaml;
namespace fs = std::filesystem;

constexpr std::array gate_mode_names{std::string_view("hidden"),      std::string_view("hidden_avg"),
                                     std::string_view("hidden_last"), std::string_view("cheap_embed"),
                                     std::string_view("random"),      std::string_view("uniform_random"),
                                     std::string_view("ridge")};
constexpr std::array gate_input_names{std::string_view("layer"), std::string_view("router")};

constexpr std::size_t max_experts = 1024;  // llama.cpp's LLAMA_MAX_EXPERTS

/// Keys of other recipes people paste into this one, with what to say about them.
struct ForeignKey {
    std::string_view key, hint;
};
constexpr ForeignKey foreign_keys[] = {
    {"merge_method", "this is a recipe for a dense merge: `mixwright merge RECIPE OUT`"},
    {"slices", "this is a recipe for a dense merge: `mixwright merge RECIPE OUT`"},
    {"models", "this is a recipe for a dense merge: `mixwright merge RECIPE OUT`; a MoE has `experts`"},
    {"tokenizer_source", "a MoE has one vocabulary, the base model's; its tokenizer files are copied unchanged"},
    {"tokenizer", "a MoE has one vocabulary, the base model's; its tokenizer files are copied unchanged"},
    {"chat_template", "the base model's chat template is copied; put another into the base model's directory"},
};

template <std::size_t N>
std::size_t index_of(const Yaml& value, const std::array<std::string_view, N>& names, std::string_view what) {
    const auto it = std::ranges::find(names, value.text());
    if (it == names.end())
        value.refuse(fmt::format("unknown {} \"{}\"", what, printable(value.text())),
                     fmt::format("{}known: {}", did_you_mean(value.text(), names), fmt::join(names, ", ")));
    return static_cast<std::size_t>(it - names.begin());
}

std::string read_path_with_revision(const Yaml& value) {
    if (value.is_scalar()) return value.text();
    constexpr std::array keys{std::string_view("path"), std::string_view("revision")};
    value.expect_keys(keys);
    std::string path = value.at("path").text();
    if (const auto revision = value.get("revision")) path += "@" + revision->text();
    return path;
}

ModelReference read_model_reference(const Yaml& value) {
    if (value.is_scalar()) return parse_model_reference(value.text(), value.place());
    constexpr std::array keys{std::string_view("model"), std::string_view("lora"), std::string_view("override_architecture")};
    value.expect_keys(keys);
    if (const auto other = value.get("override_architecture"))
        other->refuse("override_architecture cannot be honoured: a model is what its config.json says",
                      "change `model_type` in that model's config.json, or leave the key out");
    ModelReference reference{.model = read_path_with_revision(value.at("model"))};
    if (const auto lora = value.get("lora")) reference.lora = read_path_with_revision(*lora);
    return reference;
}

/// Data paths are looked for from the working directory, then beside the recipe.
fs::path find_data(const Yaml& value, const fs::path& recipe_folder) {
    if (auto found = io::find_path(value.text(), recipe_folder)) return *found;
    value.refuse(fmt::format("data file \"{}\" is not there", printable(value.text())),
                 "give a text file, a .jsonl file or a folder of either");
}

ExpertRecipe read_expert(const Yaml& value, const fs::path& recipe_folder) {
    constexpr std::array keys{std::string_view("source_model"),     std::string_view("positive_prompts"),
                              std::string_view("negative_prompts"), std::string_view("data"),
                              std::string_view("noise_scale"),      std::string_view("residual_scale")};
    value.expect_keys(keys);
    ExpertRecipe expert{.source = read_model_reference(value.at("source_model")), .place = value.place()};
    if (const auto prompts = value.get("positive_prompts")) expert.positive_prompts = prompts->texts();
    if (const auto prompts = value.get("negative_prompts")) expert.negative_prompts = prompts->texts();
    if (const auto scale = value.get("noise_scale")) expert.noise_scale = scale->number(0, 1e6);
    if (const auto scale = value.get("residual_scale")) expert.residual_scale = scale->number(-1e6, 1e6);
    if (const auto data = value.get("data")) {
        if (data->is_scalar())
            expert.data.push_back(find_data(*data, recipe_folder));
        else
            for (const Yaml& item : data->items()) expert.data.push_back(find_data(item, recipe_folder));
    }
    return expert;
}

std::vector<ExpertRecipe> read_experts(const Yaml& list, const fs::path& recipe_folder) {
    std::vector<ExpertRecipe> experts;
    for (const Yaml& item : list.items()) experts.push_back(read_expert(item, recipe_folder));
    if (experts.size() > max_experts)
        list.refuse(fmt::format("{} experts, at most {} are possible", experts.size(), max_experts));
    return experts;
}

/// "7", "4-27" or "4-" (to the last layer).
LayerRange read_layer_range(const Yaml& value) {
    constexpr std::int64_t last_possible = 100'000;
    const std::string& text = value.text();
    const char* const end = text.data() + text.size();
    LayerRange range;
    auto [rest, error] = std::from_chars(text.data(), end, range.first);
    bool valid = error == std::errc{} && range.first >= 0;
    if (valid && rest == end) {
        range.last = range.first;
    } else if (valid && *rest == '-') {
        range.last = last_possible;
        if (++rest != end) {
            const auto [stop, last_error] = std::from_chars(rest, end, range.last);
            valid = last_error == std::errc{} && stop == end;
        }
    } else {
        valid = false;
    }
    if (!valid || range.last < range.first || range.last > last_possible)
        value.refuse(fmt::format("got \"{}\", expected a layer (7) or a range of layers (4-27, 4-)", printable(text)));
    return range;
}

RidgeRecipe read_ridge(const Yaml& value) {
    constexpr std::array keys{std::string_view("tokens_per_expert"), std::string_view("context"), std::string_view("held_out")};
    value.expect_keys(keys);
    RidgeRecipe ridge;
    if (const auto tokens = value.get("tokens_per_expert")) ridge.tokens_per_expert = tokens->integer(16, 100'000'000);
    if (const auto context = value.get("context")) ridge.context = context->integer(8, 1'000'000);
    if (const auto share = value.get("held_out")) ridge.held_out = share->number(0.01, 0.9);
    return ridge;
}

std::string prompt_key(const ExpertRecipe& expert) {
    return fmt::format("{}\x1f\x1f{}", fmt::join(expert.positive_prompts, "\x1f"), fmt::join(expert.negative_prompts, "\x1f"));
}

[[noreturn]] void refuse_at(const std::string& place, const std::string& what, std::string hint = {}) {
    throw Error(ErrorCode::recipe, place + ": " + what, std::move(hint));
}

void check_prompts_of(const ExpertRecipe& expert, const std::string& who) {
    for (const auto* prompts : {&expert.positive_prompts, &expert.negative_prompts})
        if (std::ranges::any_of(*prompts, [](const std::string& prompt) { return prompt.empty(); }))
            refuse_at(expert.place, who + " has an empty prompt");
    auto positive = expert.positive_prompts, negative = expert.negative_prompts;
    std::ranges::sort(positive);
    std::ranges::sort(negative);
    if (!positive.empty() && positive == negative)
        refuse_at(expert.place, fmt::format("the positive and negative prompts of {} are the same", who),
                  "their difference, the gate, would be zero: let them differ, or leave out negative_prompts");
    if (positive.empty() && !negative.empty())
        refuse_at(expert.place, who + " has negative prompts but no positive ones");
}

void check_gates(const BuildRecipe& recipe) {
    const auto& experts = recipe.experts;
    for (std::size_t e = 0; e < experts.size(); ++e) check_prompts_of(experts[e], fmt::format("expert {}", e));
    for (std::size_t e = 0; e < recipe.shared_experts.size(); ++e)
        check_prompts_of(recipe.shared_experts[e], fmt::format("shared expert {}", e));

    const auto has_prompts = [](const ExpertRecipe& expert) { return !expert.positive_prompts.empty(); };
    const auto shared_with_prompts = std::ranges::count_if(recipe.shared_experts, has_prompts);
    if (shared_with_prompts != 0 && shared_with_prompts != static_cast<std::ptrdiff_t>(recipe.shared_experts.size()))
        refuse_at(std::ranges::find_if_not(recipe.shared_experts, has_prompts)->place,
                  "some shared experts have prompts and some have none", "give prompts to all of them, or to none");

    if (recipe.gate_mode == GateMode::random || recipe.gate_mode == GateMode::uniform_random) return;
    if (recipe.gate_mode == GateMode::ridge) {
        for (std::size_t e = 0; e < experts.size(); ++e)
            if (experts[e].data.empty() && experts[e].positive_prompts.empty())
                refuse_at(experts[e].place, fmt::format("expert {} has neither data nor positive prompts", e),
                          "ridge gates learn each expert's domain from text: add `data: FILE`");
        if (std::ranges::any_of(experts, [](const ExpertRecipe& e) { return !e.negative_prompts.empty(); }))
            refuse_at(recipe.source, "negative_prompts mean nothing to ridge gates",
                      "every other expert's text is a negative example already: leave them out");
        if (experts.size() < 2) refuse_at(recipe.source, "ridge gates need at least two experts to tell apart");
    } else {
        for (std::size_t e = 0; e < experts.size(); ++e)
            if (experts[e].positive_prompts.empty())
                refuse_at(experts[e].place, fmt::format("expert {} has no positive prompts", e),
                          fmt::format("gate_mode {} makes the gates from them: add `positive_prompts:`, or use gate_mode: random",
                                      gate_mode_name(recipe.gate_mode)));
    }
    const bool by_data = std::ranges::any_of(experts, [](const ExpertRecipe& e) { return !e.data.empty(); });
    if (by_data && recipe.gate_mode != GateMode::ridge)
        refuse_at(recipe.source, fmt::format("experts have `data`, which gate_mode {} does not use", gate_mode_name(recipe.gate_mode)),
                  "did you mean `gate_mode: ridge`?");
    if (by_data || experts.size() < 2) return;

    // Equal rows would make a tie between experts at every token, broken by chance.
    std::set<std::string> seen;
    for (const ExpertRecipe& expert : experts) seen.insert(prompt_key(expert));
    if (seen.size() == 1)
        refuse_at(recipe.source, "the prompts of all experts are identical: no router could tell the experts apart",
                  "give each expert prompts that show what should be routed to it");
}

void check_experts(const BuildRecipe& recipe, bool allow_identical_experts) {
    if (recipe.experts.empty()) refuse_at(recipe.source, "`experts` is empty", "list at least one source_model");
    if (recipe.experts_per_token && *recipe.experts_per_token > static_cast<std::int64_t>(recipe.experts.size()))
        refuse_at(recipe.source,
                  fmt::format("experts_per_token is {}, but there are only {} experts", *recipe.experts_per_token,
                              recipe.experts.size()),
                  fmt::format("set experts_per_token to at most {}, or add experts", recipe.experts.size()));
    const bool random = recipe.gate_mode == GateMode::random;
    const bool identical = std::ranges::all_of(recipe.experts, [&](const ExpertRecipe& expert) {
        return expert.source == recipe.experts[0].source && expert.noise_scale == 0;
    });
    if (identical && recipe.experts.size() > 1 && !random && !allow_identical_experts)
        refuse_at(recipe.source, "all experts are the same model: the MoE would use more memory and say exactly the same",
                  "use different source_models or noise_scale; to train it afterwards, pass "
                  "--i-understand-this-is-not-useful-without-training");
}

}  // namespace

std::string ModelReference::text() const { return lora.empty() ? model : model + "+" + lora; }

std::int64_t BuildRecipe::top_k() const {
    return experts_per_token.value_or(std::min<std::int64_t>(2, static_cast<std::int64_t>(experts.size())));
}

std::string_view gate_mode_name(GateMode mode) noexcept { return gate_mode_names[static_cast<std::size_t>(mode)]; }

bool needs_prompts(GateMode mode) noexcept { return mode != GateMode::random && mode != GateMode::uniform_random; }

bool needs_hidden_states(GateMode mode) noexcept { return needs_prompts(mode) && mode != GateMode::cheap_embed; }

ModelReference parse_model_reference(std::string_view text, std::string_view place) {
    const auto refuse = [&](const char* what) {
        throw Error(ErrorCode::recipe, fmt::format("{}: model \"{}\": {}", place, printable(text), what),
                    "a model is written path[@revision], with an adapter path[@revision]+lora[@revision]");
    };
    if (text.empty()) refuse("the name is empty");
    if (io::is_there(text)) return {.model = std::string(text)};
    ModelReference reference;
    const auto plus = text.find('+');
    reference.model = text.substr(0, plus);
    if (plus != std::string_view::npos) {
        reference.lora = text.substr(plus + 1);
        if (reference.lora.empty()) refuse("nothing follows the +");
        if (reference.lora.find('+') != std::string::npos) refuse("it has more than one +");
    }
    for (const std::string* part : {&reference.model, &reference.lora})
        if (std::ranges::count(*part, '@') > 1) refuse("it has more than one @");
    if (reference.model.empty()) refuse("nothing stands before the +");
    return reference;
}

BuildRecipe parse_build_recipe(std::string_view text, std::string_view source, bool allow_identical_experts) {
    const Yaml root = Yaml::parse(text, source);
    const fs::path folder = fs::path(source).parent_path();
    if (!root.is_map()) root.refuse("the recipe is not a mapping", "it needs at least `base_model:` and `experts:`");
    for (const ForeignKey& foreign : foreign_keys)
        if (const auto value = root.get(foreign.key))
            value->refuse(fmt::format("`{}` does not belong into the recipe of a MoE", foreign.key), std::string(foreign.hint));
    constexpr std::array keys{std::string_view("base_model"),     std::string_view("experts"),
                              std::string_view("shared_experts"), std::string_view("gate_mode"),
                              std::string_view("gate_input"),     std::string_view("gate_scale"),
                              std::string_view("ridge"),          std::string_view("dtype"),
                              std::string_view("experts_per_token"), std::string_view("architecture"),
                              std::string_view("layers")};
    root.expect_keys(keys);

    BuildRecipe recipe{.source = std::string(source), .text = std::string(text)};
    recipe.base = read_model_reference(root.at("base_model"));
    recipe.experts = read_experts(root.at("experts"), folder);
    if (const auto shared = root.get("shared_experts")) recipe.shared_experts = read_experts(*shared, folder);
    if (const auto mode = root.get("gate_mode"))
        recipe.gate_mode = static_cast<GateMode>(index_of(*mode, gate_mode_names, "gate_mode"));
    // A ridge router is a fit to what it will see; only mergekit's modes default to mergekit's place.
    if (recipe.gate_mode == GateMode::ridge) recipe.gate_input = GateInput::router;
    if (const auto input = root.get("gate_input")) {
        recipe.gate_input = static_cast<GateInput>(index_of(*input, gate_input_names, "gate_input"));
        if (!needs_hidden_states(recipe.gate_mode))
            input->refuse(fmt::format("gate_mode {} looks at no layer, so gate_input means nothing", gate_mode_name(recipe.gate_mode)));
        if (recipe.gate_mode == GateMode::ridge && recipe.gate_input == GateInput::layer)
            input->refuse("ridge gates are fitted to the state the router sees", "leave gate_input out, or write `gate_input: router`");
    }
    if (const auto scale = root.get("gate_scale")) {
        const bool automatic = scale->is_scalar() && scale->text() == "auto";
        if (automatic && recipe.gate_mode != GateMode::ridge)
            scale->refuse("`gate_scale: auto` is fitted by ridge gates only", "give a number, or use gate_mode: ridge");
        if (!automatic) recipe.gate_scale = scale->number(1e-6, 1e6);
    }
    if (const auto ridge = root.get("ridge")) {
        if (recipe.gate_mode != GateMode::ridge)
            ridge->refuse(fmt::format("ridge settings mean nothing to gate_mode {}", gate_mode_name(recipe.gate_mode)));
        recipe.ridge = read_ridge(*ridge);
    }
    if (const auto dtype = root.get("dtype")) {
        recipe.dtype = dtype_from_name(dtype->text());
        if (recipe.dtype != Dtype::bf16 && recipe.dtype != Dtype::f16 && recipe.dtype != Dtype::f32)
            dtype->refuse(fmt::format("got dtype \"{}\", expected bfloat16, float16 or float32", printable(dtype->text())));
    }
    if (const auto k = root.get("experts_per_token")) recipe.experts_per_token = k->integer(1, max_experts);
    if (const auto architecture = root.get("architecture")) recipe.architecture = architecture->text();
    if (const auto layers = root.get("layers")) {
        if (layers->is_scalar())
            recipe.moe_layers.push_back(read_layer_range(*layers));
        else
            for (const Yaml& item : layers->items()) recipe.moe_layers.push_back(read_layer_range(item));
        if (recipe.moe_layers.empty()) layers->refuse("`layers` is empty: no layer would get experts");
    }
    check_experts(recipe, allow_identical_experts);
    check_gates(recipe);
    return recipe;
}

BuildRecipe read_build_recipe(const fs::path& path, bool allow_identical_experts) {
    constexpr std::size_t limit = 4u << 20;
    return parse_build_recipe(io::read_file(path, limit), path.string(), allow_identical_experts);
}

}  // namespace mixwright::surgery
