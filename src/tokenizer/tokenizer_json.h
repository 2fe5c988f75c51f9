// Reads tokenizer.json, the format of Hugging Face tokenizers.
#pragma once

#include <string_view>

#include "io/json.h"
#include "tokenizer/pipeline.h"

namespace mixwright::tokenizer {

/// The bounds of a tokenizer.json.
constexpr io::JsonLimits tokenizer_json_limits{.bytes = 256u << 20, .depth = 64};

/// Error(malformed) or Error(unsupported), naming `source` and the place in it.
Pipeline pipeline_from_json(const io::Json& json, std::string_view source);

}  // namespace mixwright::tokenizer
