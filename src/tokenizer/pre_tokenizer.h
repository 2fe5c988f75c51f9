// The second step of tokenizing: cutting text into pieces that no token crosses.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"
#include "tokenizer/regex.h"

namespace mixwright::tokenizer {

/// A text and the pieces it is cut into, in order, none empty. Steps that rewrite text put it into `storage`.
struct Pieces {
    /// Starts with the whole of `whole` as one piece; `at_start`: whether the input begins with it.
    void reset(std::string_view whole, bool at_start);
    std::string_view operator[](std::size_t index) const { return text.substr(ranges[index].begin, ranges[index].end - ranges[index].begin); }
    /// Whether the piece is the first thing of the input.
    bool is_first(std::size_t index) const { return index == 0 && at_start && ranges[0].begin == 0; }

    std::string_view text;
    std::vector<Range> ranges;
    bool at_start = false;

    // buffers of the steps
    std::string storage;
    std::vector<Range> next, matches;
};

class PreTokenizer {
public:
    /// The "pre_tokenizer" of a tokenizer.json (null: the text stays whole). Error(unsupported) for an unknown kind.
    /// With `raw_bytes`, a ByteLevel at the end leaves the bytes as they are: ends_in_bytes() says so.
    static PreTokenizer from_json(const io::Json& json, const std::string& where, bool raw_bytes);

    void apply(Pieces& pieces) const {
        for (const auto& step : steps_) step(pieces);
    }
    bool ends_in_bytes() const noexcept { return ends_in_bytes_; }

private:
    using Step = std::function<void(Pieces&)>;

    void add(const io::Json& json, const std::string& where, bool raw_bytes, bool last);
    void add_byte_level(const io::Json& json, const std::string& where, bool raw_bytes);

    std::vector<Step> steps_;
    bool ends_in_bytes_ = false;
};

}  // namespace mixwright::tokenizer
