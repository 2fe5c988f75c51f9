// Qwen1.5, Qwen2 and Qwen2.5: q, k and v carry biases.
#include "arch/architecture.h"

namespace mixwright::arch {

extern const Architecture qwen2;
const Architecture qwen2{
    .model_type = "qwen2",
    .hf_class = "Qwen2ForCausalLM",
    .gguf_name = "qwen2",
    .qkv_bias = {.by_default = true},
    .sliding_window = SlidingWindow::switched_from_layer,
};

}  // namespace mixwright::arch
