// How `zip --budget loss` shares the experts' bytes out over the layers: more for those in which narrow experts cost the loss more.
#pragma once

#include <vector>

#include "calibrate/domain_tokens.h"
#include "calibrate/loss_gradients.h"
#include "merge/width_budget.h"
#include "surgery/zip_methods.h"
#include "surgery/zip_plan.h"

namespace mixwright::surgery {

/// What each expert of a layer loses by being narrow, in nats of the text's summed loss, to second order with the Fisher matrix in place of
/// the Hessian (as in HEAPr, arXiv 2509.22299): an error d of the output costs 1/2 E[(G . d)^2], G the loss's gradient with respect to that
/// output. Of G only its length counts, 1/2 ||G||^2 ||d||^2 / D, as for errors in any direction: then each token's row has a weight, and
/// the curve is that of the expert's own backward selection (neuron_choice.h). Needs the gradients of `context`.
std::vector<merge::WidthCurve> loss_curves(const ZipContext& context);

/// The share of its experts' bytes that each layer keeps so that together they keep `keep`: blocks of neurons go one by one to the expert,
/// of whichever layer, that gains most. `layers`: the curves of a layer's experts of `width` neurons; none for a dense layer, whose share is 1.
std::vector<double> share_out(const std::vector<std::vector<merge::WidthCurve>>& layers, std::int64_t width, double keep);

/// Both for a whole model: once through the original, one layer at a time. `gradients` are those of `text`.
std::vector<double> layer_shares(const arch::OpenModel& model, const calibrate::DomainTokens& text, const ZipPlan& plan, const ZipOptions& options,
                                 const model::Placement& placement, const calibrate::LossGradients& gradients);

}  // namespace mixwright::surgery
