// Weights of a resident model in 8 or 4 bits, for less memory and faster decoding.
#pragma once

#include <optional>
#include <string_view>

#include "kernels/matvec.h"
#include "model/model.h"

namespace mixwright::model {

/// "int8", "int4"; empty: none. Error(usage) on another name.
std::optional<kernels::Format> quantization(std::string_view name);

/// Replaces the weights of every linear map, experts included, a layer at a time, and gives the mapped pages of what they
/// replace back. Routers, norms and the embedding stay; the head becomes int8 even where the rest becomes int4, because
/// every token's choice hangs on it. Error(unsupported) on other devices than a CPU.
void quantize(Model& model, kernels::Format format);

}  // namespace mixwright::model
