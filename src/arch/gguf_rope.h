// Rope scalings out of a GGUF file, which keeps some of them as tables of factors.
#pragma once

#include <span>
#include <string_view>

#include "arch/architecture.h"
#include "arch/gguf_metadata.h"
#include "checkpoint/tensor_source.h"
#include "io/json.h"

namespace mixwright::arch {

/// rope_parameters as transformers 5 spells them, without rope_theta; null without a scaling.
/// Error(unsupported) on a kind or a table we cannot say in a config.
io::Json rope_scaling_of_gguf(const GgufMetadata& metadata, const checkpoint::TensorSource& tensors, double theta, std::int64_t max_positions);

/// Llama 3's rope scaling behind the factors of `rope_freqs` ([head_dim / 2], what each frequency is divided by), as
/// rope_parameters; null when every factor is 1. Error(unsupported) when no such scaling gives these factors.
io::Json llama3_scaling_of(std::span<const float> factors, double theta, std::string_view source);

}  // namespace mixwright::arch
