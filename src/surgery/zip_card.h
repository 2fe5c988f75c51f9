// What a person reads of a zipped model: the table on the terminal and the model card.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "calibrate/domain_tokens.h"
#include "surgery/zip_plan.h"
#include "surgery/zipped_layer.h"

namespace mixwright::surgery {

/// A line a layer: tokens an expert, errors of the block's output, what was chosen; then what sharing can do for speed. `from`: the original, `to`: what was made of it.
std::string zip_table(const arch::ModelSpec& from, const arch::ModelSpec& to, const std::vector<ZippedLayer>& layers);

/// README.md of the result, which will be called `name`.
std::string zip_card(const arch::OpenModel& model, const ZipPlan& plan, const ZipOptions& options, const std::vector<ZippedLayer>& layers,
                     const calibrate::DomainTokens& text, std::string_view name);

/// What the report page draws of it (calibrate/profile.h).
io::Json zip_report_json(const arch::ModelSpec& original, const ZipPlan& plan, const ZipOptions& options, const std::vector<ZippedLayer>& layers);

}  // namespace mixwright::surgery
