#include "surgery/zipped_layer.h"

#include <fmt/format.h>

#include <cmath>

#include "arch/zipped.h"

namespace mixwright::surgery {

using arch::TensorRole;

io::Json ZippedLayer::json() const {
    const auto number = [](double value) { return std::isfinite(value) ? io::Json(value) : io::Json(); };
    io::Json json{{"layer", layer}, {"tokens", tokens}, {"shared_mean_energy", shared_mean_energy}, {"kept", kept}, {"error", number(error)}, {"fitted_error", number(fitted_error)},
                  {"unfitted_error", number(unfitted_error)}, {"recovery_error", number(recovery_error)}, {"recovered", io::Json::array()},
                  {"starved", starved}, {"note", note}};
    for (const double error : recovered) json["recovered"].push_back(number(error));
    if (zipped) json["zipped"] = arch::zipped_json(*zipped);
    if (typed) json["typed"] = typed->json();
    return json;
}

ZippedLayer ZippedLayer::from_json(const io::Json& json) {
    const auto number = [&](const char* key) { return json.at(key).is_null() ? std::nan("") : json.at(key).get<double>(); };
    ZippedLayer layer{.layer = json.at("layer"), .tokens = json.at("tokens"), .shared_mean_energy = json.at("shared_mean_energy"), .kept = json.at("kept"), .error = number("error"), .fitted_error = number("fitted_error"),
                      .unfitted_error = number("unfitted_error"), .recovery_error = number("recovery_error"), .starved = json.at("starved"), .note = json.at("note")};
    for (const io::Json& error : json.at("recovered")) layer.recovered.push_back(error.is_null() ? std::nan("") : error.get<double>());
    if (json.contains("zipped")) layer.zipped = arch::zipped_from_json(json.at("zipped"));
    if (json.contains("typed")) layer.typed = TypedShares::from_json(json.at("typed"));
    return layer;
}

bool is_made(TensorRole role) { return role == TensorRole::router || role == TensorRole::router_bias || role == TensorRole::expert || role == TensorRole::shared_expert; }

std::map<std::string, TensorRole> made_tensors(const arch::ModelSpec& spec, std::int64_t layer) {
    std::map<std::string, TensorRole> names;
    for (const arch::TensorSlot& slot : arch::tensor_slots(spec))
        if (slot.layer == layer && is_made(slot.role)) names.emplace(slot.name, slot.role);
    return names;
}

std::filesystem::path layer_file(const std::filesystem::path& workplace, std::int64_t layer) { return workplace / fmt::format("layer-{:05}.safetensors", layer); }

double speed_bound(const arch::ModelSpec& from, const arch::ModelSpec& to, const std::vector<ZippedLayer>& layers, bool shared) {
    double read = 0;
    for (const ZippedLayer& layer : layers) {
        if (!layer.typed) return static_cast<double>(from.num_active_parameters()) / static_cast<double>(to.num_active_parameters());
        read += (shared ? layer.typed->read : layer.typed->read_apart) / static_cast<double>(layers.size());
    }
    const double experts = static_cast<double>(3 * from.top_k * from.expert_width * from.hidden_size * std::ssize(layers)) / static_cast<double>(from.num_active_parameters());
    return 1 / (1 - experts * (1 - read));
}

}  // namespace mixwright::surgery
