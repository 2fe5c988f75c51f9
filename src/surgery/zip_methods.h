// The ways to make the MoE block of a layer smaller, each one function from a block and its calibration data to a block.
//
// Shape legend: N tokens, D hidden size, F width of an expert, E experts.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "calibrate/routed_layer.h"
#include "io/json.h"
#include "model/weights.h"

namespace mixwright::surgery {

enum class ZipMethod { typed, neuron, heapr, reap, frequency, random, average, zipit, hc_smoe, mergemoe, ream };
enum class ZipGrouping { coactivation, similarity, random };
enum class ZipBudget {
    uniform,  // every layer keeps the same share of its experts' bytes
    loss      // layers keep what the loss needs of them (layer_shares.h)
};
enum class ZipFormat {
    standard,  // the original's architecture, experts of one width
    zipped     // experts of unequal widths that may share rows (arch::ZippedExperts)
};

struct ZipOptions {
    ZipMethod method = ZipMethod::neuron;
    ZipFormat format = ZipFormat::standard;
    ZipGrouping grouping = ZipGrouping::coactivation;
    std::int64_t group_size = 2;
    double alpha = 0.3, beta = 0.125;  // of ZipIt!
    ZipBudget budget = ZipBudget::uniform;
    double keep = 0.75;      // share of the experts' bytes: of the whole model's, and for a method of the layer's
    bool refit = true;       // least squares on the new block's output
    bool sequential = true;  // a layer's statistics come from the already zipped layers below
    std::uint64_t seed = 0;
};

/// What a method may look at.
struct ZipContext {
    const arch::ModelSpec& spec;            // of the original
    const arch::ModelSpec& result;          // of what is made
    const model::MoeWeights& weights;       // of the original, f32
    const calibrate::RoutedLayer& routed;   // on the original block
    const ZipOptions& options;
    std::int64_t layer = 0;
    at::Tensor gradients = {};              // [N, D] of the loss with respect to the block's output, when needs_gradients() of the options
};

/// What a layer's optimiser chose, as shares of all neurons, and what that can do for speed.
struct TypedShares {
    double dropped = 0, kept_private = 0, shared = 0;
    double partner = 0;     // p: probability that the partner of an active expert is active too (0 for those without)
    double read = 1;        // expert bytes a token reads, rows shared by two active experts once, over those of the original
    double read_apart = 1;  // the same with such rows read twice

    io::Json json() const;
    static TypedShares from_json(const io::Json& json);
};

struct MadeBlock {
    model::MoeWeights weights;                   // each expert with gate and up of its own, also where rows are shared
    std::string note;
    std::optional<arch::ZippedExperts> zipped;   // of ZipFormat::zipped: what is shared
    std::optional<TypedShares> typed;
};

/// "hc-smoe"; Error(usage) with the known ones.
ZipMethod zip_method(std::string_view name);
std::string_view zip_method_name(ZipMethod method);
/// Whether the method makes experts narrower (the router stays as it is) rather than fewer.
bool makes_narrower(ZipMethod method);

/// Whether the method or the budget looks at the gradient of the loss, and so at the whole model before the first layer is made.
bool needs_gradients(const ZipOptions& options);

MadeBlock make_block(const ZipContext& context);

using calibrate::expert_activations;
/// The numbers as a tensor, i64.
at::Tensor index_of(const std::vector<std::int64_t>& values);
/// The expert made of these of its neurons, in this order: their rows of gate and up, their columns of down.
ops::Mlp neurons_of(const ops::Mlp& expert, const std::vector<std::int64_t>& neurons);
/// The matrix of a block's router, [E, D].
inline at::Tensor& router_of(model::MoeWeights& weights) { return weights.routers[0].weight; }
inline const at::Tensor& router_of(const model::MoeWeights& weights) { return weights.routers[0].weight; }
/// The block with its matrices where and in the dtype `placement` says.
model::MoeWeights placed(model::MoeWeights block, const model::Placement& placement);
/// The gate of the shared experts, [N, 1]; ones when they have none.
at::Tensor shared_gates(const model::MoeWeights& weights, const at::Tensor& x);
/// The output of a whole block where `routed` says tokens go, [N, D] f32.
at::Tensor block_output(const model::MoeWeights& weights, const calibrate::RoutedLayer& routed);

struct BlockRefit {
    double before = 0, after = 0;  // error on held-out tokens, relative, weighted
    double fitted = 0;             // on the tokens it was fitted to, after
};

/// Fits the down projections of all experts, the shared ones included, to `target` [N, D], one expert after another on what the others
/// leave (block coordinate descent), while held-out tokens gain. `routed` is of the new block.
BlockRefit refit_block(model::MoeWeights& weights, const calibrate::RoutedLayer& routed, const at::Tensor& target);
/// The errors without any fit.
BlockRefit judge_block(const model::MoeWeights& weights, const calibrate::RoutedLayer& routed, const at::Tensor& target);

/// How well each source expert's own output is got back from `made` on held-out tokens: squared error over energy; NaN for one that
/// nothing is routed to.
std::vector<double> recovery(const model::MoeWeights& block, const model::MoeWeights& made, const calibrate::RoutedLayer& routed);

}  // namespace mixwright::surgery
