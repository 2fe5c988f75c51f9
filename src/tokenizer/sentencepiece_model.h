// Reads tokenizer.model, the format of SentencePiece, and runs it with SentencePiece itself.
#pragma once

#include <filesystem>

#include "tokenizer/pipeline.h"

namespace mixwright::tokenizer {

/// Control symbols become special added tokens: SentencePiece itself never finds them in a text.
/// Error(malformed) naming the file.
Pipeline pipeline_from_sentencepiece(const std::filesystem::path& path);

}  // namespace mixwright::tokenizer
