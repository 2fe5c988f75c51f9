// `zip`: a MoE with smaller or fewer experts, made from the original layer by layer on calibration text. This is the loop over
// the layers; the methods are in zip_methods.h.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "arch/canonical.h"
#include "calibrate/domain_tokens.h"
#include "model/weights.h"
#include "surgery/zip_plan.h"
#include "surgery/zipped_layer.h"

namespace mixwright::surgery {

/// Passes the text through the model layer by layer and makes every MoE layer's new weights, each in a file of its own in
/// `workplace` (with what was measured, so that an interrupted run goes on behind the last one). `identity` changes
/// whenever the result would.
std::vector<ZippedLayer> zip_layers(const arch::OpenModel& model, const calibrate::DomainTokens& text, ZipPlan& plan,
                                    const ZipOptions& options, const model::Placement& placement, const std::filesystem::path& workplace,
                                    const std::string& identity);

}  // namespace mixwright::surgery
