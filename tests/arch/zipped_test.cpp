#include "arch/zipped.h"

#include <gmock/gmock.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "arch/compute_cost.h"
#include "arch/remote_code.h"
#include "arch/render_config.h"
#include "error.h"

namespace mixwright::arch {
namespace {

using io::Json;
using testing::HasSubstr;

// Three layers of four experts of at most 48 neurons; the middle one is dense.
Json config() {
    const Json layer{{"rows", {60, 24, 8}}, {"experts", {{0, 0, 40}, {2, 0, 8}, {0, 20, 40}, {1, 0, 24}}}};
    return {{"model_type", "zipped_qwen3_moe"}, {"vocab_size", 96},    {"hidden_size", 32},         {"num_hidden_layers", 3}, {"num_attention_heads", 4},
            {"num_key_value_heads", 2},         {"head_dim", 8},       {"intermediate_size", 80},   {"num_experts", 4},       {"num_experts_per_tok", 2},
            {"moe_intermediate_size", 48},      {"mlp_only_layers", {1}}, {"zipped_experts", {layer, nullptr, layer}}};
}

std::string refusal(const Json& json) {
    try {
        parse_config(json, "config.json");
    } catch (const Error& e) {
        return e.what();
    }
    return "accepted";
}

TEST(Zipped, lists_rows_of_groups_once_and_a_down_projection_for_each_expert) {
    const ModelSpec spec = parse_config(config(), "config.json");
    std::vector<std::string> names;
    std::int64_t elements = 0;
    for (const TensorSlot& slot : tensor_slots(spec))
        if (slot.layer == 2 && slot.role == TensorRole::expert) names.push_back(slot.name + " " + fmt::format("[{}]", fmt::join(slot.shape, ", "))), elements += slot.elements();
    EXPECT_THAT(names, testing::ElementsAre("model.layers.2.mlp.experts.groups.0.gate_proj.weight [60, 32]", "model.layers.2.mlp.experts.groups.0.up_proj.weight [60, 32]",
                                            "model.layers.2.mlp.experts.groups.1.gate_proj.weight [24, 32]", "model.layers.2.mlp.experts.groups.1.up_proj.weight [24, 32]",
                                            "model.layers.2.mlp.experts.groups.2.gate_proj.weight [8, 32]", "model.layers.2.mlp.experts.groups.2.up_proj.weight [8, 32]",
                                            "model.layers.2.mlp.experts.0.down_proj.weight [32, 40]", "model.layers.2.mlp.experts.1.down_proj.weight [32, 8]",
                                            "model.layers.2.mlp.experts.2.down_proj.weight [32, 40]", "model.layers.2.mlp.experts.3.down_proj.weight [32, 24]"));
    EXPECT_EQ(spec.layers[2].zipped->size() * 32, elements);
    EXPECT_EQ(spec.width_of(2, 3), 24);
    EXPECT_FALSE(spec.layers[1].zipped);
}

TEST(Zipped, active_parameters_are_those_of_mean_experts) {
    const ModelSpec spec = parse_config(config(), "config.json"), plain = unzipped(spec, 28);
    EXPECT_EQ(spec.layers[0].zipped->mean_width(), 28);
    EXPECT_EQ(spec.num_active_parameters(), plain.num_active_parameters());
    EXPECT_EQ(compute_cost(spec).flops_per_token, compute_cost(plain).flops_per_token);
    EXPECT_EQ(compute_cost(spec).parameters, spec.num_parameters());
}

TEST(Zipped, the_config_survives_rendering) {
    const ModelSpec spec = parse_config(config(), "config.json"), again = parse_config(render_config(spec), "rendered");
    EXPECT_EQ(again.layers, spec.layers);
    EXPECT_EQ(again.architecture, spec.architecture);
    EXPECT_EQ(zipped_from_json(zipped_json(*spec.layers[0].zipped)), *spec.layers[0].zipped);
}

TEST(Zipped, every_mixture_has_a_form_unless_its_experts_are_chained_or_biased) {
    for (const Architecture* row : registry()) {
        const Architecture* zipped = zipped_form("zipped_" + std::string(row->model_type));
        ASSERT_EQ(zipped != nullptr, row->moe && !row->moe->chained && !row->moe->expert_bias) << row->model_type;
        if (zipped == nullptr) continue;
        EXPECT_EQ(&find_architecture(zipped->model_type), zipped);
        EXPECT_EQ(&unzipped_form_of(*zipped), row);
        EXPECT_EQ(remote_code({.architecture = zipped}).file, "modeling_zipped.py");
        EXPECT_THAT(remote_code({.architecture = zipped}).text, HasSubstr("BASE = \"" + std::string(row->model_type) + "\""));
    }
}

TEST(Zipped, refuses_what_does_not_fit) {
    EXPECT_EQ(refusal(config()), "accepted");
    const auto changed = [](const char* pointer, Json value) {
        Json json = config();
        json[Json::json_pointer(pointer)] = std::move(value);
        return refusal(json);
    };
    EXPECT_THAT(changed("/zipped_experts/0/experts/2/1", 21), HasSubstr("expert 2 reads rows 21 to 61 of group 0, which has 60"));
    EXPECT_THAT(changed("/zipped_experts/0/experts/2/1", -1), HasSubstr("first row: out of range"));
    EXPECT_THAT(changed("/zipped_experts/2/experts/3/0", 3), HasSubstr("layer 2: group: out of range (got 3, allowed 0 to 2)"));
    EXPECT_THAT(changed("/zipped_experts/2/experts/3/0", 9223372036854775808u), HasSubstr("out of range"));
    EXPECT_THAT(changed("/zipped_experts/0/experts/0/2", 0), HasSubstr("width: out of range"));
    EXPECT_THAT(changed("/zipped_experts/0/experts/0/2", 49), HasSubstr("width: out of range"));
    EXPECT_THAT(changed("/zipped_experts/0/experts/0/2", 1.5), HasSubstr("expected a whole number"));
    EXPECT_THAT(changed("/zipped_experts/0/experts/0", Json::array({0, 0})), HasSubstr("expected [group, first row, width]"));
    EXPECT_THAT(changed("/zipped_experts/0/experts", Json::array({Json::array({0, 0, 40})})), HasSubstr("expected 4 windows, got 1"));
    EXPECT_THAT(changed("/zipped_experts/0/experts/1/0", 1), HasSubstr("no expert is in group 2"));
    EXPECT_THAT(changed("/zipped_experts/0/rows/1", std::int64_t{1} << 40), HasSubstr("rows: out of range"));
    EXPECT_THAT(changed("/zipped_experts/0/rows", "many"), HasSubstr("expected a list"));
    EXPECT_THAT(changed("/zipped_experts/1", config()["zipped_experts"][0]), HasSubstr("layer 1: expected null"));
    EXPECT_THAT(changed("/zipped_experts/2", nullptr), HasSubstr("layer 2: expected an object"));
    EXPECT_THAT(changed("/zipped_experts", Json::array()), HasSubstr("an entry for each of the 3 layers"));
    EXPECT_THAT(changed("/zipped_experts", nullptr), HasSubstr("an entry for each of the 3 layers"));
    EXPECT_THAT(changed("/model_type", "zipped_llama"), HasSubstr("not supported"));
}

}  // namespace
}  // namespace mixwright::arch
