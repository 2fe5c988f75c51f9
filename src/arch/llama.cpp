// Llama 1 to 3.x, and everything that calls itself llama: SmolLM, TinyLlama, Yi, ...
#include "arch/architecture.h"

namespace mixwright::arch {

extern const Architecture llama;
const Architecture llama{
    .model_type = "llama",
    .hf_class = "LlamaForCausalLM",
    .gguf_name = "llama",
    .qkv_bias = {.config_key = "attention_bias"},
    .o_bias = {.config_key = "attention_bias"},
    .mlp_bias = {.config_key = "mlp_bias"},
    .gguf_permutes_qk = true,
};

}  // namespace mixwright::arch
