// Compiled patterns of tokenizer.json: a literal string, or a regular expression run by PCRE2's JIT under limits.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"

namespace mixwright::tokenizer {

/// Bytes [begin, end) of a text.
struct Range {
    std::size_t begin = 0, end = 0;
    bool operator==(const Range&) const = default;
};

/// Immutable, cheap to copy, safe to use from several threads.
class Pattern {
public:
    static Pattern literal(std::string text);
    /// `expression` in Oniguruma's syntax. Error(malformed) or Error(unsupported), naming `source`.
    static Pattern regex(std::string_view expression, std::string_view source);
    /// {"String": "..."} or {"Regex": "..."}
    static Pattern from_json(const io::Json& json, std::string_view source);

    /// Appends every match in `text` (valid UTF-8), left to right, as Oniguruma's iterator finds them: an empty match
    /// directly behind the match before it is passed over. Error(failed) when the expression backtracks without end.
    void find_all(std::string_view text, std::vector<Range>& matches) const;

private:
    struct Compiled;
    std::string literal_;
    std::shared_ptr<const Compiled> compiled_;  // null for a literal
};

}  // namespace mixwright::tokenizer
