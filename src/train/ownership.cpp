#include "train/ownership.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <numeric>

namespace mixwright::train {
namespace {

constexpr std::int64_t largest_bucket = 4 << 20, smallest_bucket = 64 << 10;  // elements
constexpr std::array<PartOfParameter, 3> parts{&Parameter::master, &Parameter::mean, &Parameter::variance};

// What the leading rank asks the others for: a part of a parameter, or nothing more.
struct Request {
    std::int64_t parameter = -1, part = 0;
};

Request agree(const distributed::Ranks& ranks, Request request) {
    at::Tensor message = at::tensor({request.parameter, request.part}, at::kLong);
    ranks.everyone().spread_from(0, message).wait();
    const auto* data = message.const_data_ptr<std::int64_t>();
    return {data[0], data[1]};
}

// The rank that owns share `share` of the parameter.
std::int64_t owner_of(const Parameter& p, std::int64_t share, const distributed::Ranks& ranks) { return p.divided ? ranks.rank_of(p.owner, share) : p.owner; }

at::Tensor on_host(const at::Tensor& tensor) { return tensor.detach().to(at::kCPU).contiguous(); }

at::Tensor collect(const Parameter& p, PartOfParameter part, const distributed::Ranks& ranks) {
    std::vector<at::Tensor> shares;
    for (std::int64_t share = 0; share < (p.divided ? ranks.experts().size() : 1); ++share) {
        const std::int64_t owner = owner_of(p, share, ranks);
        if (owner == ranks.rank()) {
            shares.push_back(on_host(p.*part));
        } else {
            shares.push_back(at::empty(p.working.sizes(), at::kFloat));
            ranks.everyone().receive(owner, shares.back()).wait();
        }
    }
    return shares.size() == 1 ? shares.front() : at::cat(shares, 0);
}

// Hands over what this rank owns until nothing more is asked for.
void serve(const std::vector<Parameter>& parameters, const distributed::Ranks& ranks) {
    while (true) {
        const Request request = agree(ranks, {});
        if (request.parameter < 0) return;
        const Parameter& p = parameters[static_cast<std::size_t>(request.parameter)];
        if (owner_of(p, p.divided ? ranks.experts().index() : 0, ranks) == ranks.rank())
            ranks.everyone().send(0, on_host(p.*parts[static_cast<std::size_t>(request.part)])).wait();
    }
}

}  // namespace

std::vector<Bucket> share_out(std::vector<Parameter>& parameters, const distributed::Ranks& ranks) {
    std::vector<Bucket> buckets;
    if (ranks.size() == 1) return buckets;
    std::int64_t total = 0;
    for (const Parameter& p : parameters) total += p.working.numel();
    const std::int64_t limit = std::clamp(total / (4 * ranks.size()), smallest_bucket, largest_bucket);
    for (std::size_t i = parameters.size(); i-- > 0;) {
        const Parameter& p = parameters[i];
        if (!p.by_gradient() || (p.divided && ranks.replicas().size() == 1)) continue;
        const auto same_team = std::ranges::find_if(buckets.rbegin(), buckets.rend(), [&](const Bucket& b) { return b.divided == p.divided; });
        Bucket* bucket = same_team == buckets.rend() || same_team->elements >= limit ? &buckets.emplace_back(Bucket{.divided = p.divided}) : &*same_team;
        bucket->parameters.push_back(i);
        bucket->elements += p.working.numel();
    }
    // The fullest buckets first, each to whoever has least.
    std::vector<std::size_t> order(buckets.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::ranges::stable_sort(order, std::ranges::greater(), [&](std::size_t b) { return buckets[b].elements; });
    std::array<std::vector<std::int64_t>, 2> kept{std::vector<std::int64_t>(static_cast<std::size_t>(ranks.size())), std::vector<std::int64_t>(static_cast<std::size_t>(ranks.replicas().size()))};
    for (const std::size_t b : order) {
        const auto least = std::ranges::min_element(kept[buckets[b].divided ? 1 : 0]);
        *least += buckets[b].elements;
        buckets[b].owner = least - kept[buckets[b].divided ? 1 : 0].begin();
        for (const std::size_t i : buckets[b].parameters) {
            Parameter& p = parameters[i];
            p.owner = buckets[b].owner;
            if (p.owner == buckets[b].team(ranks).index()) continue;
            p.mean.reset();
            p.variance.reset();
            p.master = p.working.is_same(p.master) ? p.master : at::Tensor();
        }
    }
    return buckets;
}

void with_whole_tensors(const std::vector<Parameter>& parameters, const distributed::Ranks& ranks, const std::function<void(const WholeTensor& whole)>& work) {
    if (ranks.size() == 1) return work([](const Parameter& p, PartOfParameter part) { return on_host(p.*part); });
    if (!ranks.leads()) return serve(parameters, ranks);
    const auto whole = [&](const Parameter& p, PartOfParameter part) {
        const auto kind = std::ranges::find(parts, part) - parts.begin();
        agree(ranks, {&p - parameters.data(), kind});
        return collect(p, part, ranks);
    };
    try {
        work(whole);
    } catch (const distributed::RankLost&) {
        throw;
    } catch (...) {
        agree(ranks, {});  // the others need not wait for what went wrong here
        throw;
    }
    agree(ranks, {});
}

}  // namespace mixwright::train
