// Mixtral: Mistral attention, every MLP a set of experts whose top-k weights sum to one.
#include "arch/architecture.h"

namespace mixwright::arch {

extern const Architecture mixtral;
const Architecture mixtral{
    .model_type = "mixtral",
    .hf_class = "MixtralForCausalLM",
    .gguf_name = "llama",
    .sliding_window = SlidingWindow::always,
    .gguf_permutes_qk = true,
    .default_rope_theta = 1e6,
    .default_rms_norm_eps = 1e-5,
    .moe = MoeTable{
        .router = "block_sparse_moe.gate.weight",
        .experts = "block_sparse_moe.experts",
        .expert_names = ExpertNames::w1_w2_w3,
        .num_experts_keys = {"num_local_experts", "num_experts"},
        .expert_width_key = "intermediate_size",
        .norm_topk = NormTopk::always,
    },
};

}  // namespace mixwright::arch
