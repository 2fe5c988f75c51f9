// The files of a zipped model.
#pragma once

#include <filesystem>
#include <vector>

#include "arch/canonical.h"
#include "checkpoint/writer.h"
#include "surgery/zip_plan.h"
#include "surgery/zipped_layer.h"

namespace mixwright::surgery {

/// The output: new experts and routers out of `workplace`, everything else as the original has it; the transformers module of a
/// zipped model with it, and zip_report.json: method, share kept and `layers`.
checkpoint::OutputPlan zip_output(const arch::OpenModel& model, const ZipPlan& plan, const ZipOptions& options, const std::vector<ZippedLayer>& layers,
                                  const std::filesystem::path& workplace);

}  // namespace mixwright::surgery
