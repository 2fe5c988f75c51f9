// Qwen1.5-MoE and Qwen2-MoE: routed experts and one shared expert behind a sigmoid gate; some layers may stay dense.
#include "arch/architecture.h"

namespace mixwright::arch {

extern const Architecture qwen2_moe;
const Architecture qwen2_moe{
    .model_type = "qwen2_moe",
    .hf_class = "Qwen2MoeForCausalLM",
    .gguf_name = "qwen2moe",
    .qkv_bias = {.by_default = true, .config_key = "qkv_bias"},
    .sliding_window = SlidingWindow::switched_even_layers,
    .moe = MoeTable{
        .num_experts_keys = {"num_experts", "num_local_experts"},
        .expert_width_key = "moe_intermediate_size",
        .norm_topk = NormTopk::config_false,
        .shared_gate = SharedGate::sigmoid,
        .shared_expert = "mlp.shared_expert",
        .shared_gate_name = "mlp.shared_expert_gate.weight",
        .shared_width_key = "shared_expert_intermediate_size",
        .sparse_step = true,
    },
};

}  // namespace mixwright::arch
