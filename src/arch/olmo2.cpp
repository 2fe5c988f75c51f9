// OLMo 2: norms behind attention and MLP instead of before them, and of the whole of q and k.
#include "arch/architecture.h"

namespace mixwright::arch {

extern const Architecture olmo2;
const Architecture olmo2{
    .model_type = "olmo2",
    .hf_class = "Olmo2ForCausalLM",
    .gguf_name = "olmo2",
    .qkv_bias = {.config_key = "attention_bias"},
    .o_bias = {.config_key = "attention_bias"},
    .norm_placement = NormPlacement::after,
    .qk_norm = QkNorm::whole,
    .default_rms_norm_eps = 1e-5,
};

}  // namespace mixwright::arch
