// Granite 3: Llama with multipliers on the embedding, the scores, the residual branches and the logits.
#include "arch/architecture.h"

namespace mixwright::arch {

extern const Architecture granite;
const Architecture granite{
    .model_type = "granite",
    .hf_class = "GraniteForCausalLM",
    .gguf_name = "granite",
    .qkv_bias = {.config_key = "attention_bias"},
    .o_bias = {.config_key = "attention_bias"},
    .mlp_bias = {.config_key = "mlp_bias"},
    .attention_scale = AttentionScale::multiplier,
    .multipliers = true,
    .gguf_permutes_qk = true,
};

}  // namespace mixwright::arch
