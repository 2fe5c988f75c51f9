// Phi-3, Phi-3.5-mini and Phi-4: Llama with q, k, v and gate, up each in one matrix on disk, and longrope.
#include "arch/architecture.h"

namespace mixwright::arch {

extern const Architecture phi3;
const Architecture phi3{
    .model_type = "phi3",
    .hf_class = "Phi3ForCausalLM",
    .gguf_name = "phi3",
    .sliding_window = SlidingWindow::always,
    .default_rms_norm_eps = 1e-5,
    .packed = {
        {"self_attn.qkv_proj.weight", {"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"}},
        {"mlp.gate_up_proj.weight", {"mlp.gate_proj.weight", "mlp.up_proj.weight"}},
    },
};

}  // namespace mixwright::arch
