// Prompts as batches of token ids, put together the way mergekit-moe does, so that gates made from them agree.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model/layer_stream.h"
#include "tokenizer/tokenizer.h"

namespace mixwright::calibrate {

/// One batch: the BOS token (when the tokenizer has one) before each prompt, padded on the left with BOS (else EOS) to the
/// longest, the padding masked. Error(mismatch) when a token is not in a vocabulary of `vocab_size` (`model` is for the
/// message): the tokenizer then has more tokens than the model has embeddings.
model::StreamedBatch prompt_batch(const tokenizer::Tokenizer& tokenizer, const std::vector<std::string>& prompts,
                                  std::int64_t vocab_size, std::string_view model);

}  // namespace mixwright::calibrate
