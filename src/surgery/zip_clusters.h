// Methods that make several experts into one, and what experts are chosen and grouped by.
#pragma once

#include <cstdint>
#include <vector>

#include "merge/matching.h"
#include "surgery/zip_methods.h"

namespace mixwright::surgery {

/// average, zipit, hc-smoe, mergemoe, ream: fewer experts, each made of a group of the original's.
MadeBlock merged_experts(const ZipContext& context);

/// Pairs by ZipOptions::grouping; of an odd number of experts one stays alone.
merge::Groups paired_experts(const ZipContext& context);

/// REAP (arXiv 2510.13999, eq. 9): the mean of g ||y|| over the tokens of each expert; [E] f64, 0 for experts nothing is routed to.
at::Tensor reap_saliency(const ZipContext& context);

/// 0 .. count-1 in an order that depends on the seed alone.
std::vector<std::int64_t> random_order(std::int64_t count, std::uint64_t seed);

}  // namespace mixwright::surgery
