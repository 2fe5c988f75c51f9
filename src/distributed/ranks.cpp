#define USE_C10D_GLOO
#include "distributed/ranks.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <charconv>
#include <cstdlib>
#include <numeric>
#include <string_view>

namespace mixwright::distributed {
namespace {

constexpr std::chrono::minutes patience{10};  // a rank may save or evaluate while the others wait

std::int64_t number_of(const char* name, std::int64_t low, std::int64_t high) {
    const char* text = std::getenv(name);
    if (text == nullptr) throw Error(ErrorCode::usage, fmt::format("{} is not set beside WORLD_SIZE", name), "start the ranks by torchrun --no-python");
    const std::string_view view(text);
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(view.begin(), view.end(), value);
    if (error != std::errc{} || end != view.end() || value < low || value > high)
        throw Error(ErrorCode::usage, fmt::format("{}: got \"{}\", expected a number from {} to {}", name, printable(view), low, high));
    return value;
}

// Runs what talks to other ranks. Of what c10d says when it fails, the first line; the rest is a stack.
template <class Work>
auto talking(const Work& work) {
    try {
        return work();
    } catch (const std::exception& cause) {
        const std::string_view what = cause.what();
        throw RankLost(ErrorCode::failed, fmt::format("another rank is gone: {}", printable(what.substr(0, what.find('\n')))),
                       "start all ranks again; where the verb has --resume, it goes on from the last save");
    }
}

}  // namespace

struct Transfer::Work {
    c10::intrusive_ptr<c10d::Work> work;
};

void Transfer::wait() {
    if (work_) talking([&] { work_->work->wait(); });
    work_.reset();
}

struct Team::Group {
    c10::intrusive_ptr<c10d::ProcessGroupGloo> gloo;

    // start(tensors) begins a collective on the one tensor of the list.
    template <class Start>
    static Transfer begin(const at::Tensor& tensor, const Start& start) {
        return talking([&] {
            std::vector<at::Tensor> tensors{tensor};
            return Transfer(std::make_shared<Transfer::Work>(start(tensors)));
        });
    }
};

Transfer Team::sum(const at::Tensor& tensor) const {
    if (!group_) return {};
    return Group::begin(tensor, [&](std::vector<at::Tensor>& tensors) { return group_->gloo->allreduce(tensors); });
}

Transfer Team::sum_at(std::int64_t root, const at::Tensor& tensor) const {
    if (!group_) return {};
    c10d::ReduceOptions options;
    options.rootRank = root;
    return Group::begin(tensor, [&](std::vector<at::Tensor>& tensors) { return group_->gloo->reduce(tensors, options); });
}

Transfer Team::spread_from(std::int64_t root, const at::Tensor& tensor) const {
    if (!group_) return {};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    return Group::begin(tensor, [&](std::vector<at::Tensor>& tensors) { return group_->gloo->broadcast(tensors, options); });
}

Transfer Team::send(std::int64_t to, const at::Tensor& tensor) const {
    if (!group_) return {};
    return Group::begin(tensor, [&](std::vector<at::Tensor>& tensors) { return group_->gloo->send(tensors, static_cast<int>(to), 0); });
}

Transfer Team::receive(std::int64_t from, const at::Tensor& tensor) const {
    if (!group_) return {};
    return Group::begin(tensor, [&](std::vector<at::Tensor>& tensors) { return group_->gloo->recv(tensors, static_cast<int>(from), 0); });
}

at::Tensor Team::exchange(const at::Tensor& rows, const std::vector<std::int64_t>& send, const std::vector<std::int64_t>& receive) const {
    if (!group_) return rows;
    at::Tensor in = rows.to(at::kCPU).contiguous();
    at::Tensor out = at::empty({std::accumulate(receive.begin(), receive.end(), std::int64_t{0}), rows.size(1)}, in.options());
    std::vector<std::int64_t> incoming = receive, outgoing = send;
    talking([&] { group_->gloo->alltoall_base(out, in, incoming, outgoing)->wait(); });
    return out.to(rows.device());
}

Ranks Ranks::from_environment(std::int64_t expert_parallel) {
    Ranks ranks;
    if (std::getenv("WORLD_SIZE") == nullptr) return ranks;
    const std::int64_t size = number_of("WORLD_SIZE", 1, 65'536), rank = number_of("RANK", 0, size - 1);
    if (size == 1) return ranks;
    if (size % expert_parallel != 0)
        throw Error(ErrorCode::usage, fmt::format("expert_parallel: {} ranks do not divide into groups of {}", size, expert_parallel),
                    "start a multiple of `expert_parallel` ranks, or one");
    const char* address = std::getenv("MASTER_ADDR");
    if (address == nullptr) throw Error(ErrorCode::usage, "MASTER_ADDR is not set beside WORLD_SIZE", "start the ranks by torchrun --no-python");
    c10d::TCPStoreOptions options;
    options.port = static_cast<std::uint16_t>(number_of("MASTER_PORT", 1, 65'535));
    // torchrun keeps a store of its own on that port, and says so.
    const char* agent = std::getenv("TORCHELASTIC_USE_AGENT_STORE");
    options.isServer = rank == 0 && !(agent != nullptr && std::string_view(agent) == "True");
    options.numWorkers = static_cast<std::size_t>(size);
    options.timeout = patience;
    talking([&] {
        const auto store = c10::make_intrusive<c10d::TCPStore>(address, options);
        const auto team = [&](const std::string& name, std::int64_t index, std::int64_t members) {
            if (members == 1) return Team();
            auto gloo = c10d::ProcessGroupGloo::Options::create(patience);
            gloo->devices.push_back(c10d::ProcessGroupGloo::createDefaultDevice());
            auto group = std::make_shared<Team::Group>();
            group->gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(c10::make_intrusive<c10d::PrefixStore>(name, store), static_cast<int>(index), static_cast<int>(members), gloo);
            return Team(std::move(group), index, members);
        };
        const std::int64_t share = rank % expert_parallel, replica = rank / expert_parallel;
        ranks.everyone_ = team("everyone", rank, size);
        ranks.gradients_ = team("gradients", rank, size);
        ranks.experts_ = team(fmt::format("experts/{}", replica), share, expert_parallel);
        ranks.replicas_ = team(fmt::format("replicas/{}", share), replica, size / expert_parallel);
    });
    return ranks;
}

std::vector<double> Ranks::sum(std::vector<double> values) const {
    if (size() == 1 || values.empty()) return values;
    const at::Tensor tensor = at::tensor(values, at::kDouble);
    everyone_.sum(tensor).wait();
    const auto* data = tensor.const_data_ptr<double>();
    return {data, data + tensor.numel()};
}

}  // namespace mixwright::distributed
