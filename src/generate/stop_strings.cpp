#include "generate/stop_strings.h"

#include <algorithm>
#include <utility>

namespace mixwright::generate {

StopStrings::StopStrings(std::vector<std::string> strings) : strings_(std::move(strings)) {
    std::erase_if(strings_, [](const std::string& s) { return s.empty(); });
}

std::string StopStrings::push(std::string_view piece) {
    if (stopped_) return {};
    held_ += piece;
    std::size_t cut = std::string::npos;
    for (const std::string& s : strings_) cut = std::min(cut, held_.find(s));
    if (cut != std::string::npos) {
        stopped_ = true;
        held_.resize(cut);
        return std::exchange(held_, {});
    }
    std::size_t keep = 0;  // the longest end of the text that begins a stop string
    for (const std::string& s : strings_)
        for (std::size_t length = std::min(s.size() - 1, held_.size()); length > keep; --length)
            if (std::string_view(held_).ends_with(std::string_view(s).substr(0, length))) keep = length;
    std::string shown = held_.substr(0, held_.size() - keep);
    held_.erase(0, held_.size() - keep);
    return shown;
}

std::string StopStrings::finish() { return std::exchange(held_, {}); }

}  // namespace mixwright::generate
