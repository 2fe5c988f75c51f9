#include <ATen/ATen.h>

#include <cmath>

#include "calibrate/profile.h"

namespace mixwright::calibrate {
namespace {

constexpr int curve_points = 41;

io::Json rounded(double value) {
    if (!std::isfinite(value)) return {};
    const double scale = std::pow(10.0, 4 - std::ceil(std::log10(std::max(std::abs(value), 1e-12))));
    return std::round(value * scale) / scale;
}

io::Json list(const at::Tensor& tensor) {
    io::Json json = io::Json::array();
    if (tensor.dim() == 1 && tensor.scalar_type() == at::kLong) {
        const at::Tensor values = tensor.contiguous();
        const auto* v = values.const_data_ptr<std::int64_t>();
        for (std::int64_t i = 0; i < values.size(0); ++i) json.push_back(v[i]);
    } else if (tensor.dim() == 1) {
        const at::Tensor values = tensor.to(at::kDouble).contiguous();
        const auto* v = values.const_data_ptr<double>();
        for (std::int64_t i = 0; i < values.size(0); ++i) json.push_back(rounded(v[i]));
    } else {
        for (std::int64_t i = 0; i < tensor.size(0); ++i) json.push_back(list(tensor[i]));
    }
    return json;
}

// Share of the experts' output energy that the most important share of neurons holds: [0 .. 1] in equal steps.
io::Json importance_curve(const at::Tensor& energy) {
    const at::Tensor sorted = std::get<0>(energy.to(at::kDouble).sort(1, true)), cumulative = sorted.cumsum(1) / sorted.sum(1, true).clamp_min(1e-30);
    const at::Tensor mean = cumulative.mean(0);
    io::Json curve = io::Json::array({0});
    for (int i = 1; i < curve_points; ++i) {
        const auto neurons = static_cast<std::int64_t>(std::lround(static_cast<double>(mean.size(0)) * i / (curve_points - 1)));
        curve.push_back(neurons == 0 ? io::Json(0) : rounded(mean[neurons - 1].item<double>()));
    }
    return curve;
}

// The first tokens of each text with their experts: [layer][token][K].
io::Json samples(const Profile& profile) {
    io::Json all = io::Json::array();
    for (std::size_t s = 0; s < profile.texts.size(); ++s) {
        if (profile.texts[s].sample.empty()) continue;
        io::Json experts = io::Json::array();
        for (const LayerProfile& layer : profile.layers) experts.push_back(list(layer.sample[s]));
        all.push_back({{"file", s}, {"pieces", profile.texts[s].sample}, {"experts", std::move(experts)}});
    }
    return all;
}

}  // namespace

io::Json profile_json(const Profile& profile, bool with_matrices) {
    io::Json files = io::Json::array(), layers = io::Json::array();
    for (const ProfiledText& text : profile.texts) files.push_back({{"name", text.name}, {"tokens", text.tokens}});
    double best = 0, matched = 0;
    for (const LayerProfile& layer : profile.layers) {
        const at::Tensor counts = layer.counts.sum(0).to(at::kDouble), mean = counts.mean().clamp_min(1e-9);
        best += layer.best_partner / static_cast<double>(profile.layers.size());
        matched += layer.matched_partner / static_cast<double>(profile.layers.size());
        io::Json json{{"layer", layer.layer},
                      {"entropy", list(layer.entropy)},
                      {"load_max_over_mean", rounded((counts.max() / mean).item<double>())},
                      {"load_variation", rounded((counts.std(false) / mean).item<double>())},
                      {"silent_experts", counts.eq(0).sum().item<std::int64_t>()},
                      {"shared_mean_energy", rounded(layer.shared_mean_energy)},
                      {"rank90_share", rounded(layer.rank90)},
                      {"best_partner_p", rounded(layer.best_partner)},
                      {"matched_partner_p", rounded(layer.matched_partner)},
                      {"speed_bound", rounded(profile.speed_bound(layer.matched_partner))},
                      {"matching", layer.matching}};
        for (const Grouping& grouping : layer.groupings)
            json["groupings"].push_back({{"by", grouping.by}, {"size", grouping.size}, {"touched", rounded(grouping.touched)},
                                         {"speed_bound", rounded(profile.grouping_bound(grouping))}});
        if (layer.iteration) json["iteration"] = *layer.iteration;
        if (with_matrices) {
            json["label"] = layer.label();
            json["counts"] = list(layer.counts);
            json["gate_mass"] = list(layer.gate_mass);
            json["output_norm"] = list(layer.output_norm);
            json["together"] = list(layer.together());
            json["lift"] = list(layer.lift(profile.tokens));
            json["similarity"] = list(layer.similarity);
            json["curve"] = importance_curve(layer.neuron_energy);
        }
        layers.push_back(std::move(json));
    }
    io::Json result{{"tokens", profile.tokens},
            {"files", std::move(files)},
            {"expert_share", rounded(profile.expert_share)},
            {"best_partner_p", rounded(best)},
            {"matched_partner_p", rounded(matched)},
            {"speed_bound", rounded(profile.speed_bound(matched))},
            {"layers", std::move(layers)}};
    if (with_matrices) result["samples"] = samples(profile);
    return result;
}

}  // namespace mixwright::calibrate
