// Questions with known answers, out of .jsonl files in the forms that public benchmarks come in.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/documents.h"

namespace mixwright::evaluate {

/// A question whose answer is written freely.
struct OpenQuestion {
    std::string prompt, answer;
    bool has_special_tokens = false;  // of a chat template, in the prompt
};

/// A question and the answers to choose from.
struct ChoiceQuestion {
    std::string prompt;
    std::vector<std::string> options;
    std::size_t right = 0;            // index into options
};

/// The first `limit` (0: all) lines as data::read_documents takes them; each needs a prompt and an answer (`question` and `answer`,
/// `prompt` and `completion`, or `messages` that end with the assistant's). Error(malformed) naming file and line.
std::vector<OpenQuestion> read_open_questions(const std::filesystem::path& path, std::int64_t limit, const data::ChatRenderer& render_chat);

/// The first `limit` (0: all) lines. Each holds `question` (or `query`, `prompt`), a list `options` or `choices` (or ARC's {"text": [...],
/// "label": [...]}) of at least two, and which is right: `label`, `answerKey`, `answer` or `gold`, a letter or an index; `passage` comes before
/// the question. Letters before options, as in "(A)", are taken off. Error(malformed) naming file and line.
std::vector<ChoiceQuestion> read_choice_questions(const std::filesystem::path& path, std::int64_t limit);

}  // namespace mixwright::evaluate
