#include "split/recovery.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "error.h"
#include "io/file.h"
#include "surgery/moe_plan.h"

namespace mixwright::split {

std::vector<double> recovery_errors(const arch::OpenModel& moe, std::int64_t expert) {
    const std::filesystem::path file = moe.checkpoint.path / "zip_report.json";
    if (!std::filesystem::is_regular_file(file)) return {};
    const io::Json report = io::read_json(file, {.bytes = 64u << 20});
    const auto fail = [&](const std::string& problem) { throw Error(ErrorCode::malformed, fmt::format("{}: {}", io::shown(file), problem), "it belongs to another model, or was edited; without it split works too"); };
    const std::vector<std::int64_t> layers = surgery::moe_layers(moe.spec);
    if (!report.is_object() || !report.contains("layers") || !report["layers"].is_array() || report["layers"].size() != layers.size())
        fail(fmt::format("expected `layers`, a list of {} entries", layers.size()));
    std::vector<double> errors;
    for (std::size_t i = 0; i < layers.size(); ++i) {
        const io::Json& layer = report["layers"][i];
        if (!layer.is_object() || !layer.contains("recovered") || !layer["recovered"].is_array()) fail(fmt::format("layer {}: `recovered` is missing", layers[i]));
        const io::Json& recovered = layer["recovered"];
        if (recovered.empty()) return {};  // nothing was changed, or experts were merged
        if (static_cast<std::int64_t>(recovered.size()) != moe.spec.num_experts) fail(fmt::format("layer {}: figures of {} experts, the model has {}", layers[i], recovered.size(), moe.spec.num_experts));
        const io::Json& error = recovered[static_cast<std::size_t>(expert)];
        if (!error.is_number() && !error.is_null()) fail(fmt::format("layer {}: expert {}: not a number", layers[i], expert));
        errors.push_back(error.is_null() ? std::nan("") : error.get<double>());
    }
    return errors;
}

std::string recovery_text(const std::vector<double>& errors) {
    double sum = 0, worst = 0;
    std::int64_t count = 0;
    for (const double error : errors)
        if (std::isfinite(error)) sum += error, worst = std::max(worst, error), ++count;
    if (count == 0) return "";
    return fmt::format("Zipping left an error of {:.2f} % in what this expert says (squared, relative, on held-out text; mean over layers, at worst {:.2f} %).",
                       100 * sum / static_cast<double>(count), 100 * worst);
}

}  // namespace mixwright::split
