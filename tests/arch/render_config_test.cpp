#include "arch/render_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "error.h"

namespace mixwright::arch {
namespace {

using io::Json;
using testing::HasSubstr;

Json small_config(std::string_view model_type) {
    return {{"model_type", model_type}, {"vocab_size", 96},           {"hidden_size", 32},          {"num_hidden_layers", 4},
            {"num_attention_heads", 4}, {"num_key_value_heads", 2},   {"intermediate_size", 48},    {"moe_intermediate_size", 24},
            {"num_experts", 4},         {"num_local_experts", 4},     {"n_routed_experts", 4},      {"num_experts_per_tok", 2},
            {"eos_token_id", {1, 2}},   {"bos_token_id", 0},          {"dtype", "bfloat16"},        {"rms_norm_eps", 1e-5},
            {"kv_lora_rank", 16},       {"qk_nope_head_dim", 16},     {"qk_rope_head_dim", 8},  {"v_head_dim", 12},
            {"head_dim", 16},           {"rope_theta", 500000.0},     {"tie_word_embeddings", true}};
}

// What every architecture must give back after rendering and parsing again.
void expect_same(const ModelSpec& a, const ModelSpec& b) {
    EXPECT_EQ(a.architecture, b.architecture);
    EXPECT_EQ(a.num_parameters(), b.num_parameters());
    EXPECT_EQ(a.num_active_parameters(), b.num_active_parameters());
    EXPECT_EQ(a.head_dim, b.head_dim);
    EXPECT_EQ(a.rope, b.rope);
    EXPECT_EQ(a.rms_norm_eps, b.rms_norm_eps);
    EXPECT_EQ(a.qkv_bias, b.qkv_bias);
    EXPECT_EQ(a.o_bias, b.o_bias);
    EXPECT_EQ(a.lm_head_bias, b.lm_head_bias);
    EXPECT_EQ(a.activation, b.activation);
    EXPECT_EQ(a.qk_norm, b.qk_norm);
    EXPECT_EQ(a.latent, b.latent);
    EXPECT_EQ(a.local_rope, b.local_rope);
    EXPECT_NEAR(a.attention_scale, b.attention_scale, 1e-12);
    EXPECT_EQ(a.attention_softcap, b.attention_softcap);
    EXPECT_EQ(a.logit_softcap, b.logit_softcap);
    EXPECT_EQ(a.embedding_multiplier, b.embedding_multiplier);
    EXPECT_EQ(a.residual_multiplier, b.residual_multiplier);
    EXPECT_EQ(a.logits_divisor, b.logits_divisor);
    EXPECT_EQ(a.qkv_clip, b.qkv_clip);
    EXPECT_EQ(a.temperature_scale, b.temperature_scale);
    EXPECT_EQ(a.num_groups, b.num_groups);
    EXPECT_EQ(a.top_groups, b.top_groups);
    EXPECT_EQ(a.shared_width, b.shared_width);
    EXPECT_EQ(a.expert_width, b.expert_width);
    EXPECT_EQ(a.tied_embeddings, b.tied_embeddings);
    EXPECT_EQ(a.norm_topk_prob, b.norm_topk_prob);
    EXPECT_EQ(a.eos_token_ids, b.eos_token_ids);
    EXPECT_EQ(a.dtype, b.dtype);
    EXPECT_EQ(a.layers, b.layers);
}

TEST(RenderConfig, every_architecture_survives_a_round_trip) {
    for (const Architecture* architecture : registry()) {
        const ModelSpec spec = parse_config(small_config(architecture->model_type), "in");
        SCOPED_TRACE(architecture->model_type);
        expect_same(parse_config(render_config(spec), "out"), spec);
    }
}

TEST(RenderConfig, every_rope_scaling_survives_in_both_spellings) {
    const Json scalings[] = {
        {{"rope_type", "linear"}, {"factor", 2.0}},
        {{"rope_type", "dynamic"}, {"factor", 4.0}},
        {{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 8192}},
        {{"rope_type", "yarn"}, {"factor", 4.0}, {"beta_fast", 30.0}, {"original_max_position_embeddings", 4096}, {"mscale", 0.7}},
        {{"rope_type", "longrope"}, {"factor", 2.0}, {"short_factor", std::vector<double>(8, 1.0)}, {"long_factor", std::vector<double>(8, 2.0)}, {"original_max_position_embeddings", 1024}},
    };
    for (const Json& scaling : scalings) {
        Json config = small_config("llama");
        config["rope_scaling"] = scaling;
        const ModelSpec spec = parse_config(config, "in");
        Json rendered = render_config(spec);
        SCOPED_TRACE(scaling.dump());
        EXPECT_EQ(parse_config(rendered, "out").rope, spec.rope);
        rendered.erase("rope_parameters");  // what transformers 4 reads
        EXPECT_EQ(parse_config(rendered, "out").rope, spec.rope);
    }
}

TEST(RenderConfig, dense_layers_and_windows_survive_where_they_can_be_said) {
    ModelSpec spec = parse_config(small_config("qwen2_moe"), "in");
    spec.layers[1].kind = LayerKind::dense;
    spec.layers[2].sliding_window = 16;
    expect_same(parse_config(render_config(spec), "out"), spec);

    ModelSpec deepseek = parse_config(small_config("deepseek"), "in");
    deepseek.layers[0].kind = LayerKind::dense;
    expect_same(parse_config(render_config(deepseek), "out"), deepseek);
    deepseek.layers[2].kind = LayerKind::dense;
    EXPECT_THROW(render_config(deepseek), Error);
}

TEST(RenderConfig, says_what_an_architecture_cannot_hold) {
    Json config = small_config("llama");
    config["attention_bias"] = true;
    const ModelSpec spec = parse_config(config, "in");
    EXPECT_THAT(inexpressible(spec, find_architecture("mixtral")),
                testing::ElementsAre("has no place for q/k/v biases", "has no place for a bias of o_proj"));
    EXPECT_THAT(inexpressible(spec, find_architecture("qwen2_moe")), testing::ElementsAre("has no place for a bias of o_proj"));
    EXPECT_THAT(inexpressible(spec, find_architecture("deepseek")), testing::IsEmpty());
}

}  // namespace
}  // namespace mixwright::arch
