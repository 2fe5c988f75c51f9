#include "evaluate/questions.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>

#include "data/json_lines.h"
#include "error.h"
#include "io/file.h"
#include "io/json.h"

namespace mixwright::evaluate {
namespace {

namespace fs = std::filesystem;
using io::Json;

constexpr std::size_t file_limit = 1ull << 30;
constexpr std::size_t most_options = 26;  // as many as there are letters

[[noreturn]] void refuse(const std::string& place, const std::string& what, std::string hint = {}) {
    throw Error(ErrorCode::malformed, place + ": " + what, std::move(hint));
}

// The first of these keys that the line has and that is not null.
const Json* field(const Json& line, std::initializer_list<const char*> keys) {
    for (const char* key : keys)
        if (const auto it = line.find(key); it != line.end() && !it->is_null()) return &*it;
    return nullptr;
}

std::vector<std::string> texts(const Json* list, const std::string& place) {
    if (list != nullptr && list->is_object()) list = field(*list, {"text"});
    if (list == nullptr || !list->is_array() || list->size() < 2 || list->size() > most_options)
        refuse(place, fmt::format("no list of 2 to {} options", most_options), "give `options` or `choices`");
    std::vector<std::string> result;
    for (const Json& option : *list) {
        if (!option.is_string()) refuse(place, "an option is no text");
        result.push_back(option.get<std::string>());
    }
    return result;
}

// "(A)5 apples", "B. pears": what is left without the letter, when all options begin with theirs.
void take_letters_off(std::vector<std::string>& options) {
    std::vector<std::string> bare;
    for (std::size_t i = 0; i < options.size(); ++i) {
        const std::string letter(1, static_cast<char>('A' + i));
        std::size_t taken = 0;
        for (const std::string& mark : {"(" + letter + ")", letter + ".", letter + ")"})
            if (options[i].starts_with(mark)) taken = mark.size();
        const std::size_t begin = taken > 0 ? options[i].find_first_not_of(' ', taken) : std::string::npos;
        if (begin == std::string::npos) return;
        bare.push_back(options[i].substr(begin));
    }
    options = std::move(bare);
}

std::size_t right_option(const Json& line, const Json* options, std::size_t count, const std::string& place) {
    const Json* right = field(line, {"label", "answerKey", "answer", "gold"});
    if (right == nullptr) refuse(place, "it does not say which option is right", "give `label` or `answer`: a letter, or an index from 0");
    if (right->is_number_integer()) {
        const auto index = right->get<std::int64_t>();
        if (index >= 0 && static_cast<std::size_t>(index) < count) return static_cast<std::size_t>(index);
    } else if (right->is_string()) {
        const auto& name = right->get_ref<const std::string&>();
        // ARC names its options itself, by letters or by numbers.
        if (options->is_object() && options->contains("label") && (*options)["label"].is_array()) {
            const auto& labels = (*options)["label"];
            const auto found = std::ranges::find(labels, Json(name));
            if (found != labels.end() && static_cast<std::size_t>(found - labels.begin()) < count) return static_cast<std::size_t>(found - labels.begin());
        } else if (name.size() == 1 && name[0] >= 'A' && static_cast<std::size_t>(name[0] - 'A') < count) {
            return static_cast<std::size_t>(name[0] - 'A');
        }
    }
    refuse(place, fmt::format("the right option is none of the {}", count), "give a letter, or an index from 0");
}

ChoiceQuestion read_choice(const Json& line, const std::string& place) {
    if (!line.is_object()) refuse(place, "not a JSON object");
    const Json* question = field(line, {"question", "query", "prompt"});
    if (question == nullptr || !question->is_string()) refuse(place, "no `question`");
    const Json* options = field(line, {"options", "choices"});
    ChoiceQuestion result{.options = texts(options, place)};
    result.right = right_option(line, options, result.options.size(), place);
    take_letters_off(result.options);
    if (std::ranges::any_of(result.options, &std::string::empty)) refuse(place, "an option is empty");
    if (const Json* passage = field(line, {"passage"}); passage != nullptr && passage->is_string() && !passage->get_ref<const std::string&>().empty())
        result.prompt = passage->get<std::string>() + "\n";
    result.prompt += fmt::format("Question: {}\nAnswer:", question->get_ref<const std::string&>());
    return result;
}

}  // namespace

std::vector<OpenQuestion> read_open_questions(const fs::path& path, std::int64_t limit, const data::ChatRenderer& render_chat) {
    std::vector<OpenQuestion> questions;
    for (const data::Document& document : data::read_documents(path, render_chat)) {
        if (limit > 0 && std::ssize(questions) == limit) break;
        const auto& parts = document.segments;
        if (parts.size() < 2 || parts.front().learn || !parts.back().learn)
            refuse(document.place, "no question with an answer", "a line holds `question` and `answer`, or `prompt` and `completion`, or `messages`");
        OpenQuestion question{.answer = parts.back().text, .has_special_tokens = document.has_special_tokens};
        for (std::size_t i = 0; i + 1 < parts.size(); ++i) question.prompt += parts[i].text;
        questions.push_back(std::move(question));
    }
    return questions;
}

std::vector<ChoiceQuestion> read_choice_questions(const fs::path& path, std::int64_t limit) {
    std::vector<ChoiceQuestion> questions;
    data::for_each_json_line(path, file_limit, {}, [&](const Json& line, const std::string& place) {
        questions.push_back(read_choice(line, place));
        return std::ssize(questions) != limit;
    });
    if (questions.empty()) refuse(io::shown(path), "no question in it", "give a .jsonl with a question a line");
    return questions;
}

}  // namespace mixwright::evaluate
