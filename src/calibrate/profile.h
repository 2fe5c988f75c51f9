// Statistics of a MoE on text: where tokens go, which experts fire together, how alike and how redundant they are. A layer at a
// time, so that models larger than memory can be looked at.
//
// Shape legend: M MoE layers, E experts, F width of an expert, S input files.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "arch/canonical.h"
#include "distributed/ranks.h"
#include "io/json.h"
#include "merge/matching.h"
#include "model/layer_stream.h"

namespace mixwright::calibrate {

/// The sequences of one input file.
struct ProfiledText {
    std::string name;
    std::vector<model::StreamedBatch> batches;
    std::int64_t tokens = 0;
    std::vector<std::string> sample;    // its first tokens as text, to be shown with their experts
};

/// Experts put together in one way, and what that would save at best.
struct Grouping {
    std::string by;                     // "co-activation", "similarity", "chance"
    std::int64_t size = 2;
    double touched = 1;                 // groups a token's experts lie in, over the number of those experts; mean over tokens
};

struct LayerProfile {
    std::int64_t layer = 0;
    std::optional<std::int64_t> iteration;  // of a chained layer, which has a profile for each
    at::Tensor counts;          // [S, E] int64: tokens routed to each expert
    at::Tensor gate_mass;       // [S, E] f64: the sum of its gates
    at::Tensor output_norm;     // [S, E] f64: mean of g ||y|| over its tokens
    at::Tensor gate_moments;    // [E, E] f64: sum over tokens of g_i g_j
    at::Tensor coactivation;    // [S, E, E] int64: tokens routed to both; the diagonal holds the counts
    at::Tensor entropy;         // [S] f64: mean entropy of the router's softmax, in nats
    at::Tensor similarity;      // [E, E] f32: cosine of the experts' outputs on the same sample of tokens
    at::Tensor neuron_energy;   // [E, F] f32: what each neuron brings to the output, mean over the expert's tokens of (g a_k ||D_k||)^2
    // Redundancy figures, of the weights [G, U, D] of the experts.
    double shared_mean_energy = 0;  // energy of the mean expert over the mean energy of an expert; 1/E for unrelated ones
    double rank90 = 0;              // directions that hold 90 % of the energy of the stacked experts, over E
    double best_partner = 0;        // p: mean over experts, by tokens, of the largest P(partner active | expert active)
    double matched_partner = 0;     // the same for the partner that a maximum-weight matching gives
    merge::Groups matching;         // that matching
    std::vector<Grouping> groupings;
    std::vector<at::Tensor> sample; // [S] of [n, K] int64: the experts of each text's first tokens, heaviest first

    /// "3"; "3.1" for the second iteration of a chained layer.
    std::string label() const;
    /// N_ij N / (N_i N_j) over all files, [E, E] f64; 1 for experts that ignore each other.
    at::Tensor lift(std::int64_t tokens) const;
    /// Total of coactivation over files, [E, E] f64.
    at::Tensor together() const;
};

struct Profile {
    std::vector<ProfiledText> texts;    // names and token counts; the batches are gone
    std::vector<LayerProfile> layers;
    double expert_share = 0;            // of the active parameters
    std::int64_t tokens = 0;

    /// The bound on the gain of reading the gate and up rows that two active partners share once: 1 / (1 - s p / 3).
    double speed_bound(double p) const { return 1 / (1 - expert_share * p / 3); }
    /// The same for groups of any size: of the three matrices of an expert, two are read once a group.
    double grouping_bound(const Grouping& grouping) const { return 1 / (1 - expert_share * (1 - grouping.touched) * 2 / 3); }
};

/// Runs `texts` through `model`. Of several ranks, which all call it with the same texts, each runs its share of the sequences; the
/// leading one's profile is that of one rank alone, the others' lack the experts of the sample. Error(unsupported) for a model without
/// experts; RankLost.
Profile profile_model(const arch::OpenModel& model, std::vector<ProfiledText> texts, const model::Placement& placement, const distributed::Ranks& ranks = {});

/// The figures a person asks for first, and everything the report page draws.
io::Json profile_json(const Profile& profile, bool with_matrices);

/// A page that shows `profile` without any network: heat map, load, co-activation, groupings, curves, tokens. `zip` is what became of the
/// model when it was zipped (surgery/zip_report.h), or null.
std::string profile_page(const Profile& profile, std::string_view model_name, const io::Json& zip = {});

}  // namespace mixwright::calibrate
