// Multiple choice: which of the given answers the model finds likeliest behind the question.
#pragma once

#include <span>

#include "evaluate/questions.h"
#include "evaluate/score.h"
#include "model/model.h"
#include "tokenizer/tokenizer.h"

namespace mixwright::evaluate {

struct ChoiceScores {
    Score by_sum;   // acc: the answer whose tokens have the largest summed log-likelihood
    Score by_byte;  // acc_norm: the same over the bytes of the answer, as in lm-evaluation-harness
};

/// A prompt too long for the context loses its beginning.
ChoiceScores multiple_choice(const model::Model& model, const tokenizer::Tokenizer& tokenizer, std::span<const ChoiceQuestion> questions);

}  // namespace mixwright::evaluate
