#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "arch/architecture.h"
#include "error.h"

namespace mixwright::arch {
namespace {

using io::Json;

Json llama_config() {
    return {{"model_type", "llama"}, {"vocab_size", 320}, {"hidden_size", 64}, {"intermediate_size", 128},
            {"num_hidden_layers", 2}, {"num_attention_heads", 4}, {"num_key_value_heads", 2}, {"hidden_act", "silu"}};
}

Json moe_config(const char* model_type) {
    Json config = llama_config();
    config["model_type"] = model_type;
    for (const char* key : {"num_local_experts", "num_experts", "n_routed_experts"}) config[key] = 4;
    config["num_experts_per_tok"] = 2;
    config["moe_intermediate_size"] = 32;
    config["shared_expert_intermediate_size"] = 48;
    config["n_shared_experts"] = 2;
    for (const char* key : {"kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"}) config[key] = 16;
    return config;
}

std::string refusal(const Json& config) {
    try {
        parse_config(config, "config.json");
    } catch (const Error& e) {
        return e.what();
    }
    return "accepted";
}

TEST(Registry, every_architecture_parses_a_config_and_names_its_tensors) {
    for (const Architecture* row : registry()) {
        const ModelSpec spec = parse_config(moe_config(std::string(row->model_type).c_str()), "config.json");
        EXPECT_EQ(spec.is_moe(), row->moe.has_value()) << row->model_type;
        auto slots = tensor_slots(spec);
        EXPECT_EQ(std::ranges::count(slots, TensorRole::router, &TensorSlot::role), row->moe ? 2 : 0);
        const int of_an_expert = row->moe && row->moe->expert_bias ? 6 : 3;
        EXPECT_EQ(std::ranges::count(slots, TensorRole::expert, &TensorSlot::role), row->moe ? 2 * 4 * of_an_expert : 0);
        std::ranges::sort(slots, {}, &TensorSlot::name);
        EXPECT_EQ(std::ranges::adjacent_find(slots, {}, &TensorSlot::name), slots.end()) << row->model_type;
    }
}

TEST(Config, both_spellings_of_rope_give_the_same_model) {
    Json old_spelling = llama_config(), new_spelling = llama_config();
    const Json scaling = {{"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 8192}};
    old_spelling["rope_theta"] = 5e5;
    old_spelling["rope_scaling"] = scaling;
    old_spelling["rope_scaling"]["type"] = "llama3";
    new_spelling["rope_parameters"] = scaling;
    new_spelling["rope_parameters"]["rope_type"] = "llama3";
    new_spelling["rope_parameters"]["rope_theta"] = 5e5;
    EXPECT_EQ(parse_config(old_spelling, "c").rope, parse_config(new_spelling, "c").rope);
    EXPECT_EQ(parse_config(old_spelling, "c").rope.theta, 5e5);
}

TEST(Config, active_parameters_count_top_k_experts) {
    const ModelSpec spec = parse_config(moe_config("mixtral"), "c");
    EXPECT_EQ(spec.num_parameters() - spec.num_active_parameters(), 2 * 2 * 3 * 64 * 128);
}

TEST(Config, dense_layers_of_a_moe_follow_the_sparse_step) {
    Json config = moe_config("qwen3_moe");
    config["num_hidden_layers"] = 4;
    config["decoder_sparse_step"] = 2;
    config["mlp_only_layers"] = {3};
    const ModelSpec spec = parse_config(config, "c");
    const auto kind = [&](std::size_t layer) { return spec.layers[layer].kind; };
    EXPECT_EQ(kind(0), LayerKind::dense);
    EXPECT_EQ(kind(1), LayerKind::moe);
    EXPECT_EQ(kind(2), LayerKind::dense);
    EXPECT_EQ(kind(3), LayerKind::dense);
}

TEST(Config, refusals_name_the_key_and_the_limits) {
    const auto with = [](const char* key, Json value) {
        Json config = llama_config();
        config[key] = std::move(value);
        return refusal(config);
    };
    EXPECT_THAT(with("model_type", "lama"), testing::AllOf(testing::HasSubstr("\"lama\" is not supported"),
                                                           testing::HasSubstr("did you mean \"llama\"")));
    EXPECT_THAT(with("hidden_size", -1), testing::HasSubstr("config.json: hidden_size: out of range (got -1"));
    EXPECT_THAT(with("vocab_size", 18446744073709551615u), testing::HasSubstr("vocab_size: out of range"));
    EXPECT_THAT(with("num_hidden_layers", "two"), testing::HasSubstr("num_hidden_layers: expected a whole number"));
    EXPECT_THAT(with("num_key_value_heads", 3), testing::HasSubstr("does not divide"));
    EXPECT_THAT(with("hidden_act", "relu"), testing::HasSubstr("hidden_act \"relu\" is not supported"));
    EXPECT_THAT(with("rope_scaling", {{"type", "fancy"}}), testing::HasSubstr("rope type \"fancy\""));
    EXPECT_THAT(with("rope_scaling", {{"type", "linear"}}), testing::HasSubstr("factor: is missing"));
    EXPECT_THAT(with("vocab_size", nullptr), testing::HasSubstr("vocab_size: is missing"));
    EXPECT_THAT(refusal(Json::array()), testing::HasSubstr("expected a JSON object"));
    Json many = moe_config("mixtral");
    many["num_hidden_layers"] = 1024;
    many["num_local_experts"] = 4096;
    EXPECT_THAT(refusal(many), testing::HasSubstr("too many experts over all layers"));
}

}  // namespace
}  // namespace mixwright::arch
