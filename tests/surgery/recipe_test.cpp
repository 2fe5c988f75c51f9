#include "surgery/recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "error.h"

namespace mixwright::surgery {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

std::string refusal(std::string_view text, bool allow_identical = false) {
    try {
        parse_build_recipe(text, "moe.yml", allow_identical);
    } catch (const Error& e) {
        EXPECT_EQ(exit_status(e.code()), 2);
        return e.what();
    }
    return "accepted";
}

// A recipe with two experts and `extra` lines at its top.
std::string two_experts(std::string_view extra) {
    return std::string(extra) +
           "\nbase_model: a\nexperts:\n- source_model: a\n  positive_prompts: [x]\n- source_model: b\n  positive_prompts: [y]\n";
}

TEST(Recipe, reads_every_field_of_mergekit) {
    const BuildRecipe recipe = parse_build_recipe(R"(base_model: org/base@main
gate_mode: hidden_avg
dtype: float16
experts_per_token: 1
architecture: mixtral
experts:
  - source_model: org/a+org/lora@v2
    positive_prompts: ["one", "two"]
    negative_prompts: [three]
    noise_scale: 0.5
    residual_scale: 0.25
  - source_model: {model: {path: org/b, revision: r1}, lora: {path: org/l}}
    positive_prompts: [four]
shared_experts:
  - source_model: org/s
)",
                                                  "moe.yml");
    EXPECT_EQ(recipe.base.model, "org/base@main");
    EXPECT_EQ(recipe.gate_mode, GateMode::hidden_avg);
    EXPECT_EQ(recipe.gate_input, GateInput::layer);
    EXPECT_EQ(recipe.dtype, Dtype::f16);
    EXPECT_EQ(recipe.top_k(), 1);
    ASSERT_EQ(recipe.experts.size(), 2u);
    EXPECT_EQ(recipe.experts[0].source, (ModelReference{"org/a", "org/lora@v2"}));
    EXPECT_THAT(recipe.experts[0].positive_prompts, ElementsAre("one", "two"));
    EXPECT_EQ(recipe.experts[0].noise_scale, 0.5);
    EXPECT_EQ(recipe.experts[0].residual_scale, 0.25);
    EXPECT_EQ(recipe.experts[1].source, (ModelReference{"org/b@r1", "org/l"}));
    EXPECT_EQ(recipe.shared_experts[0].source.model, "org/s");
}

TEST(Recipe, ridge_gates_are_fitted_to_what_the_router_sees) {
    EXPECT_EQ(parse_build_recipe(two_experts("gate_mode: ridge"), "moe.yml").gate_input, GateInput::router);
    EXPECT_THAT(refusal(two_experts("gate_mode: ridge\ngate_input: layer")),
                HasSubstr("ridge gates are fitted to the state the router sees"));
}

TEST(Recipe, reads_layers_as_ranges) {
    const BuildRecipe recipe = parse_build_recipe(two_experts("layers: [0, 4-6, 9-]"), "moe.yml");
    ASSERT_EQ(recipe.moe_layers.size(), 3u);
    EXPECT_EQ(recipe.moe_layers[1].first, 4);
    EXPECT_EQ(recipe.moe_layers[1].last, 6);
    EXPECT_GT(recipe.moe_layers[2].last, 1000);
    EXPECT_THAT(refusal(two_experts("layers: 6-4")), HasSubstr("moe.yml:1: got \"6-4\", expected a layer (7) or a range"));
}

TEST(Recipe, an_unknown_key_or_mode_is_refused_with_its_line_and_the_nearest_name) {
    EXPECT_THAT(refusal(two_experts("gateway_mode: random")),
                AllOf(HasSubstr("moe.yml:1: unknown key \"gateway_mode\""), HasSubstr("did you mean \"gate_mode\"?")));
    EXPECT_THAT(refusal(two_experts("gate_mode: hiden")),
                AllOf(HasSubstr("moe.yml:1: unknown gate_mode \"hiden\""), HasSubstr("did you mean \"hidden\"?")));
    EXPECT_THAT(refusal("base_model: a\nexperts:\n- source_model: b\n  positive_prompt: [x]\n"),
                AllOf(HasSubstr("moe.yml:4: unknown key \"positive_prompt\""), HasSubstr("\"positive_prompts\"")));
}

