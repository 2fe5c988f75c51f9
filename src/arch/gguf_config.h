// GGUF metadata as a Hugging Face config.json: what parse_config reads. render_config writes it out in full.
#pragma once

#include <string_view>
#include <vector>

#include "arch/architecture.h"
#include "checkpoint/tensor_source.h"
#include "io/json.h"

namespace mixwright::arch {

/// config.json of the model whose GGUF has this metadata (the arrays of the tokenizer may be left out). `tensors`, under
/// their GGUF names, tell what the metadata does not: tied head, biases, vocabulary size, which layers are dense, and
/// Llama 3's rope scaling, which GGUF keeps as a table of factors. `source` names the file.
/// Error(malformed) on values that are missing or of the wrong kind, Error(unsupported) on architectures we do not know.
io::Json config_from_gguf(const io::Json& metadata, const checkpoint::TensorSource& tensors, std::string_view source);

/// Llama 3's rope scaling behind the factors of `rope_freqs` ([head_dim / 2], what each frequency is divided by), as
/// rope_parameters; null when every factor is 1. Error(unsupported) when no such scaling gives these factors.
io::Json llama3_scaling_of(std::span<const float> factors, double theta, std::string_view source);

}  // namespace mixwright::arch
