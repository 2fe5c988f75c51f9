// Lines a person types: edited on a terminal (libedit: history, arrows), read as they are from a pipe.
#pragma once

#include <optional>
#include <string>

namespace mixwright::verbs {

class LineInput {
public:
    /// `prompt` is shown on a terminal only.
    explicit LineInput(std::string prompt);

    /// The next line without its end, or nothing at the end of the input. A line that ends in a backslash goes on in the next.
    std::optional<std::string> next();
    bool interactive() const noexcept { return interactive_; }

private:
    std::optional<std::string> read_one(const char* prompt) const;

    std::string prompt_;
    bool interactive_;
};

}  // namespace mixwright::verbs
