// DBRX: LayerNorms without biases, clipped q, k and v, 16 experts of which four sum to one; every name its own.
#include "arch/architecture.h"

namespace mixwright::arch {

extern const Architecture dbrx;
const Architecture dbrx{
    .model_type = "dbrx",
    .hf_class = "DbrxForCausalLM",
    .gguf_name = "dbrx",
    .aliases = {
        {"hidden_size", "d_model"},
        {"num_attention_heads", "n_heads"},
        {"num_hidden_layers", "n_layers"},
        {"max_position_embeddings", "max_seq_len"},
        {"num_key_value_heads", "attn_config.kv_n_heads"},
        {"clip_qkv", "attn_config.clip_qkv"},
        {"rope_theta", "attn_config.rope_theta"},
        {"moe_intermediate_size", "ffn_config.ffn_hidden_size"},
        {"num_experts", "ffn_config.moe_num_experts"},
        {"num_experts_per_tok", "ffn_config.moe_top_k"},
        {"hidden_act", "ffn_config.ffn_act_fn.name"},
    },
    .norm = NormForm::layer_without_bias,
    .clips_qkv = true,
    .default_rms_norm_eps = 1e-5,
    .moe = MoeTable{
        .num_experts_keys = {"num_experts"},
        .expert_width_key = "moe_intermediate_size",
        .norm_topk = NormTopk::always,
    },
    .disk_layers = "transformer.blocks.",
    .packed = {
        {.name = "transformer.wte.weight", .parts = {"model.embed_tokens.weight"}, .whole_model = true},
        {.name = "transformer.norm_f.weight", .parts = {"model.norm.weight"}, .whole_model = true},
        {.name = "norm_attn_norm.norm_1.weight", .parts = {"input_layernorm.weight"}},
        {.name = "norm_attn_norm.norm_2.weight", .parts = {"post_attention_layernorm.weight"}},
        {.name = "norm_attn_norm.attn.Wqkv.weight", .parts = {"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"}},
        {.name = "norm_attn_norm.attn.out_proj.weight", .parts = {"self_attn.o_proj.weight"}},
        {.name = "ffn.router.layer.weight", .parts = {"mlp.gate.weight"}},
        {.name = "ffn.experts.mlp.w1", .parts = {"gate_proj.weight"}, .per_expert = true, .flat = true},
        {.name = "ffn.experts.mlp.v1", .parts = {"up_proj.weight"}, .per_expert = true, .flat = true},
        {.name = "ffn.experts.mlp.w2", .parts = {"down_proj.weight"}, .per_expert = true, .transposed = true, .flat = true},
    },
};

}  // namespace mixwright::arch
