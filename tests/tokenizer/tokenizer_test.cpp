#include "tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "error.h"
#include "temporary_directory.h"

namespace mixwright::tokenizer {
namespace {

using io::Json;
using testing::ElementsAre;
using testing::HasSubstr;

// Bytes of "abcde " and of U+1F600, two merges, one special and one ordinary added token.
Json small() {
    return Json::parse(R"({
        "added_tokens": [{"id": 12, "content": "<s>", "special": true}, {"id": 13, "content": "[x]", "special": false, "normalized": false, "lstrip": true}],
        "normalizer": null, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [12], "tokens": ["<s>"]}}},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "merges": ["a b", ["Ġ", "ab"]],
            "vocab": {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4, "Ġ": 5, "ab": 6, "Ġab": 7, "ð": 8, "Ł": 9, "ĺ": 10, "Ģ": 11}}})");
}

std::string refusal(const Json& json) {
    try {
        Tokenizer::from_json(json, "t.json");
    } catch (const Error& e) {
        return e.message();
    }
    return "accepted";
}

TEST(Tokenizer, merges_pairs_and_adds_special_tokens) {
    const Tokenizer tokenizer = Tokenizer::from_json(small(), "t.json");
    EXPECT_THAT(tokenizer.encode("ab ab"), ElementsAre(12, 6, 7));
    EXPECT_THAT(tokenizer.encode("ab", {.add_special_tokens = false}), ElementsAre(6));
    EXPECT_THAT(tokenizer.encode(""), ElementsAre(12));
    EXPECT_EQ(tokenizer.decode(std::vector<TokenId>{12, 6, 7}), "<s>ab ab");
    EXPECT_EQ(tokenizer.decode(std::vector<TokenId>{12, 6, 7}, true), "ab ab");
    EXPECT_EQ(tokenizer.vocab_size(), 14u);
}

TEST(Tokenizer, finds_added_tokens_unless_told_not_to) {
    const Tokenizer tokenizer = Tokenizer::from_json(small(), "t.json");
    EXPECT_THAT(tokenizer.encode("a<s>b", {.add_special_tokens = false}), ElementsAre(0, 12, 1));
    EXPECT_THAT(tokenizer.encode("a<s>b", {.add_special_tokens = false, .parse_special = false}), ElementsAre(0, 1));
    EXPECT_THAT(tokenizer.encode("a  [x] b", {.add_special_tokens = false}), ElementsAre(0, 13, 5, 1));
}

TEST(Tokenizer, names_and_ids_go_both_ways) {
    const Tokenizer tokenizer = Tokenizer::from_json(small(), "t.json");
    EXPECT_EQ(tokenizer.token_to_id("<s>"), 12);
    EXPECT_EQ(tokenizer.token_to_id("zz"), std::nullopt);
    EXPECT_EQ(tokenizer.id_to_token(7), "\xC4\xA0""ab");
    EXPECT_EQ(tokenizer.id_to_token(99), "");
    EXPECT_EQ(tokenizer.id_to_token(-1), "");
    EXPECT_TRUE(tokenizer.is_special(12));
    EXPECT_FALSE(tokenizer.is_special(13));
}

TEST(Tokenizer, several_threads_get_the_same_ids) {
    const Tokenizer tokenizer = Tokenizer::from_json(small(), "t.json");
    std::string text;
    for (int i = 0; i < 2000; ++i) text += i % 3 == 0 ? "ab " : i % 7 == 0 ? "cde<s>" : "dab";
    const auto expected = tokenizer.encode(text);
    std::vector<std::thread> threads;
    std::vector<int> equal(4);
    for (std::size_t t = 0; t < equal.size(); ++t)
        threads.emplace_back([&, t] {
            for (int i = 0; i < 20; ++i) equal[t] += tokenizer.encode(text) == expected;
        });
    for (auto& thread : threads) thread.join();
    EXPECT_THAT(equal, testing::Each(20));
}

TEST(Tokenizer, invalid_utf8_reads_as_replacement_characters) {
    Json json = small();
    json["model"] = Json{{"type", "WordLevel"}, {"vocab", {{"?", 0}, {"a\xEF\xBF\xBD\xEF\xBF\xBD", 1}}}, {"unk_token", "?"}};
    json["pre_tokenizer"] = json["post_processor"] = nullptr;
    EXPECT_THAT(Tokenizer::from_json(json, "t.json").encode("a\xE4\xB8\xFF"), ElementsAre(1));
}

TEST(StreamDecoder, holds_a_character_back_until_it_is_whole) {
    StreamDecoder stream(Tokenizer::from_json(small(), "t.json"));
    std::vector<std::string> out;
    for (const TokenId id : {12, 6, 8, 9, 10, 11, 7}) out.push_back(stream.push(id));
    EXPECT_THAT(out, ElementsAre("", "ab", "", "", "", "\xF0\x9F\x98\x80", " ab"));
    EXPECT_EQ(stream.push(8), "");
    EXPECT_EQ(stream.finish(), "\xEF\xBF\xBD");
    EXPECT_EQ(stream.push(0), "a");
}

