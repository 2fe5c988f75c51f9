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

enum class Activation { silu, gelu, gelu_tanh, clamped_swiglu };  // the last: (clamp(u) + 1) g sigmoid(1.702 g) of gpt-oss
enum class MlpForm { gated, plain };             // down(act(gate x) * up x), or down(act(up x))
enum class NormForm { rms, rms_plus_one, layer, layer_without_bias };  // plus_one: weights are stored minus one (Gemma)
enum class NormPlacement { before, after, around };  // of attention and MLP: their input, their output (OLMo 2), both (Gemma)
enum class QkNorm {
    none,
    per_head,                                    // over head_dim, before rope (Qwen3)
    whole,                                       // over all heads at once, before rope (OLMo)
    l2_after_rope                                // over head_dim without weights, on layers that rotate (Llama 4)
};
enum class AttentionScale { head_dim, multiplier, query_scalar };  // 1/sqrt(d), attention_multiplier, 1/sqrt(query_pre_attn_scalar)
enum class RopeScaling { none, linear, dynamic, llama3, yarn, longrope };
enum class ExpertNames { w1_w2_w3, projections };  // experts.e.w1/w3/w2, or experts.e.gate_proj/up_proj/down_proj
enum class RouterScores {
    softmax,                                     // over all experts, then the best k
    sigmoid,                                     // each expert on its own
    sparsemixer                                  // k softmaxes, each over those within a margin of its best (Phi-3.5-MoE)
};
enum class GroupScore { best, best_two };        // a group of experts is worth its best, or the sum of its two best
enum class NormTopk { always, never, config_false, config_true };  // renormalise the top-k weights; config_X: key, default X
enum class SharedGate { none, sigmoid };         // shared experts are added as they are, or times sigmoid(w . x)
enum class SlidingWindow {
    none,                                        // the architecture has none
    always,                                      // sliding_window, on every layer, when the config has one
    switched,                                    // ... only when use_sliding_window
    switched_from_layer,                         // ... and only on layers >= max_window_layers (or layer_types)
    switched_even_layers,                        // ... and only on even layers < max_window_layers (or layer_types)
    switched_no_rope_layers,                     // ... and only on layers that do not rotate (or layer_types)
    pattern,                                     // all but every n-th layer (or layer_types)
    chunks                                       // layers that rotate see their chunk of attention_chunk_size (or layer_types)
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
    RouterScores scores = RouterScores::softmax;
    bool router_f32 = false;                     // logits are computed in f32 whatever the dtype of the model
    bool router_bias = false;                    // "<router>.bias" [E] is added to the logits
    bool correction_bias = false;                // "<router>.e_score_correction_bias" [E] takes part in the choice, not in the weights
    std::optional<GroupScore> groups = {};       // n_group and topk_group are honoured
    bool groups_by_method = false;               // ... only when topk_method is group_limited_greedy
    bool weigh_input = false;                    // the weight multiplies what an expert sees, not what it says
    bool chained = false;                        // inner_iter, inner_residual, outer_residual, use_igate are honoured
    bool zipped = false;                         // experts share rows of their projections: zipped_experts is honoured
    bool expert_bias = false;                    // the experts' projections have biases
    NormTopk norm_topk = NormTopk::always;
    SharedGate shared_gate = SharedGate::none;
    std::string_view shared_expert = {};         // "mlp.shared_expert"; empty: the architecture has none
    std::string_view shared_gate_name = {};      // "mlp.shared_expert_gate.weight" [1, D]
    std::string_view shared_width_key = {};      // width in config, or
    std::string_view num_shared_key = {};        // count in config (width = count * expert width)
    std::int64_t default_num_shared = 0;         // ... when the config does not say
    bool sparse_step = false;                    // decoder_sparse_step and mlp_only_layers are honoured
    bool first_k_dense = false;                  // first_k_dense_replace and moe_layer_freq are honoured
    bool interleaved = false;                    // moe_layers and interleave_moe_layer_step are honoured
};

/// A config key an architecture spells in its own way: `key` is ours, `path` its own, with dots into nested objects.
struct ConfigAlias {
    std::string_view key, path;
};

