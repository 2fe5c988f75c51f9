// Exact match: the model answers freely, by greedy decoding, and its final answer is compared with the right one.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "evaluate/questions.h"
#include "evaluate/score.h"
#include "model/model.h"
#include "tokenizer/tokenizer.h"

namespace mixwright::evaluate {

struct ExactMatchOptions {
    std::int64_t max_new_tokens = 256;
    std::int64_t parallel = 8;            // questions answered together
    std::vector<std::int64_t> stop_ids;   // that end an answer
};

/// What of `text` counts as the answer to a question whose right answer is `right`. Where that ends as GSM8K's do, in "#### 18": what stands
/// behind the last such mark, or else the last number, without thousands' commas, units of money and a final dot. Elsewhere the whole text without
/// the space around it.
std::string final_answer(std::string_view text, std::string_view right);

/// Answers end before the next "Question:", or with the line when the right answer is a single line without "####".
Score exact_match(const model::Model& model, const tokenizer::Tokenizer& tokenizer, std::span<const OpenQuestion> questions, const ExactMatchOptions& options);

}  // namespace mixwright::evaluate
