// The processes that train one model together, as torchrun starts them. One process on its own is a group of one.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "train/adamw.h"

namespace mixwright::train {

class Ranks {
public:
    /// The group that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT of the environment describe (torchrun sets them); without
    /// them, or with a world of one, a group of one. Error(failed) when the others cannot be reached.
    static Ranks from_environment();
    /// A group of one.
    Ranks();
    Ranks(Ranks&&) noexcept;
    Ranks& operator=(Ranks&&) noexcept;
    ~Ranks();

    std::int64_t rank() const noexcept { return rank_; }
    std::int64_t size() const noexcept { return size_; }
    bool leads() const noexcept { return rank_ == 0; }

    /// The sum over all ranks of each of `values`, the same bits on every rank. Error(failed) when a rank is gone.
    std::vector<double> sum(std::vector<double> values) const;
    /// Replaces the gradients of `parameters` by their sums over all ranks, in buckets of some megabytes that travel while the
    /// next are packed. A parameter without gradient on one rank counts as zero there.
    void sum_gradients(std::vector<Parameter>& parameters) const;

private:
    struct Group;
    std::shared_ptr<Group> group_;   // null for a group of one
    std::int64_t rank_ = 0, size_ = 1;
};

}  // namespace mixwright::train
