// A resident model: all weights loaded (mapped where the file's dtype is the compute dtype), ready to run.
#pragma once

#include <optional>
#include <string_view>

#include "arch/canonical.h"
#include "model/decoder.h"

namespace mixwright::model {

struct Model {
    arch::OpenModel files;
    Placement placement;
    Decoder decoder;
    ModelWeights weights;
};

/// The dtype to compute in: `requested` ("bfloat16", "f32", ...), else the model's own, else f32. Error(usage) on a name that is no float dtype.
at::ScalarType compute_dtype(std::string_view requested, const arch::OpenModel& model);
/// "cpu", "cuda", "cuda:1"; empty: cuda when there is one. Error(usage) when the device is not there.
at::Device compute_device(std::string_view requested);

Model load_model(arch::OpenModel files, Placement placement);

}  // namespace mixwright::model
