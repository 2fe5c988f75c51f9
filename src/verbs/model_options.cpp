#include "verbs/model_options.h"

namespace mixwright::verbs {

model::Placement placement_for(const CommonOptions& common, const arch::OpenModel& model, const std::string& default_dtype) {
    return {model::compute_dtype(common.dtype.empty() ? default_dtype : common.dtype, model), model::compute_device(common.device)};
}

}  // namespace mixwright::verbs