/// A tensor on disk that holds several canonical ones, or one under another name. Names come after the layer's prefix.
struct PackedForm {
    std::string_view name;                       // on disk: "self_attn.qkv_proj.weight"
    std::vector<std::string_view> parts;         // canonical, one after another along the rows; per expert: after "experts.E."
    bool per_expert = false;                     // all experts of a layer: [E, rows, cols]
    bool transposed = false;                     // each matrix is stored [cols, rows]
    bool interleaved = false;                    // the rows of the parts alternate
    bool whole_model = false;                    // of no layer: names are whole
    bool flat = false;                           // experts have no dimension of their own: [E * rows, cols]
};

struct Architecture {
    std::string_view model_type;                 // config.json model_type
    std::string_view hf_class;                   // config.json architectures[0]
    std::string_view gguf_name = {};             // general.architecture of its GGUF
    std::vector<ConfigAlias> aliases = {};
    BiasRule qkv_bias = {}, o_bias = {}, mlp_bias = {}, lm_head_bias = {};
    Activation activation = Activation::silu;    // when the config does not say
    MlpForm mlp = MlpForm::gated;
    std::string_view mlp_prefix = "mlp";         // of a dense layer
    NormForm norm = NormForm::rms;
    NormPlacement norm_placement = NormPlacement::before;
    QkNorm qk_norm = QkNorm::none;
    std::string_view qk_norm_key = {};           // boolean config key that switches it on; empty: always
    bool qk_norm_by_default = false;             // when the config does not say
    bool latent_attention = false;               // keys and values come out of a low-rank latent (MLA, arXiv 2405.04434)
    bool attention_sinks = false;                // "self_attn.sinks" [H]: a logit each head may give its attention to
    AttentionScale attention_scale = AttentionScale::head_dim;
    bool softcaps = false;                       // attn_logit_softcapping and final_logit_softcapping are honoured
    double default_attention_softcap = 0, default_logit_softcap = 0;  // when the config does not say; 0: none
    bool multipliers = false;                    // embedding_multiplier, residual_multiplier and logits_scaling are honoured
    bool root_scaled_embedding = false;          // the embedding is multiplied by sqrt(hidden_size)
    bool clips_qkv = false;                      // clip_qkv is honoured
    bool temperature_tuning = false;             // queries of layers that do not rotate grow with log(position) (Llama 4)
    SlidingWindow sliding_window = SlidingWindow::none;
    std::int64_t window_pattern = 0;             // of SlidingWindow::pattern: every n-th layer sees all
    std::int64_t default_window = 0;             // when the config does not say; 0: none
    bool rope_interleaved = false;               // pairs are neighbours (2j, 2j+1), not halves (j, j + d/2)
    std::string_view rope_interleaved_key = {};  // boolean config key for it
    bool local_rope = false;                     // layers with a sliding window rotate by rope_local_base_freq
    std::int64_t no_rope_interval = 0;           // every n-th layer does not rotate (or no_rope_layers); 0: all do
    double default_partial_rotary = 1.0;
    bool gguf_permutes_qk = false;               // GGUF stores q/k rows in ggml's rope order
    std::int64_t default_head_dim = 0;           // when the config has none; 0: hidden_size / num_attention_heads
    double default_rope_theta = 10000.0;
    double default_rms_norm_eps = 1e-6;
    bool default_tied = false;                   // tie_word_embeddings when the config does not say
    std::optional<MoeTable> moe;
    std::string_view disk_layers = "model.layers.";  // prefix of the layers in the published checkpoints
    std::vector<PackedForm> packed = {};         // what the published checkpoints hold in another way than the canonical names say
};

/// Every architecture, one line each in registry.cpp.
std::span<const Architecture* const> registry();
/// The row for a config.json model_type; Error(unsupported) with the nearest names. "chained_X" is X with chains of experts,
/// "zipped_X" is X with experts that share rows.
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
    std::optional<double> short_mscale, long_mscale;           // longrope: factors in place of the attention factor
    double partial = 1.0;                                      // share of head_dim that rotates
    bool interleaved = false;                                  // pairs are neighbours, not halves
    bool operator==(const Rope&) const = default;
};

