// The processes that work on one model together, as torchrun starts them. One process on its own is a group of one.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "error.h"
#include "ops/expert_exchange.h"

namespace mixwright::distributed {

/// Another rank is gone, and with it its part of the state: nothing can be saved any more.
class RankLost final : public Error {
public:
    using Error::Error;
};

/// A transfer under way; its tensor must be left alone until wait() returns.
class Transfer {
public:
    struct Work;
    Transfer() = default;
    explicit Transfer(std::shared_ptr<Work> work) : work_(std::move(work)) {}
    /// Throws RankLost.
    void wait();

private:
    std::shared_ptr<Work> work_;   // null: nothing to wait for
};

/// Ranks that exchange tensors among themselves. All members make the same calls in the same order; each may throw RankLost.
/// Tensors are contiguous and on the CPU. A team of one has nobody to talk to, and every call does nothing.
class Team final : public ops::RowExchange {
public:
    struct Group;
    Team() = default;
    Team(std::shared_ptr<Group> group, std::int64_t index, std::int64_t size) : group_(std::move(group)), index_(index), size_(size) {}

    std::int64_t index() const noexcept { return index_; }
    std::int64_t size() const override { return size_; }

    /// Replaces `tensor` by its sum over the members, the same bits on each.
    Transfer sum(const at::Tensor& tensor) const;
    /// The same, for member `root` alone; what the others are left with says nothing.
    Transfer sum_at(std::int64_t root, const at::Tensor& tensor) const;
    /// Replaces `tensor` by that of member `root`.
    Transfer spread_from(std::int64_t root, const at::Tensor& tensor) const;
    Transfer send(std::int64_t to, const at::Tensor& tensor) const;
    Transfer receive(std::int64_t from, const at::Tensor& tensor) const;
    /// On any device.
    at::Tensor exchange(const at::Tensor& rows, const std::vector<std::int64_t>& send, const std::vector<std::int64_t>& receive) const override;

private:
    std::shared_ptr<Group> group_;
    std::int64_t index_ = 0, size_ = 1;
};

class Ranks {
public:
    /// A group of one.
    Ranks() = default;
    /// The group that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT of the environment describe (torchrun sets them); without
    /// them, or with a world of one, a group of one. Experts are divided among `expert_parallel` neighbouring ranks, which must
    /// divide the world; a group of one keeps them all. Error(usage), or RankLost when the others cannot be reached.
    static Ranks from_environment(std::int64_t expert_parallel = 1);

    std::int64_t rank() const noexcept { return everyone_.index(); }
    std::int64_t size() const noexcept { return everyone_.size(); }
    bool leads() const noexcept { return rank() == 0; }

    const Team& everyone() const noexcept { return everyone_; }
    /// Everyone again, on connections of their own: what the backward pass sends does not meet what the forward pass sends.
    const Team& gradients() const noexcept { return gradients_; }
    /// Those that have the experts of a layer between them, each its share.
    const Team& experts() const noexcept { return experts_; }
    /// Those that have the same share of the experts.
    const Team& replicas() const noexcept { return replicas_; }
    bool divides_experts() const noexcept { return experts_.size() > 1; }
    /// The rank that is member `replica` of the team of share `share` of the experts.
    std::int64_t rank_of(std::int64_t replica, std::int64_t share) const noexcept { return replica * experts_.size() + share; }

    /// The sum over all ranks of each of `values`, the same bits on every rank.
    std::vector<double> sum(std::vector<double> values) const;

private:
    Team everyone_, gradients_, experts_, replicas_;
};

}  // namespace mixwright::distributed
