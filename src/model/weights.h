// The weights of a decoder as tensors, by role, and how they are loaded from a checkpoint.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <vector>

#include "arch/canonical.h"
#include "ops/grouped_experts.h"
#include "ops/mlp.h"
#include "ops/norm.h"
#include "ops/router.h"

namespace mixwright::model {

struct AttentionWeights {
    ops::Linear q, k, v, o;        // [H d, D], [Hkv d, D], [Hkv d, D], [D, H d]
    at::Tensor q_norm, k_norm;     // [d] or [H d] and [Hkv d], or undefined
    at::Tensor sinks;              // [H], or undefined
    // Latent attention has these in place of k and v, and of q when queries have a latent too.
    ops::Linear q_a, q_b, kv_a, kv_b;  // [rq, D], [H d, rq], [r + rope, D], [H (nope + v), r]
    at::Tensor q_a_norm, kv_a_norm;    // [rq], [r]
};

/// Rows of gate and up that experts of a zipped layer share (arch::ZippedExperts).
struct ExpertGroup {
    ops::Linear gate, up;          // [rows, D]
};

struct MoeWeights {
    std::vector<ops::RouterWeights> routers;  // one, or one for each iteration of a chain
    std::vector<ops::Mlp> experts; // [E]; with empty weights when they are in the stack
    std::vector<ExpertGroup> groups;          // of a zipped layer: what the experts' gates and ups are views of
    ops::ExpertStack stack;        // all experts as one operation, for training; undefined otherwise
    ops::Mlp shared;               // undefined weights without shared experts
    at::Tensor shared_gate;        // [1, D], or undefined
};

struct LayerWeights {
    // Norms of the inputs and outputs of attention and MLP; those the architecture does not have are undefined.
    ops::Norm input_norm, attention_output_norm, post_attention_norm, mlp_output_norm;
    AttentionWeights attention;
    ops::Mlp mlp;                  // of a dense layer
    MoeWeights moe;                // of a MoE layer
};

struct ModelWeights {
    at::Tensor embedding;          // [V, D]
    std::vector<LayerWeights> layers;
    ops::Norm final_norm;
    at::Tensor lm_head;            // [V, D]; the embedding itself when tied
    at::Tensor lm_head_bias;       // [V], or undefined
    ops::Linear quantized_head;    // stands in for lm_head and its bias where its weight is defined
};

/// How tensors are placed when they are loaded.
struct Placement {
    at::ScalarType dtype = at::kFloat;
    at::Device device = at::kCPU;
};

/// The torch type for a dtype on disk; Error(unsupported) for those libtorch cannot compute with.
at::ScalarType scalar_type(Dtype dtype);

/// The tensor `name` of `model`. Where dtype and device agree with the file it is a view of the mapped file: it must not
/// be written to. Error(not_found) when it is missing.
at::Tensor load_tensor(const arch::OpenModel& model, const std::string& name, const Placement& placement);

/// Makes the experts of a zipped layer views of their groups' rows: to be called when tensors of the groups were replaced. Other
/// layers stay as they are.
void bind_experts(const arch::ModelSpec& spec, std::int64_t layer, LayerWeights& weights);

LayerWeights load_layer(const arch::OpenModel& model, std::int64_t layer, const Placement& placement);
/// Everything but the layers.
ModelWeights load_outer(const arch::OpenModel& model, const Placement& placement);
ops::Norm load_final_norm(const arch::OpenModel& model, const Placement& placement);
ModelWeights load_all(const arch::OpenModel& model, const Placement& placement);

/// Tells the kernel that the mapped pages of `layer` are not needed soon.
void drop_layer(const arch::OpenModel& model, std::int64_t layer);

/// Calls `visit` with the canonical name of every tensor and the tensor itself, which may be replaced: the one list of
/// what a model's parameters are, for training and saving. A tied head is not visited.
void visit_tensors(const arch::ModelSpec& spec, ModelWeights& weights,
                   const std::function<void(const std::string& name, at::Tensor& tensor)>& visit);
void visit_layer_tensors(const arch::ModelSpec& spec, std::int64_t layer, LayerWeights& weights,
                         const std::function<void(const std::string& name, at::Tensor& tensor)>& visit);

/// Calls `visit` with the canonical name (without ".weight") of every linear map of a layer: where LoRA attaches.
void visit_linears(const arch::ModelSpec& spec, std::int64_t layer, LayerWeights& weights,
                   const std::function<void(const std::string& name, ops::Linear& linear)>& visit);

}  // namespace mixwright::model
