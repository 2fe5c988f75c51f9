#include "surgery/layer_shares.h"

#include <ATen/ATen.h>

#include <cmath>

#include "progress.h"
#include "surgery/calibration_stream.h"
#include "surgery/neuron_choice.h"

namespace mixwright::surgery {

std::vector<merge::WidthCurve> loss_curves(const ZipContext& context) {
    calibrate::RoutedLayer routed = context.routed;
    routed.weights = context.gradients.norm(2, 1) / std::sqrt(2.0 * static_cast<double>(context.spec.hidden_size));
    const ZipContext by_loss{context.spec, context.result, context.weights, routed, context.options, context.layer};
    std::vector<merge::WidthCurve> curves;
    for (std::int64_t e = 0; e < context.spec.num_experts; ++e) {
        curves.push_back(choice_alone(by_loss, e).curve);
        check_interrupted();
    }
    return curves;
}

std::vector<double> share_out(const std::vector<std::vector<merge::WidthCurve>>& layers, std::int64_t width, double keep) {
    std::vector<merge::WidthCurve> all;
    for (const auto& experts : layers) all.insert(all.end(), experts.begin(), experts.end());
    double budget = 0;
    for (const merge::WidthCurve& curve : all) budget += curve.cost * (keep * static_cast<double>(width) - static_cast<double>(curve.least));
    const merge::WidthBudget shared = merge::share_width_budget(all, window_multiple(width), budget);
    std::vector<double> shares;
    auto next = shared.widths.begin();
    for (const auto& experts : layers) {
        std::int64_t neurons = 0;
        for (std::size_t e = 0; e < experts.size(); ++e) neurons += *next++;
        shares.push_back(experts.empty() ? 1 : static_cast<double>(neurons) / static_cast<double>(std::ssize(experts) * width));
    }
    return shares;
}

std::vector<double> layer_shares(const arch::OpenModel& model, const calibrate::DomainTokens& text, const ZipPlan& plan, const ZipOptions& options,
                                 const model::Placement& placement, const calibrate::LossGradients& gradients) {
    const model::Decoder original(model.spec);
    CalibrationStream stream(model, text, placement);
    std::vector<std::vector<merge::WidthCurve>> layers;
    Progress progress("sharing out the layers' bytes", static_cast<std::uint64_t>(model.spec.num_layers), "layers");
    for (std::int64_t layer = 0; layer < model.spec.num_layers; ++layer) {
        const model::LayerWeights weights = model::load_layer(model, layer, placement);
        layers.emplace_back();
        if (model.spec.layers[static_cast<std::size_t>(layer)].kind == arch::LayerKind::dense) {
            stream.advance(original, weights, layer);
        } else {
            std::vector<at::Tensor> outputs;
            const calibrate::RoutedLayer routed = stream.observe(original, weights, layer, &outputs);
            const model::MoeWeights block = placed(weights.moe, {at::kFloat, at::kCPU});
            layers.back() = loss_curves({model.spec, plan.spec, block, routed, options, layer, gradients.behind(layer)});
            stream.become(std::move(outputs));
        }
        model::drop_layer(model, layer);
        progress.advance();
    }
    return share_out(layers, model.spec.expert_width, options.keep);
}

}  // namespace mixwright::surgery
