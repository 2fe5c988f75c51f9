// A regular expression of a tokenizer and, behind the first line, a text: refused with an Error, or matches that lie in the
// text one behind another.
#include <cstdlib>

#include "error.h"
#include "tokenizer/regex.h"
#include "tokenizer/unicode_text.h"

using namespace mixwright;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view input(reinterpret_cast<const char*>(data), size);
    const std::size_t line = std::min(input.find('\n'), size);
    const std::string text = tokenizer::replace_invalid_utf8(input.substr(std::min(line + 1, size)));
    try {
        std::vector<tokenizer::Range> matches;
        tokenizer::Pattern::regex(input.substr(0, line), "fuzz").find_all(text, matches);
        std::size_t end = 0;
        for (const tokenizer::Range& match : matches) {
            if (match.begin < end || match.end < match.begin || match.end > text.size()) std::abort();
            end = match.end;
        }
    } catch (const Error&) {
    }
    return 0;
}
