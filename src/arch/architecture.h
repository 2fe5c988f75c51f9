// What a model IS, as data. An Architecture is a table row: names of tensors and config keys, and which of the known
// forms each part takes. A ModelSpec is an architecture with the numbers of one config.json filled in; it is all that
// the model graph, surgery and checks need to know. Nothing here reads weights or computes.
//
// Shape legend: V vocabulary, D hidden size, H heads, K kv heads, d head_dim, F width of an MLP, E experts.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dtype.h"
#include "io/json.h"

namespace mixwright::arch {

// ---- the forms ------------------------------------------------------------------------------------------------

enum class Activation { silu };
enum class QkNorm { none, per_head };            // RMSNorm over head_dim, before rope (Qwen3)
enum class RopeScaling { none, linear, dynamic, llama3, yarn, longrope };
enum class ExpertNames { w1_w2_w3, projections };  // experts.e.w1/w3/w2, or experts.e.gate_proj/up_proj/down_proj
enum class NormTopk { always, never, config_false, config_true };  // renormalise the top-k weights; config_X: key, default X
enum class SharedGate { none, sigmoid };         // shared experts are added as they are, or times sigmoid(w . x)
enum class SlidingWindow {
    none,                                        // the architecture has none
    always,                                      // sliding_window, on every layer, when the config has one
    switched,                                    // ... only when use_sliding_window
    switched_from_layer,                         // ... and only on layers >= max_window_layers (or layer_types)
    switched_even_layers                         // ... and only on even layers < max_window_layers (or layer_types)
};

/// Where biases of a projection come from: never, always, or a boolean config key.
struct BiasRule {
    bool by_default = false;
    std::string_view config_key = {};
};

/// The MoE block of an architecture. Names are those of the canonical per-expert layout on disk, after "model.layers.N.".
struct MoeTable {
    std::string_view router = "mlp.gate.weight"; // [E, D]
    std::string_view experts = "mlp.experts";    // prefix of the experts' tensors
    ExpertNames expert_names = ExpertNames::projections;
    std::vector<std::string_view> num_experts_keys;  // the first one present counts; all are written
    std::string_view expert_width_key;           // "moe_intermediate_size"
    NormTopk norm_topk = NormTopk::always;
    SharedGate shared_gate = SharedGate::none;
    std::string_view shared_expert = {};         // "mlp.shared_expert"; empty: the architecture has none
    std::string_view shared_gate_name = {};      // "mlp.shared_expert_gate.weight" [1, D]
    std::string_view shared_width_key = {};      // width in config, or
    std::string_view num_shared_key = {};        // count in config (width = count * expert width)
    bool sparse_step = false;                    // decoder_sparse_step and mlp_only_layers are honoured
    bool first_k_dense = false;                  // first_k_dense_replace and moe_layer_freq are honoured
};

struct Architecture {
    std::string_view model_type;                 // config.json model_type
    std::string_view hf_class;                   // config.json architectures[0]
    std::string_view gguf_name = {};             // general.architecture of its GGUF
    BiasRule qkv_bias, o_bias, mlp_bias;
    QkNorm qk_norm = QkNorm::none;
    SlidingWindow sliding_window = SlidingWindow::none;
    bool gguf_permutes_qk = false;               // GGUF stores q/k rows in ggml's rope order
    std::int64_t default_head_dim = 0;           // when the config has none; 0: hidden_size / num_attention_heads
    double default_rope_theta = 10000.0;
    double default_rms_norm_eps = 1e-6;
    bool default_tied = false;                   // tie_word_embeddings when the config does not say
    std::optional<MoeTable> moe;
};

/// Every architecture, one line each in registry.cpp.
std::span<const Architecture* const> registry();
/// The row for a config.json model_type; Error(unsupported) with the nearest names.
const Architecture& find_architecture(std::string_view model_type);

// ---- one model ------------------------------------------------------------------------------------------------

struct Rope {
    double theta = 10000.0;
    RopeScaling scaling = RopeScaling::none;
    double factor = 1.0;
    double low_freq_factor = 1.0, high_freq_factor = 4.0;      // llama3
    double original_max_positions = 0;                         // llama3, yarn, longrope; 0: max_positions
    double beta_fast = 32.0, beta_slow = 1.0;                  // yarn
    std::optional<double> attention_factor, mscale, mscale_all_dim;
    bool truncate = true;                                      // yarn: round the correction range
    std::vector<double> short_factor, long_factor;             // longrope, [rotary dims / 2]
    double partial = 1.0;                                      // share of head_dim that rotates
    bool operator==(const Rope&) const = default;
};

enum class LayerKind { dense, moe };

struct LayerSpec {
    LayerKind kind = LayerKind::dense;
    std::int64_t sliding_window = 0;             // 0: full attention
};

/// The numbers of one model. Every field was checked to lie in a sane range.
struct ModelSpec {
    const Architecture* architecture = nullptr;
    std::int64_t vocab_size = 0, hidden_size = 0, num_layers = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
    std::int64_t intermediate_size = 0;          // F of dense MLPs
    std::int64_t max_positions = 0;
    double rms_norm_eps = 1e-6;
    bool qkv_bias = false, o_bias = false, mlp_bias = false, tied_embeddings = false;
    Activation activation = Activation::silu;
    Rope rope;
    std::vector<LayerSpec> layers;               // [num_layers]

    // MoE; zero without
    std::int64_t num_experts = 0, top_k = 0, expert_width = 0, shared_width = 0;
    bool norm_topk_prob = true;
    double routed_scaling_factor = 1.0;

    std::vector<std::int64_t> eos_token_ids;
    std::optional<std::int64_t> bos_token_id, pad_token_id;
    std::optional<Dtype> dtype;

    bool is_moe() const noexcept { return num_experts > 0; }
    /// Parameters in total, and those a token passes through (top_k of the experts).
    std::int64_t num_parameters() const;
    std::int64_t num_active_parameters() const;
};

/// The architecture that a config.json names, by its model_type. Error(malformed) when there is none.
const Architecture& architecture_of(const io::Json& config, std::string_view source);

/// Reads config.json in the spelling of transformers 4 or 5. Error(malformed) on values that are missing or out of
/// range, Error(unsupported) on forms we do not compute (another activation, an unknown rope type). `source` names the file.
ModelSpec parse_config(const io::Json& config, std::string_view source);

// ---- tensors --------------------------------------------------------------------------------------------------

enum class TensorRole { embedding, norm, attention, router, expert, shared_expert, shared_gate, mlp, lm_head, other };

struct TensorSlot {
    std::string name;                            // canonical: per-expert, Hugging Face names
    std::vector<std::int64_t> shape;
    TensorRole role = TensorRole::other;
    std::int64_t layer = -1, expert = -1;        // -1: none
};

/// Every tensor a model of this spec has in the canonical per-expert layout, in order of computation. Tied heads are left out.
std::vector<TensorSlot> tensor_slots(const ModelSpec& spec);

/// Names of the tensors of one MLP of width F: gate [F, D], up [F, D], down [D, F].
struct MlpNames {
    std::string gate, up, down;
};
MlpNames dense_mlp_names(std::int64_t layer);
MlpNames expert_names(const Architecture& architecture, std::int64_t layer, std::int64_t expert);
MlpNames shared_expert_names(const Architecture& architecture, std::int64_t layer);
/// "model.layers.N.<suffix>"
std::string layer_tensor(std::int64_t layer, std::string_view suffix);

}  // namespace mixwright::arch
