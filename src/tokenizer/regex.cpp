#include "tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <new>
#include <utility>

#include "error.h"
#include "tokenizer/oniguruma.h"
#include "tokenizer/unicode_text.h"

namespace mixwright::tokenizer {
namespace {

constexpr std::size_t max_pattern_bytes = 64u << 10;
constexpr std::uint32_t match_limit = 20'000'000;  // steps of one search; a split takes a few per character
constexpr std::uint32_t heap_limit_kib = 64u << 10;
constexpr std::size_t jit_stack_bytes = 8u << 20;

struct Free {
    void operator()(pcre2_code* p) const { pcre2_code_free(p); }
    void operator()(pcre2_compile_context* p) const { pcre2_compile_context_free(p); }
    void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
    void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
    void operator()(pcre2_jit_stack* p) const { pcre2_jit_stack_free(p); }
};
template <class T>
using Owned = std::unique_ptr<T, Free>;

template <class T>
Owned<T> owned(T* pointer) {
    if (pointer == nullptr) throw std::bad_alloc();
    return Owned<T>(pointer);
}

// What a search writes to; one for each thread.
struct Matcher {
    Owned<pcre2_match_context> context = owned(pcre2_match_context_create(nullptr));
    Owned<pcre2_match_data> data = owned(pcre2_match_data_create(1, nullptr));
    Owned<pcre2_jit_stack> stack = owned(pcre2_jit_stack_create(64u << 10, jit_stack_bytes, nullptr));

    Matcher() {
        pcre2_set_match_limit(context.get(), match_limit);
        pcre2_set_heap_limit(context.get(), heap_limit_kib);
        pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
    }
};

std::string message_of(int code) {
    PCRE2_UCHAR text[256];
    return pcre2_get_error_message(code, text, sizeof text) < 0 ? "unknown error" : reinterpret_cast<const char*>(text);
}

void find_all_literal(std::string_view literal, std::string_view text, std::vector<Range>& matches) {
    if (literal.empty()) return;
    for (std::size_t at = text.find(literal); at != text.npos; at = text.find(literal, at + literal.size()))
        matches.push_back({at, at + literal.size()});
}

}  // namespace

struct Pattern::Compiled {
    std::string source, expression;
    Owned<pcre2_code> code;
};

Pattern Pattern::literal(std::string text) {
    Pattern pattern;
    pattern.literal_ = std::move(text);
    return pattern;
}

Pattern Pattern::regex(std::string_view expression, std::string_view source) {
    if (expression.size() > max_pattern_bytes)
        throw Error(ErrorCode::malformed, fmt::format("{}: a regular expression is too long (got {} bytes, limit {})", source,
                                                      expression.size(), max_pattern_bytes));
    const std::string translated = translate_oniguruma(expression, source);
    const auto context = owned(pcre2_compile_context_create(nullptr));
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
    int error = 0;
    PCRE2_SIZE offset = 0;
    auto compiled = std::make_shared<Compiled>();
    compiled->source = source;
    compiled->expression = expression;
    compiled->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                       PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset,
                                       context.get()));
    if (!compiled->code)
        throw Error(ErrorCode::unsupported, fmt::format("{}: the regular expression \"{}\" does not compile: {}", source,
                                                        printable(expression), message_of(error)));
    // Without a JIT for this machine the interpreter runs the same code.
    pcre2_jit_compile(compiled->code.get(), PCRE2_JIT_COMPLETE);
    Pattern pattern;
    pattern.compiled_ = std::move(compiled);
    return pattern;
}

Pattern Pattern::from_json(const io::Json& json, std::string_view source) {
    if (json.is_object() && json.size() == 1 && json.begin()->is_string()) {
        const auto& text = json.begin()->get_ref<const std::string&>();
        if (json.begin().key() == "String") return literal(text);
        if (json.begin().key() == "Regex") return regex(text, source);
    }
    throw Error(ErrorCode::malformed, fmt::format("{}: a pattern is not {{\"String\": ...}} or {{\"Regex\": ...}}", source));
}

void Pattern::find_all(std::string_view text, std::vector<Range>& matches) const {
    if (!compiled_) return find_all_literal(literal_, text, matches);
    thread_local Matcher matcher;
    const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(matcher.data.get());
    std::size_t from = 0, last_end = text.npos;
    while (from <= text.size()) {
        const int found = pcre2_match(compiled_->code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                                      PCRE2_NO_UTF_CHECK, matcher.data.get(), matcher.context.get());
        if (found == PCRE2_ERROR_NOMATCH) return;
        if (found < 0)
            throw Error(ErrorCode::failed,
                        fmt::format("{}: the regular expression \"{}\" gave up on this text: {}", compiled_->source,
                                    printable(compiled_->expression), message_of(found)),
                        "the text has a very long run that the tokenizer's expression backtracks on");
        const std::size_t begin = ends[0], end = ends[1];
        if (begin == end && end == last_end) {
            from = end + (end < text.size() ? utf8_length(text[end]) : 1);
            continue;
        }
        // \K inside a lookahead could move the start behind the end or the end back.
        if (begin > end || (last_end != text.npos && begin < last_end))
            throw Error(ErrorCode::unsupported,
                        fmt::format("{}: the regular expression \"{}\" matches out of order", compiled_->source,
                                    printable(compiled_->expression)));
        matches.push_back({begin, end});
        from = last_end = end;
    }
}

}  // namespace mixwright::tokenizer
