// Phi-3.5-MoE: LayerNorms, 16 experts of which two are chosen by sparsemixer, a bias of the head.
#include "arch/architecture.h"

namespace mixwright::arch {

extern const Architecture phimoe;
const Architecture phimoe{
    .model_type = "phimoe",
    .hf_class = "PhimoeForCausalLM",
    .gguf_name = "phimoe",
    .qkv_bias = {.config_key = "attention_bias"},
    .o_bias = {.config_key = "attention_bias"},
    .lm_head_bias = {.config_key = "lm_head_bias"},
    .norm = NormForm::layer,
    .sliding_window = SlidingWindow::always,
    .default_rope_theta = 1e6,
    .default_rms_norm_eps = 1e-5,
    .moe = MoeTable{
        .router = "block_sparse_moe.gate.weight",
        .experts = "block_sparse_moe.experts",
        .expert_names = ExpertNames::w1_w2_w3,
        .num_experts_keys = {"num_local_experts", "num_experts"},
        .expert_width_key = "intermediate_size",
        .scores = RouterScores::sparsemixer,
        .norm_topk = NormTopk::never,
    },
};

}  // namespace mixwright::arch
