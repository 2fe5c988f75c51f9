#include "evaluate/exact_match.h"

#include <algorithm>
#include <cctype>

#include "generate/batch.h"
#include "generate/stop_strings.h"

namespace mixwright::evaluate {
namespace {

constexpr std::string_view mark = "####";

std::string_view trimmed(std::string_view text) {
    const auto space = " \t\r\n";
    const std::size_t begin = text.find_first_not_of(space);
    return begin == std::string_view::npos ? std::string_view() : text.substr(begin, text.find_last_not_of(space) - begin + 1);
}

// "$1,234.50." -> "1234.50"
std::string plain_number(std::string_view text) {
    std::string plain;
    for (const char c : text)
        if (c != ',' && c != '$' && c != '%') plain += c;
    while (plain.ends_with('.')) plain.pop_back();
    return plain;
}

std::string last_number(std::string_view text) {
    const auto digit = [&](std::size_t i) { return std::isdigit(static_cast<unsigned char>(text[i])) != 0; };
    std::size_t end = text.size();
    while (end > 0 && !digit(end - 1)) --end;
    std::size_t begin = end;
    while (begin > 0 && (digit(begin - 1) || text[begin - 1] == '.' || text[begin - 1] == ',')) --begin;
    while (begin < end && !digit(begin)) ++begin;
    if (begin > 0 && text[begin - 1] == '-') --begin;
    return plain_number(text.substr(begin, end - begin));
}

// Text of one answer as it comes.
class Answer {
public:
    Answer(const tokenizer::Tokenizer& tokenizer, std::string_view right)
        : decoder_(tokenizer), stop_({right.find(mark) == std::string_view::npos && trimmed(right).find('\n') == std::string_view::npos ? "\n" : "\nQuestion:"}) {}

    bool push(std::int64_t id) {
        text_ += stop_.push(decoder_.push(static_cast<tokenizer::TokenId>(id)));
        return !stop_.stopped();
    }
    std::string finish() {
        if (!stop_.stopped()) text_ += stop_.push(decoder_.finish());
        if (!stop_.stopped()) text_ += stop_.finish();
        return text_;
    }

private:
    tokenizer::StreamDecoder decoder_;
    generate::StopStrings stop_;
    std::string text_;
};

}  // namespace

std::string final_answer(std::string_view text, std::string_view right) {
    if (right.find(mark) == std::string_view::npos) return std::string(trimmed(text));
    const std::size_t found = text.rfind(mark);
    if (found == std::string_view::npos) return last_number(text);
    const std::string_view behind = trimmed(text.substr(found + mark.size()));
    return plain_number(trimmed(behind.substr(0, behind.find('\n'))));
}

Score exact_match(const model::Model& model, const tokenizer::Tokenizer& tokenizer, std::span<const OpenQuestion> questions, const ExactMatchOptions& options) {
    std::vector<std::vector<std::int64_t>> prompts;
    std::vector<Answer> answers;
    for (const OpenQuestion& question : questions) {
        const auto ids = tokenizer.encode(question.prompt, {.add_special_tokens = !question.has_special_tokens});
        prompts.emplace_back(ids.begin(), ids.end());
        answers.emplace_back(tokenizer, question.answer);
    }
    const generate::GenerateOptions generation{.max_new_tokens = options.max_new_tokens, .stop_ids = options.stop_ids};
    generate::generate_together(model, prompts, generation, options.parallel, [&](std::size_t i, std::int64_t id) { return answers[i].push(id); });
    Score score{.asked = std::ssize(questions)};
    for (std::size_t i = 0; i < questions.size(); ++i)
        score.right += final_answer(answers[i].finish(), questions[i].answer) == final_answer(questions[i].answer, questions[i].answer);
    return score;
}

}  // namespace mixwright::evaluate
