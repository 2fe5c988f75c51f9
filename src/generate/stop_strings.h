// Ends a stream of text at the first of some strings.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace mixwright::generate {

class StopStrings {
public:
    /// Empty strings are left out.
    explicit StopStrings(std::vector<std::string> strings);

    /// Takes the next piece of text; returns what may be shown: nothing that could still become a stop string, and nothing
    /// from a stop string on.
    std::string push(std::string_view piece);
    /// What was held back when the text ends by itself.
    std::string finish();
    bool stopped() const noexcept { return stopped_; }

private:
    std::vector<std::string> strings_;
    std::string held_;  // the end of the text, as long as it begins a stop string
    bool stopped_ = false;
};

}  // namespace mixwright::generate
