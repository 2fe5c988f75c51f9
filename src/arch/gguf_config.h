// GGUF metadata as a Hugging Face config.json: what parse_config reads. render_config writes it out in full.
#pragma once

#include <string_view>

#include "arch/architecture.h"
#include "checkpoint/tensor_source.h"
#include "io/json.h"

namespace mixwright::arch {

/// config.json of the model whose GGUF has this metadata (the arrays of the tokenizer may be left out). `tensors`, under
/// their GGUF names, tell what the metadata does not: tied head, biases, vocabulary size, which layers are dense, which of
/// the models that share a general.architecture it is, and rope scalings that are tables of factors. `source` names the file.
/// Error(malformed) on values that are missing or of the wrong kind, Error(unsupported) on architectures we do not know and
/// on values that ours has no place for.
io::Json config_from_gguf(const io::Json& metadata, const checkpoint::TensorSource& tensors, std::string_view source);

}  // namespace mixwright::arch
