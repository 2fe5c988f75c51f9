// Template text -> tokens, one at a time, with Jinja's white-space rules as transformers sets them (trim_blocks,
// lstrip_blocks, one trailing newline dropped).
#pragma once

#include <string_view>

#include "jinja/budget.h"

namespace mixwright::jinja {

struct Token {
    enum class Kind { data, block_begin, block_end, variable_begin, variable_end, name, text, integer, real, symbol, end };

    bool is_name(std::string_view wanted) const { return kind == Kind::name && text == wanted; }
    bool is(std::string_view symbol) const { return kind == Kind::symbol && text == symbol; }

    Kind kind = Kind::end;
    String text;  // data, a name, a symbol, or the value of a string literal
    std::int64_t integer = 0;
    double real = 0;
    int line = 1;
};

class Lexer {
public:
    explicit Lexer(std::string_view source);
    /// Failure(syntax) on a character or number that cannot be; after the last token, `end` for ever.
    Token next();

private:
    enum class State { text, block, variable };

    Token next_text();
    Token next_in_tag();
    Token name_token();
    Token number_token();
    Token string_token();
    Token symbol_token();
    bool accept_tag_end();
    void skip_comment();
    std::size_t match_raw(std::size_t at, std::string_view word, bool& strip_after) const;
    Token data(std::string_view text) const;
    void advance(std::size_t to);
    bool at(std::string_view what, std::size_t offset = 0) const;
    void skip_space();
    [[noreturn]] void fail(const std::string& message) const;

    String source_;
    std::size_t position_ = 0;
    int line_ = 1;
    State state_ = State::text;
    bool opening_ = false;       // the begin of the tag at hand was not yet given out
    bool line_starting_ = true;  // whether a tag that comes next stands at the start of a line
    String brackets_;            // open ones: inside them "}}" is no end
};

}  // namespace mixwright::jinja
