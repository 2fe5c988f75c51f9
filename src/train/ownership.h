// Who of several ranks keeps what of the optimiser's state: every parameter has one owner, which sums its gradient, holds its moments
// and its master, takes the step and hands the new weights out (ZeRO, arXiv 1910.02054, stages 1 and 2 in whole buckets).
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "distributed/ranks.h"
#include "train/adamw.h"

namespace mixwright::train {

/// Neighbouring parameters whose gradients and weights travel together, of one owner.
struct Bucket {
    std::vector<std::size_t> parameters;
    bool divided = false;        // experts of which each rank has a share: the team is Ranks::replicas(), else everyone
    std::int64_t owner = 0;      // member of the team
    std::int64_t elements = 0;

    const distributed::Team& team(const distributed::Ranks& ranks) const { return divided ? ranks.replicas() : ranks.gradients(); }
};

/// Gives every parameter an owner, so that all ranks keep about the same, and lets go of the state that others keep. Buckets come in
/// the order in which a backward pass completes them; a parameter that no other rank has is in none.
std::vector<Bucket> share_out(std::vector<Parameter>& parameters, const distributed::Ranks& ranks);

/// Which of a parameter's tensors.
using PartOfParameter = at::Tensor Parameter::*;
/// The whole of a tensor whose parts lie on several ranks, f32 on the CPU; shared with the parameter where it lies here anyway.
using WholeTensor = std::function<at::Tensor(const Parameter& parameter, PartOfParameter part)>;

/// Calls `work` on the leading rank, which may ask for tensors of `parameters`, while the other ranks hand them over. All ranks call it together.
void with_whole_tensors(const std::vector<Parameter>& parameters, const distributed::Ranks& ranks, const std::function<void(const WholeTensor& whole)>& work);

}  // namespace mixwright::train
