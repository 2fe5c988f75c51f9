#include "surgery/zip_card.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "error.h"
#include "io/json.h"

namespace mixwright::surgery {
namespace {

std::string percent(double share) { return std::isfinite(share) ? fmt::format("{:.2f} %", 100 * share) : "-"; }

std::int64_t median(std::vector<std::int64_t> values) {
    std::ranges::sort(values);
    return values[values.size() / 2];
}

std::string millions(std::int64_t count) { return fmt::format("{:.1f} M", static_cast<double>(count) / 1e6); }

// What the layers' experts share and what that can do for speed; empty without figures.
std::string sharing_summary(const arch::ModelSpec& from, const arch::ModelSpec& to, const std::vector<ZippedLayer>& layers) {
    TypedShares mean{.read = 0, .read_apart = 0};
    for (const ZippedLayer& layer : layers) {
        if (!layer.typed) return "";
        const double share = 1.0 / static_cast<double>(layers.size());
        mean.dropped += share * layer.typed->dropped;
        mean.kept_private += share * layer.typed->kept_private;
        mean.shared += share * layer.typed->shared;
        mean.partner += share * layer.typed->partner;
    }
    const double bound = speed_bound(from, to, layers, true), apart = speed_bound(from, to, layers, false);
    const bool paired = mean.partner > 0;
    return fmt::format("Neurons: {} dropped, {} private{}. Where time is the bytes of weights read, a token takes at best 1/{:.3f} of the time{}.", percent(mean.dropped),
                       percent(mean.kept_private),
                       paired ? fmt::format(", {} shared. The partner of an active expert is active with p = {:.2f}", percent(mean.shared), mean.partner) : "", bound,
                       paired ? fmt::format("; sharing alone is worth a factor of {:.4f}", bound / apart) : "");
}

}  // namespace

std::string zip_table(const arch::ModelSpec& from, const arch::ModelSpec& to, const std::vector<ZippedLayer>& layers) {
    std::string table = fmt::format("{:>5}  {:>17}  {:>8}  {:>8}  {:>10}  {:>10}  {:>10}  {}\n", "layer", "tokens an expert", "alike", "kept", "error", "unfitted", "recovered", "chosen");
    for (const ZippedLayer& layer : layers) {
        const std::string tokens = fmt::format("{} / {}", *std::ranges::min_element(layer.tokens), median(layer.tokens));
        table += fmt::format("{:>5}  {:>17}  {:>8}  {:>8}  {:>10}  {:>10}  {:>10}  {}\n", layer.layer, tokens, percent(layer.shared_mean_energy), percent(layer.kept), percent(layer.error), percent(layer.unfitted_error),
                             std::isfinite(layer.recovery_error) ? percent(1 - layer.recovery_error) : "-", printable(layer.note, 60));
    }
    const std::string summary = sharing_summary(from, to, layers);
    return table + (summary.empty() ? "" : summary + "\n") + "(least and median tokens; energy of the experts' mean over an expert's; share of the experts' bytes; squared error of the block's output on held-out tokens, relative, after and before the refit;\n"
                   " how much of a source expert's own output its successor gives back)\n\n";
}

std::string zip_card(const arch::OpenModel& model, const ZipPlan& plan, const ZipOptions& options, const std::vector<ZippedLayer>& layers,
                     const calibrate::DomainTokens& text, std::string_view name) {
    const std::string source = std::filesystem::exists(model.checkpoint.name) ? std::filesystem::weakly_canonical(model.checkpoint.name).filename().string()
                                                                                : model.checkpoint.name;
    const auto quoted = [](const std::string& value) { return io::Json(value).dump(-1, ' ', false, io::Json::error_handler_t::replace); };
    std::string card = fmt::format("---\nbase_model:\n- {}\nlibrary_name: transformers\npipeline_tag: text-generation\n"
                                   "tags:\n- moe\n- pruned\n- mixwright\n---\n\n# {}\n\n", quoted(source), name);
    card += options.format == ZipFormat::zipped
                ? fmt::format("{}, its experts made narrower by mixwright, each by what it needs: {:.1f} % of their bytes are kept, and pairs of experts may share rows. "
                              "Load it with `trust_remote_code=True`.\n\n", source, 100 * kept_expert_bytes(model.spec, plan.spec))
            : makes_narrower(options.method)
                ? fmt::format("{}, its experts made narrower by mixwright: {} of {} neurons each.\n\n", source, plan.spec.expert_width, model.spec.expert_width)
                : fmt::format("{}, its experts made fewer by mixwright: {} of {}.\n\n", source, plan.spec.num_experts, model.spec.num_experts);
    card += fmt::format("| | original | this model |\n|---|---|---|\n| parameters | {} | {} |\n| active for a token | {} | {} |\n\n", millions(model.spec.num_parameters()),
                        millions(plan.spec.num_parameters()), millions(model.spec.num_active_parameters()), millions(plan.spec.num_active_parameters()));
    card += fmt::format("Method: {}{}{}{}, on {} tokens of text ({} more held out).\n\n", zip_method_name(options.method),
                        options.refit ? ", down projections refitted by least squares" : "", options.sequential ? ", layer after layer" : "",
                        options.budget == ZipBudget::loss ? ", each layer with the bytes that the loss needs of it" : "", text.num_fit,
                        text.num_held_out);
    card += "| layer | experts alike | experts' bytes kept | error on held-out tokens | chosen |\n|---|---|---|---|---|\n";
    for (const ZippedLayer& layer : layers)
        card += fmt::format("| {} | {} | {} | {} | {} |\n", layer.layer, percent(layer.shared_mean_energy), percent(layer.kept), percent(layer.error), printable(layer.note));
    if (const std::string summary = sharing_summary(model.spec, plan.spec, layers); !summary.empty()) card += "\n" + summary + "\n";
    return card + "\n(alike: energy of the original experts' mean over their mean energy; error: squared, of the MoE block's output, relative)\n";
}

io::Json zip_report_json(const arch::ModelSpec& original, const ZipPlan& plan, const ZipOptions& options, const std::vector<ZippedLayer>& layers) {
    double width_share = static_cast<double>(plan.spec.expert_width) / static_cast<double>(original.expert_width);
    if (options.format == ZipFormat::zipped && !layers.empty() && layers.front().typed) {
        width_share = 0;  // of unequal experts: what a token reads of them
        for (const ZippedLayer& layer : layers) width_share += layer.typed->read / static_cast<double>(layers.size());
    }
    io::Json by_layer = io::Json::array();
    for (const ZippedLayer& layer : layers) by_layer.push_back(layer.json());
    return {{"method", fmt::format("{}{}", zip_method_name(options.method), options.refit ? ", refitted" : "")},
            {"kept_expert_bytes", kept_expert_bytes(original, plan.spec)},
            {"width_share", width_share},
            {"speed_bound", speed_bound(original, plan.spec, layers, true)},
            {"parameters_before", original.num_parameters()},
            {"parameters", plan.spec.num_parameters()},
            {"active_parameters_before", original.num_active_parameters()},
            {"active_parameters", plan.spec.num_active_parameters()},
            {"layers", std::move(by_layer)}};
}

}  // namespace mixwright::surgery
