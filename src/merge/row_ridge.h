// Ridge regression for more features than rows, through the products of rows with rows (the dual form): the map that fit_ridge() would
// find, in memory of N^2 in place of n^2.
//
// Shape legend: N rows (tokens), n features (neurons), d outputs.
#pragma once

#include "merge/least_squares.h"

namespace mixwright::merge {

/// Rows of activations a [N, n] and what they should make, y [N, d]; floating.
struct Rows {
    at::Tensor a, y;
};

/// As fit_ridge(fit, held_out, prior, HeldOut::stay): x [n, d] that makes `fit`'s y of its a, pulled towards `prior` [n, d] with the strength
/// that does best on `held_out`, looked for from `near` on (RidgeSearch). The products are computed in f32 and solved in f64. Error(failed) on values that are no numbers.
RidgeFit fit_ridge_by_rows(const Rows& fit, const Rows& held_out, const at::Tensor& prior, double near = 0);

}  // namespace mixwright::merge
