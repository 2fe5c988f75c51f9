// Attention without autograd on a CPU: softmax(q k^T) v with running maxima (arXiv 2205.14135), so that scores exist for one
// block of keys at a time. Heads that share keys and values pass them together; nothing is repeated. Starts no threads.
#pragma once

#include <cstdint>

namespace mixwright::kernels {

enum class Element : std::uint8_t { f32, bf16 };

/// q [B, H, Lq, d], k [B, Hkv, Lk, d], v [B, Hkv, Lk, dv], out [B, Lq, H, dv], all of one element type; the last dimension
/// is contiguous, the others have strides in elements. The last query stands at the last key.
struct Attention {
    Element element = Element::f32;
    std::int64_t batch = 0, heads = 0, kv_heads = 0, num_queries = 0, num_keys = 0, dim = 0, value_dim = 0;
    const void *q = nullptr, *k = nullptr, *v = nullptr;
    void* out = nullptr;
    std::int64_t q_strides[3] = {}, k_strides[3] = {}, v_strides[3] = {};  // of batch, head, position

    float scale = 1.0f;             // of the scores
    float softcap = 0.0f;           // > 0: scores become softcap * tanh(score / softcap)
    const float* sinks = nullptr;   // [H]: a score of each head that takes weight and gives no value, or null
    bool causal = true;             // key position <= query position
    std::int64_t window = 0;        // > 0: and key position > query position - window
    std::int64_t chunk = 0;         // > 0: and both positions lie in the same chunk of so many
    const bool* key_mask = nullptr; // [B, Lk]: false for keys that do not exist, or null

    /// Independent pieces of work: run any of [0, num_pieces) in any order, on any thread.
    std::int64_t num_pieces() const;
    void run(std::int64_t piece) const;
};

}  // namespace mixwright::kernels
