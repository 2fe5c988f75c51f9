// What the verbs that run a model share: the model argument, its device and dtype.
#pragma once

#include <string>

#include "model/model.h"
#include "verbs/verb.h"

namespace mixwright::verbs {

/// Where and in which type to compute: --device and --dtype, or `default_dtype` ("" for the model's own).
model::Placement placement_for(const CommonOptions& common, const arch::OpenModel& model, const std::string& default_dtype = {});

}  // namespace mixwright::verbs
