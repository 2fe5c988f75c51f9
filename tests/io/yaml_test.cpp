#include "io/yaml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "error.h"

namespace mixwright::io {
namespace {

using testing::HasSubstr;

template <class Action>
std::string refusal(Action action) {
    try {
        action();
    } catch (const Error& e) {
        return e.what();
    }
    return "accepted";
}

std::string parse_refusal(std::string_view text, YamlLimits limits = {}) {
    return refusal([&] { Yaml::parse(text, "r.yml", limits); });
}

TEST(Yaml, reads_mappings_lists_and_scalars) {
    const Yaml root = Yaml::parse("a: 1\nb: [x, 2.5]\nc: ~\nd: true\n", "r.yml");
    EXPECT_EQ(root.at("a").integer(0, 10), 1);
    EXPECT_EQ(root.at("b").items()[1].number(0, 10), 2.5);
    EXPECT_FALSE(root.get("c"));
    EXPECT_TRUE(root.at("d").boolean());
}

TEST(Yaml, names_the_line_of_a_wrong_value) {
    const Yaml root = Yaml::parse("a: 1\n\nb: seven\n", "r.yml");
    EXPECT_THAT(refusal([&] { root.at("b").integer(0, 10); }), HasSubstr("r.yml:3: got \"seven\", expected a whole number from 0 to 10"));
    EXPECT_THAT(refusal([&] { root.at("a").number(2, 3); }), HasSubstr("r.yml:1: got \"1\""));
    EXPECT_THAT(refusal([&] { root.at("z"); }), HasSubstr("\"z\" is missing"));
}

TEST(Yaml, an_unknown_key_is_an_error_with_the_nearest_known_one) {
    constexpr std::array known{std::string_view("gate_mode"), std::string_view("experts")};
    const Yaml root = Yaml::parse("experts: []\ngateway_mode: random\n", "r.yml");
    const std::string message = refusal([&] { root.expect_keys(known); });
    EXPECT_THAT(message, HasSubstr("r.yml:2: unknown key \"gateway_mode\""));
    EXPECT_THAT(message, HasSubstr("did you mean \"gate_mode\"?"));
}

TEST(Yaml, refuses_a_key_that_occurs_twice) {
    EXPECT_THAT(parse_refusal("a: 1\nb: 2\na: 3\n"), HasSubstr("r.yml:3: key \"a\" occurs twice"));
}

TEST(Yaml, aliases_are_followed_and_their_growth_is_bounded) {
    const Yaml root = Yaml::parse("a: &p [x, y]\nb: *p\n", "r.yml");
    EXPECT_EQ(root.at("b").texts(), (std::vector<std::string>{"x", "y"}));
    std::string bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n";
    for (int i = 1; i < 12; ++i) {
        const std::string p = "*a" + std::to_string(i - 1);
        bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [" + p;
        for (int j = 0; j < 9; ++j) bomb += "," + p;
        bomb += "]\n";
    }
    EXPECT_THAT(parse_refusal(bomb), HasSubstr("once its aliases are written out"));
}

TEST(Yaml, refuses_deep_nesting_excess_size_and_broken_syntax) {
    EXPECT_THAT(parse_refusal("a: " + std::string(40, '[') + std::string(40, ']')), HasSubstr("nested deeper than 32"));
    EXPECT_THAT(parse_refusal(std::string(100'000, '[')), HasSubstr("r.yml:1:"));
    EXPECT_THAT(parse_refusal("a: 1", {.bytes = 3}), HasSubstr("too large (got 4 bytes, limit 3)"));
    EXPECT_THAT(parse_refusal("a: [1, 2\nb: 3\n"), HasSubstr("not valid YAML"));
    EXPECT_THAT(parse_refusal("a: 1\n---\nb: 2\n"), HasSubstr("more than one document"));
}

}  // namespace
}  // namespace mixwright::io