enum class LayerKind { dense, moe };

/// Chain-of-Experts: a MoE block that runs `iterations` times on its own output before it rejoins the stream.
/// x(0) = norm(h); x(t) = MoE_t(x(t-1)) + [inner] x(t-1) + [initial] x(0); the layer gives x(C) + [outer] h.
/// Or, ours, on the stream: x(0) = h; x(t) = x(t-1) + scale MoE_t(norm(x(t-1))); the layer gives x(C).
struct Chain {
    std::int64_t iterations = 1;
    bool on_stream = false;                      // the residuals below are those of the first form
    double scale = 1;                            // of an increment, on the stream
    bool independent_gates = true;               // a router for each iteration, or one for all
    bool inner_residual = true, initial_residual = false, outer_residual = false;
    bool operator==(const Chain&) const = default;
};

/// The neurons of one expert of a zipped layer: rows [first, first + width) of its group's gate and up.
struct ExpertWindow {
    std::int64_t group = 0, first = 0, width = 0;
    bool operator==(const ExpertWindow&) const = default;
};

/// Experts that share rows: groups of them have one gate and one up projection [rows, D], and each expert reads a window of
/// it. A window has a down projection [D, width] of its own. An expert that shares nothing is a group of one.
struct ZippedExperts {
    std::vector<std::int64_t> rows;              // of each group
    std::vector<ExpertWindow> windows;           // of each expert
    bool operator==(const ZippedExperts&) const = default;

    /// Sizes in units of D elements: every row of gate and up once, every column of a down projection.
    std::int64_t size() const;
    /// The mean width of a window.
    double mean_width() const;
};

struct LayerSpec {
    LayerKind kind = LayerKind::dense;
    std::int64_t sliding_window = 0;             // 0: full attention
    std::int64_t attention_chunk = 0;            // > 0: only keys of the query's own chunk of so many positions
    bool rope = true;                            // false: the layer does not rotate
    bool local_rope = false;                     // it rotates by ModelSpec::local_rope
    std::optional<Chain> chain;                  // of a MoE layer
    std::optional<ZippedExperts> zipped;         // of a MoE layer
    bool operator==(const LayerSpec&) const = default;
};

/// Multi-head latent attention: ranks of the latents and sizes of the parts of a head. A rank of 0 for q: q_proj, no latent.
struct LatentAttention {
    std::int64_t q_rank = 0, kv_rank = 0;
    std::int64_t nope_dim = 0, rope_dim = 0, v_dim = 0;
    bool operator==(const LatentAttention&) const = default;
};

/// The numbers of one model. Every field was checked to lie in a sane range.
struct ModelSpec {
    const Architecture* architecture = nullptr;
    std::int64_t vocab_size = 0, hidden_size = 0, num_layers = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
    std::int64_t intermediate_size = 0;          // F of dense MLPs
    std::int64_t max_positions = 0;
    double rms_norm_eps = 1e-6;                  // of every norm, also of LayerNorms
    bool qkv_bias = false, o_bias = false, mlp_bias = false, lm_head_bias = false, tied_embeddings = false;
    Activation activation = Activation::silu;
    double swiglu_limit = 7.0;                   // of Activation::clamped_swiglu
    QkNorm qk_norm = QkNorm::none;
    std::optional<LatentAttention> latent;       // then head_dim = nope_dim + rope_dim
    double attention_scale = 0;                  // on q k^T
    double attention_softcap = 0, logit_softcap = 0;  // c tanh(x / c); 0: none
    double embedding_multiplier = 1, residual_multiplier = 1, logits_divisor = 1;
    double qkv_clip = 0;                         // 0: none
    double temperature_scale = 0, temperature_floor = 8192;  // Llama 4's tuning; scale 0: none
    Rope rope;
    std::optional<Rope> local_rope;
    std::vector<LayerSpec> layers;               // [num_layers]

