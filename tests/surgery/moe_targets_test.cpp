#include "surgery/moe_targets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "error.h"

namespace mixwright::surgery {
namespace {

using arch::ModelSpec;
using io::Json;
using testing::ElementsAre;
using testing::HasSubstr;

ModelSpec dense(std::string_view model_type, const Json& changes = Json::object()) {
    Json config{{"model_type", model_type},       {"vocab_size", 96},         {"hidden_size", 32},       {"num_hidden_layers", 4},
                {"num_attention_heads", 4},       {"num_key_value_heads", 2}, {"intermediate_size", 48}, {"dtype", "bfloat16"},
                {"max_position_embeddings", 512}, {"head_dim", 8}};
    config.update(changes);
    return arch::parse_config(config, "config.json");
}

// A recipe of two experts and `shared` shared ones.
BuildRecipe recipe_of(GateMode mode, std::size_t shared = 0, bool shared_prompts = false) {
    BuildRecipe recipe{.source = "moe.yml"};
    recipe.gate_mode = mode;
    recipe.experts.resize(2);
    recipe.shared_experts.resize(shared);
    for (auto& expert : recipe.experts) expert.positive_prompts = {"x"};
    if (shared_prompts)
        for (auto& expert : recipe.shared_experts) expert.positive_prompts = {"x"};
    return recipe;
}

SourceSpecs all_of(const ModelSpec& spec, const BuildRecipe& recipe) {
    return {&spec, std::vector(recipe.experts.size(), &spec), std::vector(recipe.shared_experts.size(), &spec)};
}

std::string_view chosen(const ModelSpec& spec, const BuildRecipe& recipe) { return choose_target(recipe, all_of(spec, recipe)).name; }

std::string refusal(const ModelSpec& spec, const BuildRecipe& recipe) {
    try {
        choose_target(recipe, all_of(spec, recipe));
    } catch (const Error& e) {
        return e.what();
    }
    return "accepted";
}

Json config_of(const ModelSpec& spec, const BuildRecipe& recipe) {
    const MoeTarget& target = choose_target(recipe, all_of(spec, recipe));
    return moe_config(target, moe_spec(target, recipe, all_of(spec, recipe)));
}

TEST(MoeTargets, the_first_that_fits_is_chosen) {
    EXPECT_EQ(chosen(dense("llama"), recipe_of(GateMode::hidden)), "Mixtral");
    EXPECT_EQ(chosen(dense("mistral"), recipe_of(GateMode::hidden)), "Mixtral");
    EXPECT_EQ(chosen(dense("llama"), recipe_of(GateMode::hidden, 1)), "DeepSeek MoE");
    EXPECT_EQ(chosen(dense("llama"), recipe_of(GateMode::hidden, 1, true)), "Qwen MoE");
    EXPECT_EQ(chosen(dense("qwen2"), recipe_of(GateMode::hidden, 2, true)), "Qwen MoE");
    EXPECT_EQ(chosen(dense("qwen2"), recipe_of(GateMode::random, 1)), "Qwen MoE");
    EXPECT_EQ(chosen(dense("qwen3"), recipe_of(GateMode::hidden)), "Qwen3 MoE");
}

TEST(MoeTargets, architecture_is_a_prefix_in_any_case) {
    BuildRecipe recipe = recipe_of(GateMode::random, 1);
    recipe.architecture = "qwen";
    EXPECT_EQ(chosen(dense("llama"), recipe), "Qwen MoE");
    recipe = recipe_of(GateMode::hidden);
    recipe.architecture = "DEEP";
    EXPECT_EQ(chosen(dense("llama"), recipe), "DeepSeek MoE");
    recipe.architecture = "gemma";
    EXPECT_THAT(refusal(dense("llama"), recipe), HasSubstr("architecture \"gemma\" is not known"));
}

TEST(MoeTargets, every_target_says_why_it_does_not_fit) {
    const std::string message = refusal(dense("qwen2"), recipe_of(GateMode::hidden));
    EXPECT_THAT(message, HasSubstr("Mixtral: takes llama or mistral models, not qwen2"));
    EXPECT_THAT(message, HasSubstr("DeepSeek MoE: takes llama or mistral models, not qwen2"));
    EXPECT_THAT(message, HasSubstr("Qwen MoE: needs a shared expert"));
    EXPECT_THAT(message, HasSubstr("Qwen3 MoE: takes qwen3 models, not qwen2"));
}

TEST(MoeTargets, mixed_architectures_are_named) {
    const ModelSpec llama = dense("llama"), qwen = dense("qwen2");
    const BuildRecipe recipe = recipe_of(GateMode::hidden);
    const auto reasons = refusals(moe_targets()[0], recipe, {&llama, {&llama, &qwen}, {}});
    EXPECT_THAT(reasons, ElementsAre("all models must share one architecture (base model llama, expert 1 qwen2)"));
}

TEST(MoeTargets, shared_experts_have_the_gate_of_their_architecture) {
    EXPECT_THAT(refusal(dense("qwen2"), recipe_of(GateMode::hidden, 1)), HasSubstr("puts a gate on its shared expert"));
    BuildRecipe gated = recipe_of(GateMode::hidden, 1, true);
    gated.architecture = "deepseek";
    EXPECT_THAT(refusal(dense("llama"), gated), HasSubstr("adds its shared experts without a gate"));
    EXPECT_THAT(refusal(dense("qwen3"), recipe_of(GateMode::hidden, 1)), HasSubstr("Qwen3 MoE: has no shared experts"));
}

TEST(MoeTargets, biases_are_carried_or_refused) {
    const ModelSpec biased = dense("llama", {{"attention_bias", true}});
    const BuildRecipe recipe = recipe_of(GateMode::hidden);
    EXPECT_THAT(refusals(moe_targets()[0], recipe, all_of(biased, recipe)),
                ElementsAre("has no place for q/k/v biases", "has no place for a bias of o_proj"));
    EXPECT_EQ(chosen(biased, recipe), "DeepSeek MoE");
    EXPECT_EQ(config_of(biased, recipe)["attention_bias"], true);
    EXPECT_THAT(refusal(dense("llama", {{"mlp_bias", true}}), recipe), HasSubstr("has no place for biases of the MLP"));
}

TEST(MoeTargets, rope_scaling_and_windows_are_carried_or_refused) {
    const ModelSpec llama3 = dense("llama", {{"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1.0},
                                                               {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 128}}}});
    BuildRecipe recipe = recipe_of(GateMode::hidden);
    EXPECT_EQ(arch::parse_config(config_of(llama3, recipe), "out").rope, llama3.rope);
    const ModelSpec windowed = dense("mistral", {{"sliding_window", 64}});
    EXPECT_EQ(config_of(windowed, recipe)["sliding_window"], 64);

