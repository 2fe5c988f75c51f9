// Kinds of text that a MoE tells apart by itself: experts that work on the same stretches of text make a cluster, and a token belongs
// to the clusters whose experts it goes to.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "model/layer_stream.h"

namespace mixwright::split {

/// Clusters of the experts of every MoE layer, [layers][E]: the number of each expert's cluster.
using ExpertClusters = std::vector<std::vector<std::int64_t>>;

/// Finds `count` clusters on `batches`: spherical k-means over the routed mass of short windows of text, each expert's mass against
/// its mean; an expert goes to the cluster in whose windows it has the most of it. Deterministic. Error(usage) when there are fewer
/// windows than clusters.
ExpertClusters cluster_experts(const arch::OpenModel& moe, const std::vector<model::StreamedBatch>& batches, std::int64_t count, const model::Placement& placement);

/// How much of each token is a cluster's: the weight it gives to the cluster's experts, mean over the MoE layers and in shares of what
/// that cluster gets in the mean; one row a token, rows sum to one. f32 [B L, clusters] for each batch.
std::vector<at::Tensor> cluster_shares(const arch::OpenModel& moe, const std::vector<model::StreamedBatch>& batches, const ExpertClusters& clusters,
                                       std::int64_t count, const model::Placement& placement);

/// The k-means itself: rows of `points` [n, m] into `count` clusters by the angle between them. Starts from rows far apart.
/// int64 [n]. Empty clusters may be left when rows coincide.
at::Tensor spherical_clusters(const at::Tensor& points, std::int64_t count);

}  // namespace mixwright::split
