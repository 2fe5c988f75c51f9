// Least squares on streamed data: the best linear map from activations to outputs, pulled towards a prior one. It sees
// activations and targets chunk by chunk, keeps their Gram matrix and cross product alone, and knows nothing of models.
//
// Shape legend: N rows (tokens), n features (neurons), d outputs.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace mixwright::merge {

/// What least squares needs of A [N, n] and Y [N, d]: A^T A, A^T Y and ||Y||^2, in f64.
class NormalEquations {
public:
    NormalEquations(std::int64_t features, std::int64_t outputs);

    /// Adds rows: a [N, n], y [N, d], floating. Weigh a row by scaling both. Error(failed) when they hold NaN or infinity.
    void add(const at::Tensor& a, const at::Tensor& y);
    void add(const NormalEquations& other);

    std::int64_t features() const noexcept { return gram_.size(0); }
    std::int64_t outputs() const noexcept { return cross_.size(1); }
    std::int64_t rows() const noexcept { return rows_; }
    const at::Tensor& gram() const noexcept { return gram_; }    // [n, n] f64
    const at::Tensor& cross() const noexcept { return cross_; }  // [n, d] f64
    double energy() const noexcept { return energy_; }           // ||Y||^2

    /// ||Y - A x||^2 for x [n, d], without the data.
    double squared_error(const at::Tensor& x) const;
    /// The same as a share of ||Y||^2; 0 without any output.
    double relative_error(const at::Tensor& x) const;
    /// ||Y||^2 less that: the larger, the better the map.
    double explained(const at::Tensor& x) const;

    /// The equations of some of the features.
    NormalEquations of(std::span<const std::int64_t> features) const;
    /// The equations of outputs Y M, M [d, m]. Their energy is not known: explained() alone says how good a map is.
    NormalEquations mixed(const at::Tensor& mix) const;
    /// With the term strength * ||X - prior||^2 as if it were more rows. `lambda` is relative to the mean diagonal of the Gram
    /// matrix; prior [n, d], zero when undefined. A Gram matrix of zeros leaves the prior as the only thing known.
    NormalEquations pulled_to(const at::Tensor& prior, double lambda) const&;
    NormalEquations pulled_to(const at::Tensor& prior, double lambda) &&;  // in the same memory

private:
    at::Tensor gram_, cross_;
    double energy_ = 0;
    std::int64_t rows_ = 0;
};

/// x [n, d] f64 with the least ||Y - A x||^2. A singular system gets the least jitter that Cholesky gets through with.
at::Tensor solve(const NormalEquations& equations);

/// The factor L of a + jitter I = L L^T, a [n, n] f64 symmetric. Error(failed) when it stays indefinite.
at::Tensor jittered_cholesky(const at::Tensor& a);

struct RidgeFit {
    at::Tensor solution;        // [n, d] f64
    double lambda = 0;          // chosen; infinite when the prior itself was best
    double error = 0;           // relative, on the rows it was fitted to
    double held_out_error = 0;  // relative, of the fit that had not seen them; NaN without held-out rows
};

/// Strengths of the pull that are worth a try, the strongest first.
std::span<const double> ridge_strengths();
struct RidgeSearch {
    double weakest = 0;  // strengths below are not tried: a pull that keeps the map near what it was where the data hardly tell
    double near = 0;     // where the best one is expected (that of the layer below, say): tried first; 0: no idea
};
/// Calls `better`, which says whether a strength does better than all before it. Away from the prior an error on held-out rows falls, then
/// rises: from the strongest down until two in a row do no better, or from `near` on in the direction that does better while it does.
void try_ridges(const RidgeSearch& search, const std::function<bool(double lambda)>& better);

enum class HeldOut {
    join,  // once the ridge is chosen, held-out rows are fitted to as well: the best map
    stay   // they stay unseen, so that an error measured on them means something
};

/// Fits on `fit` and keeps the ridge that does best on `held_out` (the prior itself is a candidate).
/// On the rows it was fitted to the result is never worse than `prior` [n, d] (zeros when undefined), whatever the ridge.
RidgeFit fit_ridge(const NormalEquations& fit, const NormalEquations& held_out, const at::Tensor& prior = {}, HeldOut then = HeldOut::join,
                   const RidgeSearch& search = {});

}  // namespace mixwright::merge