    recipe.architecture = "deepseek";
    EXPECT_THAT(refusal(llama3, recipe), HasSubstr("linear and dynamic rope scaling only"));
    EXPECT_THAT(refusal(windowed, recipe), HasSubstr("cannot say sliding_window 64 (of 512 positions)"));
    EXPECT_EQ(chosen(dense("mistral", {{"sliding_window", 512}}), recipe), "DeepSeek MoE");  // no sequence outgrows it
}

TEST(MoeTargets, layers_can_stay_dense_where_the_architecture_can_say_it) {
    BuildRecipe recipe = recipe_of(GateMode::hidden);
    recipe.moe_layers = {{2, 3}};
    EXPECT_EQ(chosen(dense("llama"), recipe), "DeepSeek MoE");
    EXPECT_EQ(config_of(dense("llama"), recipe)["first_k_dense_replace"], 2);
    recipe.moe_layers = {{1, 2}};
    EXPECT_EQ(config_of(dense("qwen3"), recipe)["mlp_only_layers"], (Json{0, 3}));
    EXPECT_THAT(refusal(dense("llama"), recipe), HasSubstr("can only keep the first layers dense"));
    EXPECT_THAT(refusal(dense("llama"), recipe), HasSubstr("Mixtral: gives experts to every layer"));
}

TEST(MoeTargets, the_config_is_written_in_both_spellings) {
    const Json config = config_of(dense("qwen3"), recipe_of(GateMode::hidden));
    EXPECT_EQ(config["num_experts"], 2);
    EXPECT_EQ(config["num_local_experts"], 2);
    EXPECT_EQ(config["torch_dtype"], "bfloat16");
    EXPECT_EQ(config["dtype"], "bfloat16");
    EXPECT_EQ(config["rope_theta"], config["rope_parameters"]["rope_theta"]);
    EXPECT_EQ(config["norm_topk_prob"], true);
    EXPECT_EQ(config["architectures"], Json::array({"Qwen3MoeForCausalLM"}));
}

}  // namespace
}  // namespace mixwright::surgery
