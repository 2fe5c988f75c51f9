// Qwen3-MoE: Qwen3 attention, routed experts without a shared one; some layers may stay dense.
#include "arch/architecture.h"

namespace mixwright::arch {

extern const Architecture qwen3_moe;
const Architecture qwen3_moe{
    .model_type = "qwen3_moe",
    .hf_class = "Qwen3MoeForCausalLM",
    .gguf_name = "qwen3moe",
    .qkv_bias = {.config_key = "attention_bias"},
    .o_bias = {.config_key = "attention_bias"},
    .qk_norm = QkNorm::per_head,
    .sliding_window = SlidingWindow::switched,
    .moe = MoeTable{
        .num_experts_keys = {"num_experts", "num_local_experts"},
        .expert_width_key = "moe_intermediate_size",
        .norm_topk = NormTopk::config_false,
        .sparse_step = true,
    },
};

}  // namespace mixwright::arch
