#include "surgery/zip_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "arch/zipped.h"
#include "error.h"

namespace mixwright::surgery {
namespace {

// Widths that kernels and the block types of GGUF like, as far as the original's width is one.
std::int64_t rounded_width(std::int64_t width, double keep) {
    const std::int64_t multiple = width >= 128 && width % 32 == 0 ? 32 : width % 8 == 0 ? 8 : 1;
    const auto steps = static_cast<std::int64_t>(std::lround(static_cast<double>(width) * keep / static_cast<double>(multiple)));
    return std::clamp(steps * multiple, std::min(multiple, width), width);
}

// What the layer's experts take, in rows of the hidden size.
std::int64_t expert_rows(const arch::ModelSpec& spec, const arch::LayerSpec& layer) {
    if (layer.kind != arch::LayerKind::moe) return 0;
    return layer.zipped ? layer.zipped->size() : 3 * spec.num_experts * spec.expert_width;
}

// Forms that the methods here do not know what to do with.
void check_form(const arch::OpenModel& model, const ZipOptions& options) {
    const arch::ModelSpec& spec = model.spec;
    const arch::MoeTable& table = *spec.architecture->moe;
    if (table.zipped)
        throw Error(ErrorCode::unsupported, fmt::format("{}: the model is zipped already", model.checkpoint.name), "zip the model it was made from, with a smaller --keep");
    const auto refuse = [&](const char* what) {
        throw Error(ErrorCode::unsupported, fmt::format("{}: {} {}, which zip does not do yet", model.checkpoint.name, spec.architecture->model_type, what));
    };
    if (table.expert_bias) refuse("has biases in its experts");
    if (table.weigh_input) refuse("weighs what an expert sees, not what it says");
    if (spec.architecture->mlp == arch::MlpForm::plain) refuse("has experts without gates");
    if (!spec.architecture->packed.empty()) refuse("packs several tensors into one on disk");
    const bool chained = std::ranges::any_of(spec.layers, [](const arch::LayerSpec& layer) { return layer.chain.has_value(); });
    if (chained && (!makes_narrower(options.method) || needs_gradients(options) || options.format == ZipFormat::zipped))
        throw Error(ErrorCode::unsupported, fmt::format("{}: experts that work on each other's output are made narrower only", model.checkpoint.name),
                    "--method neuron or typed, --format standard, --budget uniform");
    if (needs_gradients(options) && !arch::norm_names(spec.architecture->norm_placement).after_mlp.empty())
        refuse(options.method == ZipMethod::heapr ? "has norms behind its experts, which --method heapr does not see through"
                                                  : "has norms behind its experts, which --budget loss does not see through");
    if (options.method == ZipMethod::typed && options.group_size != 2)
        throw Error(ErrorCode::usage, fmt::format("--group-size {}: --method typed shares neurons within pairs", options.group_size));
    if (options.format == ZipFormat::zipped && options.method != ZipMethod::typed && options.method != ZipMethod::neuron)
        throw Error(ErrorCode::usage, fmt::format("--format zipped goes with --method typed and neuron, not {}", zip_method_name(options.method)));
    if (options.budget == ZipBudget::loss && options.format == ZipFormat::standard)
        throw Error(ErrorCode::usage, "--budget loss makes the layers unequally wide, which no config of --format standard can say", "--format zipped, or --budget uniform");
    if (makes_narrower(options.method)) return;
    if (spec.num_groups > 1) refuse("chooses experts by groups, which must stay equally large (--method neuron keeps all experts)");
    const bool prunes = options.method == ZipMethod::reap || options.method == ZipMethod::frequency || options.method == ZipMethod::random;
    if (!prunes && (table.router_bias || table.correction_bias)) refuse("has biases in its routers, and they cannot be merged");
}

}  // namespace

ZipPlan plan_zip(const arch::OpenModel& model, const ZipOptions& options) {
    const arch::ModelSpec& spec = model.spec;
    if (!spec.is_moe())
        throw Error(ErrorCode::unsupported, fmt::format("{}: {} is a dense architecture, it has no experts to zip", model.checkpoint.name, spec.architecture->model_type));
    if (model.checkpoint.format == checkpoint::Format::gguf)
        throw Error(ErrorCode::unsupported, fmt::format("{}: a GGUF is not zipped", model.checkpoint.name), "mixwright import makes a Hugging Face directory of it");
    check_form(model, options);
    const arch::MoeTable& table = *spec.architecture->moe;
    ZipPlan plan{.spec = spec};
    io::Json config = model.checkpoint.config;
    if (options.format == ZipFormat::zipped) {
        plan.spec.architecture = &arch::zipped_form_of(*spec.architecture);
        config["model_type"] = plan.spec.architecture->model_type;
        config["architectures"] = {plan.spec.architecture->hf_class};
        config.erase("auto_map");
        plan.config = std::move(config);
        return plan;
    }
    if (makes_narrower(options.method)) {
        plan.spec.expert_width = rounded_width(spec.expert_width, options.keep);
        config[table.expert_width_key] = plan.spec.expert_width;
        if (!table.num_shared_key.empty() && spec.shared_width > 0)
            plan.spec.shared_width = spec.shared_width / spec.expert_width * plan.spec.expert_width;
    } else {
        plan.spec.num_experts = std::clamp<std::int64_t>(std::lround(static_cast<double>(spec.num_experts) * options.keep), 1, spec.num_experts);
        if (plan.spec.num_experts < spec.top_k)
            throw Error(ErrorCode::usage, fmt::format("--keep {}: {} of {} experts would be left, fewer than the {} every token goes to", options.keep,
                                                      plan.spec.num_experts, spec.num_experts, spec.top_k),
                        "keep more, or make experts narrower instead of fewer (--method neuron)");
        for (const std::string_view key : table.num_experts_keys)
            if (config.contains(key)) config[key] = plan.spec.num_experts;
    }
    // What a reader will make of it.
    const arch::ModelSpec read = arch::parse_config(config, "config.json of the result");
    plan.config = std::move(config);
    if (read.expert_width != plan.spec.expert_width || read.num_experts != plan.spec.num_experts || read.shared_width != plan.spec.shared_width)
        throw Error(ErrorCode::unsupported, fmt::format("{}: its config cannot say what the zipped model would be", model.checkpoint.name));
    return plan;
}

double kept_expert_bytes(const arch::ModelSpec& from, const arch::ModelSpec& to) {
    const auto size = [](const arch::ModelSpec& spec) {
        std::int64_t size = 0;
        for (const arch::LayerSpec& layer : spec.layers) size += expert_rows(spec, layer);
        return static_cast<double>(size);
    };
    return size(to) / size(from);
}

double kept_expert_bytes(const arch::ModelSpec& from, const arch::ModelSpec& to, std::int64_t layer) {
    const auto size = [&](const arch::ModelSpec& spec) { return static_cast<double>(expert_rows(spec, spec.layers[static_cast<std::size_t>(layer)])); };
    return size(to) / size(from);
}

}  // namespace mixwright::surgery
