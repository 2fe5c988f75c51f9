// The matrix products of a layer of experts, each on the rows of its own tokens: what training spends its time on.
//
// Shape legend: N tokens, K experts a token, E experts, M = N K rows, sorted by expert.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace mixwright::ops {

/// ExpertOrder as tensors.
struct Assignment {
    std::vector<std::int64_t> begin;   // [E + 1]: rows begin[e] to begin[e + 1] belong to expert e
    at::Tensor order;                  // i64 [M]: row -> n * K + k
    at::Tensor token;                  // i32 [M]: row -> n
    at::Tensor position;               // i64 [N, K]: -> row
    at::Tensor slot;                   // i64 [M]: row -> e * busiest() + its place among those of expert e; where products are batched

    std::int64_t busiest() const;      // rows of the expert that has most
};

/// chosen i64 [N, K]. Off the CPU the products to come are batched, unless one expert has so many more rows than the others that
/// padding would cost more than launches.
Assignment sort_by_expert(const at::Tensor& chosen_NK, std::int64_t num_experts);

/// Products of this assignment are batched: one for all experts, their rows padded with zeros to those of the busiest.
void batch_products(Assignment& a);

/// One row for each assignment.
struct Rows {
    at::Tensor values;        // [M, .], sorted by expert, or [N, .] when
    bool by_token = false;    // row m is that of its token
};

/// The rows of x [N, .]: where our own products do it, they are gathered while they are multiplied.
Rows rows_of_tokens(const Assignment& a, const at::Tensor& x);

/// The rows of every expert e times matrices[e]: rows [M, k], matrices [E, k, n], which may be a transposed view -> [M, n].
at::Tensor rows_by_expert(const Assignment& a, const Rows& rows, const at::Tensor& matrices);

/// left^T right over the rows of every expert; zero for one without rows: left [M, m], right [M, n] -> [E, m, n].
at::Tensor outer_by_expert(const Assignment& a, const Rows& left, const Rows& right);

}  // namespace mixwright::ops
