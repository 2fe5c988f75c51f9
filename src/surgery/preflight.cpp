#include "surgery/preflight.h"

#include <fmt/format.h>

#include <algorithm>

#include "arch/rope_config.h"
#include "error.h"
#include "progress.h"

namespace mixwright::surgery {
namespace {

using arch::ModelSpec;
using Kind = Difference::Kind;

struct Property {
    std::string_view name;
    Kind kind;
    std::string (*text)(const ModelSpec&);
};

std::string yes_no(bool value) { return value ? "yes" : "no"; }

std::string rope_text(const ModelSpec& spec) {
    const arch::Rope& rope = spec.rope;
    if (rope.scaling == arch::RopeScaling::none) return fmt::format("theta {:g}", rope.theta);
    return fmt::format("theta {:g}, {} x{:g} from {:g}", rope.theta, arch::rope_scaling_name(rope.scaling), rope.factor,
                       rope.original_max_positions);
}

std::string window_text(const ModelSpec& spec) {
    std::int64_t window = 0;
    for (const arch::LayerSpec& layer : spec.layers) window = std::max(window, layer.sliding_window);
    return window == 0 ? "none" : std::to_string(window);
}

// What a MoE of these models rests on. Architectures are judged by moe_targets; experts' widths below.
const Property properties[] = {
    {"hidden_size", Kind::impossible, [](const ModelSpec& s) { return std::to_string(s.hidden_size); }},
    {"num_hidden_layers", Kind::impossible, [](const ModelSpec& s) { return std::to_string(s.num_layers); }},
    {"MLP biases", Kind::impossible, [](const ModelSpec& s) { return yes_no(s.mlp_bias); }},
    {"rope", Kind::ignored, rope_text},
    {"rms_norm_eps", Kind::ignored, [](const ModelSpec& s) { return fmt::format("{:g}", s.rms_norm_eps); }},
    {"q/k/v biases", Kind::ignored, [](const ModelSpec& s) { return yes_no(s.qkv_bias); }},
    {"attention heads", Kind::ignored,
     [](const ModelSpec& s) { return fmt::format("{}/{} of {}", s.num_heads, s.num_kv_heads, s.head_dim); }},
    {"sliding_window", Kind::ignored, window_text},
    {"tied embeddings", Kind::ignored, [](const ModelSpec& s) { return yes_no(s.tied_embeddings); }},
};

// Rows of the table that are no difference worth a word.
const Property table_only[] = {
    {"architecture", Kind::ignored, [](const ModelSpec& s) { return std::string(s.architecture->model_type); }},
    {"MLP width", Kind::ignored, [](const ModelSpec& s) { return std::to_string(s.intermediate_size); }},
    {"vocab_size", Kind::ignored, [](const ModelSpec& s) { return std::to_string(s.vocab_size); }},
    {"positions", Kind::ignored, [](const ModelSpec& s) { return std::to_string(s.max_positions); }},
    {"dtype", Kind::ignored, [](const ModelSpec& s) { return std::string(s.dtype ? torch_name(*s.dtype) : "?"); }},
};

}  // namespace

std::vector<Difference> compare_configs(const SourceModels& sources) {
    std::vector<Difference> differences;
    const ModelSpec& base = sources.base->open.spec;
    for (const auto& model : sources.all) {
        if (model == sources.base) continue;
        for (const Property& property : properties) {
            const std::string own = property.text(model->open.spec), expected = property.text(base);
            if (own != expected)
                differences.push_back({property.kind, model->reference.text(),
                                       fmt::format("{} is {}, the base has {}", property.name, own, expected)});
        }
    }
    // One config.json has one width for all routed experts; shared experts may have another.
    const std::int64_t width = sources.experts.front()->open.spec.intermediate_size;
    for (std::size_t e = 1; e < sources.experts.size(); ++e)
        if (sources.experts[e]->open.spec.intermediate_size != width)
            differences.push_back({Kind::impossible, sources.experts[e]->reference.text(),
                                   fmt::format("intermediate_size is {}, expert 0 ({}) has {}",
                                               sources.experts[e]->open.spec.intermediate_size,
                                               sources.experts[0]->reference.text(), width)});
    return differences;
}

void check_agreement(const std::vector<Difference>& differences, std::string_view recipe_name, bool allow_mismatch) {
    std::string errors;
    bool vocabulary = false;
    for (const Difference& difference : differences) {
        const std::string line = fmt::format("{}: {}", printable(difference.model), difference.what);
        if (difference.kind == Kind::impossible || (difference.kind == Kind::vocabulary && !allow_mismatch)) {
            errors += "\n  " + line;
            vocabulary |= difference.kind == Kind::vocabulary;
        } else {
            warn(line + (difference.kind == Kind::ignored ? "" : " (allowed)"));
        }
    }
    if (errors.empty()) return;
    throw Error(ErrorCode::mismatch, fmt::format("{}: the models do not fit together:{}", recipe_name, errors),
                vocabulary ? "a MoE has one vocabulary, the base's: choose experts that share it, or pass --allow-mismatch when "
                             "you know that the tokens mean the same"
                           : "experts must have the base's shape: choose models of one family and size");
}

std::string agreement_table(const SourceModels& sources) {
    std::string table;
    const auto add = [&](const Property& property) {
        std::vector<std::string> values;
        for (const auto& model : sources.all) values.push_back(property.text(model->open.spec));
        if (std::ranges::all_of(values, [&](const std::string& value) { return value == values[0]; }))
            table += fmt::format("  {:<18} {}\n", property.name, values[0]);
        else
            table += fmt::format("  {:<18} {}\n", property.name, fmt::join(values, " | "));
    };
    for (const Property& property : table_only) add(property);
    for (const Property& property : properties) add(property);
    return table;
}

}  // namespace mixwright::surgery
