#include "surgery/model_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>

#include "error.h"
#include "io/file.h"
#include "io/yaml.h"

namespace mixwright::surgery {
namespace {

namespace fs = std::filesystem;
using checkpoint::OutputFile;

constexpr const char* copied_files[] = {"tokenizer.json",     "tokenizer_config.json", "special_tokens_map.json",
                                        "added_tokens.json",  "tokenizer.model",       "vocab.json",
                                        "merges.txt",         "chat_template.jinja",   "chat_template.json",
                                        "generation_config.json"};

std::string generation_config(const arch::ModelSpec& spec) {
    io::Json json{{"_from_model_config", true}};
    if (spec.bos_token_id) json["bos_token_id"] = *spec.bos_token_id;
    if (spec.pad_token_id) json["pad_token_id"] = *spec.pad_token_id;
    if (spec.eos_token_ids.size() == 1)
        json["eos_token_id"] = spec.eos_token_ids[0];
    else if (!spec.eos_token_ids.empty())
        json["eos_token_id"] = spec.eos_token_ids;
    return json.dump(2) + "\n";
}

// `license:` of the front matter of the model's README.md.
std::optional<std::string> license_of(const arch::OpenModel& model) {
    constexpr std::size_t limit = 4u << 20;
    const fs::path readme = model.checkpoint.path / "README.md";
    if (!fs::is_regular_file(readme)) return std::nullopt;
    try {
        const std::string text = io::read_file(readme, limit);
        if (!text.starts_with("---\n")) return std::nullopt;
        const auto end = text.find("\n---", 4);
        if (end == std::string::npos) return std::nullopt;
        const io::Yaml front = io::Yaml::parse(std::string_view(text).substr(4, end - 4), readme.string());
        if (!front.is_map()) return std::nullopt;
        const auto license = front.get("license");
        return license && license->is_scalar() ? std::optional(license->text()) : std::nullopt;
    } catch (const Error&) {
        return std::nullopt;  // a card we cannot read is no reason not to build
    }
}

// A name the hub knows: "org/name" as the recipe has it, the folder's name for a local path.
std::string display_name(const ModelReference& reference) {
    const fs::path path = reference.model;
    if (!fs::exists(path)) return reference.text();
    const fs::path name = fs::weakly_canonical(path).filename();
    return reference.lora.empty() ? name.string() : name.string() + "+" + fs::path(reference.lora).filename().string();
}

std::string yaml_quoted(const std::string& text) { return io::Json(text).dump(-1, ' ', false, io::Json::error_handler_t::replace); }

std::string count_text(std::int64_t count) {
    return count >= 1'000'000'000 ? fmt::format("{:.2f} B", static_cast<double>(count) / 1e9)
                                  : fmt::format("{:.1f} M", static_cast<double>(count) / 1e6);
}

// The longest run of backticks in the recipe decides the fence.
std::string fenced(const std::string& text, std::string_view language) {
    std::size_t run = 0, longest = 2;
    for (const char c : text) longest = std::max(longest, run = c == '`' ? run + 1 : 0);
    const std::string fence(longest + 1, '`');
    return fmt::format("{}{}\n{}{}{}\n", fence, language, text, text.ends_with('\n') ? "" : "\n", fence);
}

}  // namespace

std::vector<OutputFile> base_files(const arch::OpenModel& base) {
    if (base.checkpoint.format == checkpoint::Format::gguf)
        throw Error(ErrorCode::unsupported, fmt::format("{}: a GGUF file has no tokenizer files to copy into the output", base.checkpoint.name),
                    "as the base model use a Hugging Face directory: mixwright import MODEL.gguf DIRECTORY");
    std::vector<OutputFile> files;
    for (const char* name : copied_files)
        if (fs::is_regular_file(base.checkpoint.path / name)) files.push_back({name, base.checkpoint.path / name});
    if (!fs::exists(base.checkpoint.path / "generation_config.json"))
        files.push_back({"generation_config.json", generation_config(base.spec)});
    return files;
}

std::string model_card(const BuildRecipe& recipe, const SourceModels& sources, const MoePlan& plan, std::string_view name) {
    std::set<std::string> licenses;
    std::vector<std::string> names;
    for (const auto& model : sources.all) {
        if (const auto license = license_of(model->open)) licenses.insert(*license);
        if (const std::string model_name = display_name(model->reference); std::ranges::find(names, model_name) == names.end())
            names.push_back(model_name);
    }

    std::string card = "---\n";
    if (licenses.size() == 1) card += fmt::format("license: {}\n", yaml_quoted(*licenses.begin()));
    card += "base_model:\n";
    for (const std::string& model : names) card += fmt::format("- {}\n", yaml_quoted(model));
    card += "base_model_relation: merge\nlibrary_name: transformers\npipeline_tag: text-generation\n"
            "tags:\n- moe\n- frankenmoe\n- merge\n- mixwright\n---\n\n";

    const arch::ModelSpec& spec = plan.spec;
    card += fmt::format("# {}\n\nA mixture of {} experts ({} of them for each token) made of these models by mixwright:\n\n", name,
                        spec.num_experts, spec.top_k);
    card += fmt::format("- base: {}\n", display_name(sources.base->reference));
    for (std::size_t e = 0; e < sources.experts.size(); ++e)
        card += fmt::format("- expert {}: {}\n", e, display_name(sources.experts[e]->reference));
    for (const auto& shared : sources.shared_experts) card += fmt::format("- shared expert: {}\n", display_name(shared->reference));
    card += fmt::format("\n| | |\n|---|---|\n| architecture | {} |\n| parameters | {} |\n| active for a token | {} |\n"
                        "| gates | {} |\n| dtype | {} |\n\n",
                        plan.target->name, count_text(spec.num_parameters()), count_text(spec.num_active_parameters()),
                        gate_mode_name(recipe.gate_mode), torch_name(*spec.dtype));
    card += "## Recipe\n\n" + fenced(recipe.text, "yaml");
    card += "\n## Use\n\n```python\nfrom transformers import pipeline\n\n"
            "generate = pipeline(\"text-generation\", model=\"PATH\")\nprint(generate(\"Hello\", max_new_tokens=64))\n```\n";
    return card;
}

}  // namespace mixwright::surgery
