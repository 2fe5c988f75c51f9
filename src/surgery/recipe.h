// What `build` is asked for: mergekit-moe's YAML, every field of it, and ours beside them. Parsing checks all that can be
// known without opening a model; it knows nothing of architectures or tensors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dtype.h"

namespace mixwright::surgery {

/// "path[@revision]", with a LoRA adapter "path[@revision]" merged into it when there is one.
struct ModelReference {
    std::string model;
    std::string lora;

    /// "model" or "model+lora", as mergekit writes it.
    std::string text() const;
    bool operator==(const ModelReference&) const = default;
};

enum class GateMode { hidden, hidden_avg, hidden_last, cheap_embed, random, uniform_random, ridge };

/// Which state of a layer the gates are made from: what enters the layer (mergekit's way), or what the router will
/// really see, the state after the post-attention norm.
enum class GateInput { layer, router };

struct ExpertRecipe {
    ModelReference source;
    std::vector<std::string> positive_prompts, negative_prompts;
    std::vector<std::filesystem::path> data;  // text of the expert's domain, for ridge gates
    double noise_scale = 0.0;                 // standard deviation added to every weight of the expert
    double residual_scale = 1.0;              // factor of down_proj
    std::string place;                        // "recipe.yml:7"
};

/// How ridge gates are fitted.
struct RidgeRecipe {
    std::int64_t tokens_per_expert = 12'000;
    std::int64_t context = 512;               // tokens of one sequence
    double held_out = 0.15;                   // share of each domain's tokens kept back for lambda, scale and the report
};

/// Inclusive range of layers.
struct LayerRange {
    std::int64_t first = 0, last = 0;
};

struct BuildRecipe {
    std::string source;                       // the file, for messages
    std::string text;                         // its bytes, copied into the output
    ModelReference base;
    std::vector<ExpertRecipe> experts, shared_experts;
    GateMode gate_mode = GateMode::hidden;
    GateInput gate_input = GateInput::layer;
    std::optional<double> gate_scale;         // factor of the gate rows; nothing: 1, or fitted for ridge gates
    RidgeRecipe ridge;
    std::optional<Dtype> dtype;               // nothing: the base's
    std::optional<std::int64_t> experts_per_token;
    std::string architecture;                 // prefix of a target's name; empty: the first that fits
    std::vector<LayerRange> moe_layers;       // empty: all

    /// experts_per_token, or mergekit's default of 2 (at most the number of experts).
    std::int64_t top_k() const;
};

std::string_view gate_mode_name(GateMode mode) noexcept;
/// Whether gates of this mode are made from prompts (ridge: when there is no data).
bool needs_prompts(GateMode mode) noexcept;
/// Whether the base model has to run for gates of this mode.
bool needs_hidden_states(GateMode mode) noexcept;

/// Reads and checks a recipe. Error(recipe) says file, line and what to write instead. `allow_identical_experts` is
/// mergekit's --i-understand-this-is-not-useful-without-training.
BuildRecipe read_build_recipe(const std::filesystem::path& path, bool allow_identical_experts = false);
BuildRecipe parse_build_recipe(std::string_view text, std::string_view source, bool allow_identical_experts = false);

/// Parses "path[@revision][+lora[@revision]]"; `place` is for the message. A path that exists as it stands is taken whole.
ModelReference parse_model_reference(std::string_view text, std::string_view place);

}  // namespace mixwright::surgery
