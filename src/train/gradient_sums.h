// Gradients of a step: summed over its micro-batches, and over the ranks while the backward pass still runs.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "distributed/ranks.h"
#include "train/adamw.h"
#include "train/ownership.h"

namespace mixwright::train {

class GradientSums {
public:
    /// `buckets` is what share_out() said of `parameters`. On several ranks the parameters are watched until this is destroyed.
    GradientSums(std::vector<Parameter>& parameters, std::vector<Bucket> buckets, const distributed::Ranks& ranks);
    GradientSums(const GradientSums&) = delete;
    GradientSums& operator=(const GradientSums&) = delete;
    ~GradientSums();

    /// Forgets the gradients of the step before.
    void start();
    /// The backward pass of a micro-batch. In the `last` one of a step a bucket sets off as soon as the last of its gradients is complete.
    void backward(const at::Tensor& loss, bool last);
    /// Waits for the sums. They stand in working.grad() of parameters this rank owns; the gradients of the others are gone.
    void finish();
    /// After the update: the new weights of every owner to all. Throws RankLost.
    void hand_out_weights();

private:
    struct Watch;
    struct Leaving {             // a bucket on its way
        std::size_t missing = 0;
        at::Tensor flat;         // f32 on the CPU
        distributed::Transfer transfer;
    };
    void complete(std::size_t parameter);
    void send(std::size_t bucket);
    at::Tensor gradient_of(std::size_t parameter) const;

    std::vector<Parameter>& parameters_;
    const distributed::Ranks& ranks_;
    std::vector<Bucket> buckets_;
    std::vector<std::size_t> bucket_of_;   // of each parameter; buckets_.size(): none
    std::vector<at::Tensor> earlier_;      // of each parameter: the sum of the micro-batches before the last, f32
    std::vector<Leaving> leaving_;         // of each bucket
    std::size_t next_ = 0;                 // buckets leave in order, the same on all ranks
    bool last_ = false;
};

}  // namespace mixwright::train
