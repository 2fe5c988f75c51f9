#include "tokenizer/oniguruma.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "error.h"
#include "tokenizer/regex.h"

namespace mixwright::tokenizer {
namespace {

std::vector<std::string> matches(std::string_view expression, std::string_view text) {
    std::vector<Range> ranges;
    Pattern::regex(expression, "test").find_all(text, ranges);
    std::vector<std::string> found;
    for (const Range range : ranges) found.emplace_back(text.substr(range.begin, range.end - range.begin));
    return found;
}

ErrorCode refusal(std::string_view expression) {
    try {
        Pattern::regex(expression, "test");
    } catch (const Error& e) {
        return e.code();
    }
    return ErrorCode::internal;
}

using testing::ElementsAre;

TEST(Oniguruma, white_space_is_the_unicode_property) {
    EXPECT_THAT(matches(R"(\s+)", "a \xC2\x85\xE3\x80\x80z\xE1\xA0\x8E!"), ElementsAre(" \xC2\x85\xE3\x80\x80"));  // not U+180E
    EXPECT_THAT(matches(R"([^\s]+)", "a b"), ElementsAre("a", "b"));
    EXPECT_THAT(matches(R"([\S\n]+)", "a \nb"), ElementsAre("a", "\nb"));
}

TEST(Oniguruma, a_plus_behind_an_interval_repeats_it) { EXPECT_THAT(matches("a{2}+", "aaaaa"), ElementsAre("aaaa")); }

TEST(Oniguruma, a_question_mark_behind_an_exact_interval_makes_it_optional) {
    EXPECT_THAT(matches("ba{2}?c", "bc baac bac"), ElementsAre("bc", "baac"));
    EXPECT_THAT(matches("a{1,3}?", "aa"), ElementsAre("a", "a"));
}

TEST(Oniguruma, intervals_without_a_lower_bound_begin_at_zero) { EXPECT_THAT(matches("ba{,2}", "b baaa"), ElementsAre("b", "baa")); }

TEST(Oniguruma, other_braces_are_literal) { EXPECT_THAT(matches("a{x}", "a{x}"), ElementsAre("a{x}")); }

TEST(Oniguruma, circumflex_and_dollar_are_ends_of_lines) {
    EXPECT_THAT(matches("^a", "a\na\nba"), ElementsAre("a", "a"));
    EXPECT_THAT(matches("a$", "a\nab\na"), ElementsAre("a", "a"));
}

TEST(Oniguruma, option_m_lets_the_dot_match_line_breaks) {
    EXPECT_THAT(matches("a.b", "a\nb"), ElementsAre());
    EXPECT_THAT(matches("(?m:a.b)", "a\nb"), ElementsAre("a\nb"));
}

TEST(Oniguruma, h_is_a_hexadecimal_digit) { EXPECT_THAT(matches(R"(\h+)", "xyz1fG"), ElementsAre("1f")); }

TEST(Oniguruma, classes_intersect_and_nest) {
    EXPECT_THAT(matches(R"([\p{L}&&[^\p{Han}]]+)", "ab\xE4\xB8\x80""c"), ElementsAre("ab", "c"));
    EXPECT_THAT(matches("[a-c[x-z]]+", "abxyq"), ElementsAre("abxy"));
    EXPECT_THAT(matches("[[^a]]+", "bab"), ElementsAre("b", "b"));
}

TEST(Oniguruma, long_names_of_categories_are_known) { EXPECT_THAT(matches(R"(\p{Letter}\P{^Number})", "a1"), ElementsAre("a1")); }

TEST(Oniguruma, empty_matches_cut_but_do_not_stall) {
    std::vector<Range> ranges;
    Pattern::regex(R"((?=(\d{3})+(?!\d)))", "test").find_all("1234567", ranges);
    EXPECT_THAT(ranges, ElementsAre(Range{1, 1}, Range{4, 4}));
}

TEST(Oniguruma, refuses_what_has_no_counterpart) {
    for (const char* expression : {R"([\W])", R"(\g<1>)", "[a[^b]]", "(?~a)", "(*FAIL)"})
        EXPECT_EQ(refusal(expression), ErrorCode::unsupported) << expression;
    for (const char* expression : {"(a", "a)", "[a", R"(\u12)", R"(\p{L)", "(?"})
        EXPECT_EQ(refusal(expression), ErrorCode::malformed) << expression;
}

TEST(Pattern, gives_up_on_catastrophic_backtracking) {
    std::vector<Range> ranges;
    const std::string text = std::string(60, 'a') + "b";
    EXPECT_THROW(Pattern::regex("(a|aa)+$", "test").find_all(text, ranges), Error);
}

TEST(Pattern, long_runs_stay_within_bounds) {
    std::vector<Range> ranges;
    const std::string text = std::string(1'000'000, ' ') + "x";
    for (const char* expression : {R"(\s+(?!\S)|\s+)", R"(\s*[\r\n]+|\s+(?!\S)|\s+)"}) {
        ranges.clear();
        Pattern::regex(expression, "test").find_all(text, ranges);
        EXPECT_EQ(ranges.size(), 2u) << expression;
    }
    ranges.clear();
    Pattern::regex(R"(\s+$)", "test").find_all(text, ranges);  // fails from every place of the run
    EXPECT_TRUE(ranges.empty());
}

}  // namespace
}  // namespace mixwright::tokenizer
