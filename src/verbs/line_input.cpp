#include "verbs/line_input.h"

#include <editline/readline.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <memory>
#include <utility>

namespace mixwright::verbs {

LineInput::LineInput(std::string prompt) : prompt_(std::move(prompt)), interactive_(::isatty(STDIN_FILENO) != 0 && ::isatty(STDOUT_FILENO) != 0) {}

std::optional<std::string> LineInput::read_one(const char* prompt) const {
    if (interactive_) {
        const std::unique_ptr<char, decltype(&std::free)> line(::readline(prompt), &std::free);
        if (!line) return std::nullopt;
        if (*line != '\0') ::add_history(line.get());
        return std::string(line.get());
    }
    std::string line;
    if (!std::getline(std::cin, line)) return std::nullopt;
    if (line.ends_with('\r')) line.pop_back();
    return line;
}

std::optional<std::string> LineInput::next() {
    std::optional<std::string> line = read_one(prompt_.c_str());
    while (line && line->ends_with('\\')) {
        line->back() = '\n';
        const std::optional<std::string> more = read_one("");
        if (!more) break;
        *line += *more;
    }
    return line;
}

}  // namespace mixwright::verbs
