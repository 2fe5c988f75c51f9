#include "io/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "error.h"

namespace mixwright::io {
namespace {

std::string refusal(std::string_view text, JsonLimits limits = {}) {
    try {
        parse_json(text, "config.json", limits);
    } catch (const Error& e) {
        return e.message();
    }
    return "accepted";
}

TEST(Json, parses_what_is_valid) { EXPECT_EQ(parse_json(R"({"a":[1,2.5,"x"]})", "t")["a"][1], 2.5); }

TEST(Json, refuses_a_key_that_occurs_twice) {
    EXPECT_THAT(refusal(R"({"a":{"b":1},"c":{"b":1,"b":2}})"), testing::HasSubstr("key \"b\" occurs twice"));
    EXPECT_EQ(refusal(R"({"a":{"b":1},"c":{"b":1}})"), "accepted");
}

TEST(Json, refuses_deep_nesting_and_excess_size) {
    EXPECT_THAT(refusal(std::string(65, '[') + std::string(65, ']')), testing::HasSubstr("deeper than 64"));
    EXPECT_EQ(refusal(std::string(64, '[') + std::string(64, ']')), "accepted");
    EXPECT_THAT(refusal("[1,2,3]", {.bytes = 3, .depth = 64}), testing::HasSubstr("got 7 bytes, limit 3"));
}

TEST(Json, every_truncation_is_refused) {
    const std::string whole = R"({"hidden_size":576,"rope":{"type":"llama3","f":[1.5,-2e3]},"x":null})";
    for (std::size_t length = 0; length < whole.size(); ++length)
        EXPECT_THAT(refusal(whole.substr(0, length)), testing::HasSubstr("config.json: not valid JSON")) << length;
}

}  // namespace
}  // namespace mixwright::io