    // MoE; zero without. Of zipped layers, expert_width is what no window exceeds.
    std::int64_t num_experts = 0, top_k = 0, expert_width = 0, shared_width = 0;
    bool norm_topk_prob = true;
    double routed_scaling_factor = 1.0;
    std::int64_t num_groups = 1, top_groups = 1; // experts are chosen from the best `top_groups` of `num_groups` groups
    double router_jitter = 0.01;                 // margin of RouterScores::sparsemixer

    std::vector<std::int64_t> eos_token_ids;
    std::optional<std::int64_t> bos_token_id, pad_token_id;
    std::optional<Dtype> dtype;

    bool is_moe() const noexcept { return num_experts > 0; }
    /// The part of a head that rope sees.
    std::int64_t rope_head_dim() const noexcept { return latent ? latent->rope_dim : head_dim; }
    /// Length of a head's values.
    std::int64_t value_dim() const noexcept { return latent ? latent->v_dim : head_dim; }
    /// Times a MoE layer runs: 1 without a chain.
    std::int64_t iterations(std::int64_t layer) const;
    /// Neurons of an expert of a MoE layer.
    std::int64_t width_of(std::int64_t layer, std::int64_t expert) const;
    /// Parameters in total, and those a token passes through (top_k of the experts; of unequal ones, that many of the mean size).
    std::int64_t num_parameters() const;
    std::int64_t num_active_parameters() const;
};

/// The architecture that a config.json names, by its model_type. Error(malformed) when there is none.
const Architecture& architecture_of(const io::Json& config, std::string_view source);

/// Reads config.json in the spelling of transformers 4 or 5. Error(malformed) on values that are missing or out of
/// range, Error(unsupported) on forms we do not compute (another activation, an unknown rope type). `source` names the file.
ModelSpec parse_config(const io::Json& config, std::string_view source);

// ---- tensors --------------------------------------------------------------------------------------------------

/// `router` is a matrix [E, D]; what is added to its logits or scores is router_bias. Biases of experts are `expert`, [F] or [D].
enum class TensorRole { embedding, norm, attention, router, router_bias, expert, shared_expert, shared_gate, mlp, lm_head, other };

struct TensorSlot {
    std::string name;                            // canonical: per-expert, Hugging Face names
    std::vector<std::int64_t> shape;
    TensorRole role = TensorRole::other;
    std::int64_t layer = -1, expert = -1;        // -1: none

    std::int64_t elements() const;
};

/// Every tensor a model of this spec has in the canonical per-expert layout, in order of computation. Tied heads are left out.
std::vector<TensorSlot> tensor_slots(const ModelSpec& spec);
/// The elements of `slot` that count when `active_experts` of its layer run.
std::int64_t active_elements(const ModelSpec& spec, const TensorSlot& slot, std::int64_t active_experts);

/// Names of the tensors of one MLP of width F: gate [F, D] (empty in a plain MLP), up [F, D], down [D, F].
struct MlpNames {
    std::string gate, up, down;
};
MlpNames dense_mlp_names(const Architecture& architecture, std::int64_t layer);
/// Those of Llama and its kin.
MlpNames dense_mlp_names(std::int64_t layer);
MlpNames expert_names(const Architecture& architecture, std::int64_t layer, std::int64_t expert);
/// Gate and up of a group of a zipped layer: "model.layers.N.mlp.experts.groups.G.gate_proj.weight"; it has no down.
MlpNames expert_group_names(const Architecture& architecture, std::int64_t layer, std::int64_t group);
MlpNames shared_expert_names(const Architecture& architecture, std::int64_t layer);
/// The norms of a layer in order of use, after "model.layers.N.": before and after attention, before and after the MLP.
/// Empty where the placement has none.
struct NormNames {
    std::string_view before_attention, after_attention, before_mlp, after_mlp;
};
NormNames norm_names(NormPlacement placement);
/// The routers of a MoE layer: one, or one for each iteration of a chain with gates of its own ("mlp.gate.T.weight").
std::vector<std::string> router_names(const ModelSpec& spec, std::int64_t layer);
/// "x.weight" -> "x.<suffix>"
std::string sibling(const std::string& weight, std::string_view suffix);
/// "model.layers.N.<suffix>"
std::string layer_tensor(std::int64_t layer, std::string_view suffix);

}  // namespace mixwright::arch