TEST(Recipe, keys_of_other_recipes_say_where_they_belong) {
    EXPECT_THAT(refusal(two_experts("merge_method: slerp")), HasSubstr("mixwright merge"));
    EXPECT_THAT(refusal(two_experts("tokenizer_source: union")), HasSubstr("one vocabulary, the base model's"));
    EXPECT_THAT(refusal(two_experts("chat_template: chatml")), HasSubstr("the base model's chat template is copied"));
}

TEST(Recipe, what_mergekit_refuses_is_refused) {
    EXPECT_THAT(refusal(two_experts("experts_per_token: 0")), HasSubstr("expected a whole number from 1"));
    EXPECT_THAT(refusal(two_experts("experts_per_token: 3")), HasSubstr("experts_per_token is 3, but there are only 2 experts"));
    EXPECT_THAT(refusal("base_model: a\nexperts:\n- source_model: a\n- source_model: b\n"),
                HasSubstr("expert 0 has no positive prompts"));
    EXPECT_THAT(refusal("base_model: a\nexperts:\n- {source_model: a, positive_prompts: [x]}\n"
                        "- {source_model: b, positive_prompts: [x]}\n"),
                HasSubstr("the prompts of all experts are identical"));
    const std::string same = "base_model: a\nexperts:\n- {source_model: a, positive_prompts: [x]}\n"
                             "- {source_model: a, positive_prompts: [y]}\n";
    EXPECT_THAT(refusal(same), AllOf(HasSubstr("all experts are the same model"),
                                     HasSubstr("--i-understand-this-is-not-useful-without-training")));
    EXPECT_EQ(refusal(same, true), "accepted");
    EXPECT_EQ(refusal("gate_mode: random\n" + same), "accepted");
    EXPECT_THAT(refusal(two_experts("dtype: int64")), HasSubstr("expected bfloat16, float16 or float32"));
}

TEST(Recipe, what_mergekit_accepts_by_mistake_is_refused) {
    EXPECT_THAT(refusal("base_model: a\nexperts:\n- {source_model: a, positive_prompts: [x], negative_prompts: [x]}\n"
                        "- {source_model: b, positive_prompts: [y]}\n"),
                HasSubstr("the positive and negative prompts of expert 0 are the same"));
    EXPECT_THAT(refusal("base_model: a\nexperts: []\n"), HasSubstr("`experts` is empty"));
    EXPECT_THAT(refusal("base_model: a@b@c\nexperts: [{source_model: b, positive_prompts: [x]}]\n"), HasSubstr("more than one @"));
    EXPECT_THAT(refusal("base_model: a\nexperts: [{source_model: b+c+d, positive_prompts: [x]}]\n"), HasSubstr("more than one +"));
    EXPECT_THAT(refusal("base_model: {model: a, override_architecture: X}\nexperts: []\n"),
                HasSubstr("override_architecture cannot be honoured"));
    EXPECT_THAT(refusal("base_model: a\nexperts: [{source_model: b, positive_prompts: ['']}]\n"),
                HasSubstr("expert 0 has an empty prompt"));
    EXPECT_THAT(refusal(two_experts("shared_experts: [{source_model: a, positive_prompts: [x]}, {source_model: b}]")),
                HasSubstr("some shared experts have prompts and some have none"));
}

TEST(Recipe, uniform_random_needs_no_prompts) {
    EXPECT_EQ(refusal("base_model: a\ngate_mode: uniform_random\nexperts:\n- source_model: a\n- source_model: b\n"), "accepted");
}

TEST(Recipe, settings_that_would_do_nothing_are_refused) {
    EXPECT_THAT(refusal(two_experts("ridge: {context: 64}")), HasSubstr("ridge settings mean nothing to gate_mode hidden"));
    EXPECT_THAT(refusal(two_experts("gate_mode: cheap_embed\ngate_input: router")), HasSubstr("gate_input means nothing"));
    EXPECT_THAT(refusal(two_experts("gate_scale: auto")), HasSubstr("fitted by ridge gates only"));
    EXPECT_THAT(refusal("base_model: a\nexperts: [{source_model: b, positive_prompts: [x], data: /no/such/file}]\n"),
                HasSubstr("data file \"/no/such/file\" is not there"));
}

TEST(Recipe, a_path_that_exists_is_taken_whole) {
    const auto folder = std::filesystem::temp_directory_path() / "mixwright+plus@sign";
    std::filesystem::create_directories(folder);
    EXPECT_EQ(parse_model_reference(folder.string(), "here").model, folder.string());
    std::filesystem::remove(folder);
}

}  // namespace
}  // namespace mixwright::surgery
