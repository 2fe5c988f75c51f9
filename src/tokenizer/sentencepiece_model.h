// Reads tokenizer.model, the format of SentencePiece, and runs it with SentencePiece itself.
#pragma once

#include <string_view>

#include "tokenizer/pipeline.h"

namespace mixwright::tokenizer {

/// The most a tokenizer.model may hold.
constexpr std::size_t max_sentencepiece_bytes = 256u << 20;

/// From the bytes of a file that `source` names. Control symbols become special added tokens: SentencePiece itself never
/// finds them in a text. Error(malformed) naming the file.
Pipeline pipeline_from_sentencepiece(std::string_view bytes, std::string_view source);

}  // namespace mixwright::tokenizer
