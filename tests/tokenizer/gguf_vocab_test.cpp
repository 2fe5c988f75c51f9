#include "tokenizer/gguf_vocab.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "error.h"
#include "tokenizer/tokenizer.h"

namespace mixwright::tokenizer {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

GgufVocab space_mark_vocab() {
    GgufVocab vocab;
    vocab.model = "llama";
    vocab.tokens = {"<unk>", "<s>", "\xE2\x96\x81", "a", "b", "ab", "\xE2\x96\x81""ab", "<0x63>"};
    vocab.scores = {0, 0, -3, -4, -5, -1, -2, 0};
    vocab.token_types = {2, 3, 1, 1, 1, 1, 1, 6};
    vocab.bos_id = 1;
    vocab.unk_id = 0;
    return vocab;
}

std::string refusal(const GgufVocab& vocab) {
    try {
        to_tokenizer_json(vocab, "m.gguf");
    } catch (const Error& e) {
        return e.message();
    }
    return "accepted";
}

TEST(GgufVocab, scores_become_merges_and_bytes_a_fallback) {
    const Tokenizer tokenizer = Tokenizer::from_gguf(space_mark_vocab(), "m.gguf");
    EXPECT_THAT(tokenizer.encode("ab abc"), ElementsAre(1, 6, 6, 7));
    EXPECT_EQ(tokenizer.decode(tokenizer.encode("ab abc"), true), "ab abc");
    EXPECT_EQ(tokenizer.bos_id(), 1);
}

TEST(GgufVocab, filler_tokens_are_left_out) {
    GgufVocab vocab = space_mark_vocab();
    vocab.tokens.push_back("[PAD8]");
    vocab.scores.push_back(-1000);
    vocab.token_types.push_back(5);
    EXPECT_FALSE(to_tokenizer_json(vocab, "m.gguf")["model"]["vocab"].contains("[PAD8]"));
}

TEST(GgufVocab, refuses_what_does_not_hold_together) {
    GgufVocab vocab = space_mark_vocab();
    vocab.scores.pop_back();
    EXPECT_THAT(refusal(vocab), HasSubstr("m.gguf: tokenizer.ggml: scores do not fit the tokens (got 7, expected 8)"));
    vocab = space_mark_vocab();
    vocab.bos_id = 8;
    EXPECT_THAT(refusal(vocab), HasSubstr("bos_token_id is not a token (got 8, expected below 8)"));
    vocab = space_mark_vocab();
    vocab.tokens[3] = "\xFF";
    EXPECT_THAT(refusal(vocab), HasSubstr("token 3 is not UTF-8"));
    vocab = space_mark_vocab();
    vocab.model = "rwkv";
    EXPECT_THAT(refusal(vocab), HasSubstr("the kind \"rwkv\" is not supported"));
    vocab.model = "gpt2";
    vocab.pre = "unheard-of";
    EXPECT_THAT(refusal(vocab), HasSubstr("the pre-tokenizer \"unheard-of\" is not known"));
    vocab.pre = "gpt-2";
    vocab.merges = {"a q"};
    EXPECT_THAT(refusal(vocab), HasSubstr("merge 0 does not name two tokens: \"a q\""));
}

TEST(GgufVocab, reads_metadata_strictly) {
    const io::Json good = {{"tokenizer.ggml.model", "llama"}, {"tokenizer.ggml.tokens", {"a"}}, {"tokenizer.ggml.bos_token_id", 0}};
    EXPECT_EQ(gguf_vocab_from_metadata(good, "m").bos_id, 0);
    for (const auto& [key, value] : std::initializer_list<std::pair<const char*, io::Json>>{
             {"tokenizer.ggml.tokens", "a"}, {"tokenizer.ggml.tokens", {1}}, {"tokenizer.ggml.scores", {"x"}}, {"tokenizer.ggml.model", 3},
             {"tokenizer.ggml.token_type", {1.5}}, {"tokenizer.ggml.token_type", {5000000000}}, {"tokenizer.ggml.add_bos_token", 1}}) {
        io::Json bad = good;
        bad[key] = value;
        EXPECT_THROW(gguf_vocab_from_metadata(bad, "m"), Error) << key;
    }
}

TEST(GgufVocab, every_pre_tokenizer_of_the_table_compiles) {
    for (const char* pre : {"gpt-2", "smollm", "llama-bpe", "qwen2", "qwen35", "tekken", "gpt-4o", "deepseek-llm", "deepseek-coder", "deepseek-v3",
                            "falcon", "bloom", "viking", "stablelm2", "superbpe", "seed-coder", "bailingmoe", "exaone-moe", "ufakzeka", "minicpm5"}) {
        GgufVocab vocab;
        vocab.model = "gpt2";
        vocab.pre = pre;
        vocab.tokens = {"a", "b", "ab", "\xC4\xA0", "1"};
        vocab.merges = {"a b"};
        const Tokenizer tokenizer = Tokenizer::from_gguf(vocab, "m.gguf");
        EXPECT_EQ(tokenizer.decode(tokenizer.encode("ab a 11")), "ab a 11") << pre;
    }
}

}  // namespace
}  // namespace mixwright::tokenizer