TEST(Tokenizer, long_words_take_the_heap_and_agree_with_the_scan) {
    const Tokenizer tokenizer = Tokenizer::from_json(small(), "t.json");
    std::string text(200'000, 'a');
    for (std::size_t i = 0; i < text.size(); i += 2) text[i + 1] = 'b';
    EXPECT_THAT(tokenizer.encode(text, {.add_special_tokens = false}), testing::AllOf(testing::SizeIs(100'000), testing::Each(6)));
}

TEST(Tokenizer, refuses_malformed_files_by_place) {
    const auto changed = [](const char* pointer, const Json& value) {
        Json json = small();
        json[Json::json_pointer(pointer)] = value;
        return refusal(json);
    };
    EXPECT_THAT(refusal(Json::array()), HasSubstr("t.json: expected an object"));
    EXPECT_THAT(changed("/model", nullptr), HasSubstr("t.json: model: expected an object"));
    EXPECT_THAT(changed("/model/type", "Magic"), HasSubstr("model: the kind \"Magic\" is not supported"));
    EXPECT_THAT(changed("/model/vocab/a", -1), HasSubstr("token \"a\": expected an id from 0 to 4194303 (got -1)"));
    EXPECT_THAT(changed("/model/vocab/a", 1.5), HasSubstr("(got 1.5)"));
    EXPECT_THAT(changed("/model/vocab/a", 4194304), HasSubstr("(got 4194304)"));
    EXPECT_THAT(changed("/model/vocab", Json::array()), HasSubstr("the vocabulary is not an object"));
    EXPECT_THAT(changed("/model/merges/0", "a z"), HasSubstr("merge 0 (\"a\" \"z\"): \"z\" is not in the vocabulary"));
    EXPECT_THAT(changed("/model/merges/0", "abc"), HasSubstr("model.merges[0]: expected \"left right\""));
    EXPECT_THAT(changed("/model/merges/0", "a b c"), HasSubstr("model.merges[0]"));
    EXPECT_THAT(changed("/model/dropout", 0.1), HasSubstr("model.dropout"));
    EXPECT_THAT(changed("/model/byte_fallback", 1), HasSubstr("model.byte_fallback: wrong type (got number)"));
    EXPECT_THAT(changed("/normalizer", {{"type", "Rot13"}}), HasSubstr("normalizer: the kind \"Rot13\""));
    EXPECT_THAT(changed("/normalizer", "NFC"), HasSubstr("normalizer: expected an object with a \"type\""));
    EXPECT_THAT(changed("/pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", "(a"}}}, {"behavior", "Isolated"}}), HasSubstr("is broken"));
    EXPECT_THAT(changed("/pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", "a"}}}, {"behavior", "Sideways"}}), HasSubstr("\"Sideways\""));
    EXPECT_THAT(changed("/pre_tokenizer/type", "UnicodeScripts"), HasSubstr("pre_tokenizer: the kind \"UnicodeScripts\""));
    EXPECT_THAT(changed("/post_processor/special_tokens", Json::object()), HasSubstr("\"<s>\" is missing"));
    EXPECT_THAT(changed("/post_processor/single/0", 3), HasSubstr("post_processor.single"));
    EXPECT_THAT(changed("/decoder/type", "CTC"), HasSubstr("decoder: the kind \"CTC\""));
    EXPECT_THAT(changed("/added_tokens/0/content", 3), HasSubstr("added_tokens[0].content: expected a string"));
    EXPECT_THAT(changed("/added_tokens/0/content", std::string(5000, 'x')), HasSubstr("too long (got 5000 bytes, limit 4096)"));
    EXPECT_THAT(changed("/added_tokens", 3), HasSubstr("added_tokens: expected an array"));
    EXPECT_THAT(changed("/normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", "AAAA"}}), HasSubstr("precompiled_charsmap"));
}

TEST(Tokenizer, a_directory_without_one_says_what_was_looked_for) {
    const TemporaryDirectory directory;
    try {
        Tokenizer::load(directory.path());
        FAIL();
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::not_found);
        EXPECT_THAT(e.hint(), HasSubstr("tokenizer.json, tokenizer.model, or vocab.json with merges.txt"));
    }
}

TEST(Tokenizer, roles_come_from_the_configuration_files) {
    const TemporaryDirectory directory;
    Json json = small();
    json["post_processor"] = nullptr;
    write_text(directory / "tokenizer.json", json.dump());
    write_text(directory / "tokenizer_config.json", R"({"bos_token": {"content": "<s>"}, "add_bos_token": true})");
    write_text(directory / "config.json", R"({"eos_token_id": [3, 4], "pad_token_id": -1})");
    const Tokenizer tokenizer = Tokenizer::load(directory.path());
    EXPECT_EQ(tokenizer.bos_id(), 12);
    EXPECT_EQ(tokenizer.eos_id(), 3);
    EXPECT_EQ(tokenizer.pad_id(), std::nullopt);
    EXPECT_TRUE(tokenizer.adds_bos());
    EXPECT_THAT(tokenizer.encode("ab"), ElementsAre(12, 6));
}

}  // namespace
}  // namespace mixwright::tokenizer
