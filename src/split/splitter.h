// From a MoE and a method to the dense models to write: which experts, in what proportion, how wide.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "split/routing_flow.h"
#include "split/split_recipe.h"
#include "split/student.h"

namespace mixwright::split {

struct SplitOptions {
    Method method = Method::slice;
    std::optional<std::int64_t> expert;                              // of every layer
    std::vector<std::vector<std::int64_t>> experts_per_layer;        // [MoE layers]; empty: not given
    bool all = false;                                                // a dense model for every expert, or every path (routed)
    Shared shared = Shared::concat;
    bool shared_only = false;                                        // the shared expert, and no other
    bool align = false;                                              // of mean: permute neurons first
    std::int64_t width = 0;                                          // of concat and fit; 0: what is active for a token
    std::string data_identity;                                       // hash of the text, for resuming
};

/// One dense model to write.
struct DenseModel {
    std::string name;                  // "expert-3", "student-0"; empty for the only one
    std::string about;                 // a sentence for the model card
    std::vector<LayerMlp> mlps;        // by layer of the model; empty for layers that are dense in the MoE
    std::int64_t width = 0;
    std::shared_ptr<Student> student;  // of method fit: what was found, once it is written
    std::vector<double> recovery;      // of one expert of a zipped model: see recovery_errors()
};

/// Neurons a token of `moe` passes through in a MoE layer: those of top_k experts (the widest, where widths differ), and of the shared one unless it is dropped.
std::int64_t active_width(const arch::ModelSpec& moe, Shared shared);
/// All neurons of the narrowest MoE layer.
std::int64_t total_width(const arch::ModelSpec& moe);

/// `routing` from measure_routing_flow() or uniform_routing(); `measured` says which. `texts` are for method fit, which makes a student
/// ("student-0", ...) of each; one alone has no name. Plans only: weights are read when the models are written. Error(usage) on options
/// that do not fit `moe` or each other.
std::vector<DenseModel> plan_dense_models(const arch::OpenModel& moe, const SplitOptions& options, const std::vector<LayerRouting>& routing, bool measured,
                                          std::vector<StudentText> texts, const model::Placement& placement);

}  // namespace mixwright::split
