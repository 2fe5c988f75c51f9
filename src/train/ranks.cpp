#define USE_C10D_GLOO
#include "train/ranks.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <charconv>
#include <cstdlib>
#include <functional>
#include <string_view>

#include "error.h"

namespace mixwright::train {
namespace {

constexpr std::int64_t bucket_elements = 4 << 20;
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

// The first line of what c10d says; the rest is a stack.
[[noreturn]] void lost(const std::exception& cause) {
    const std::string_view what = cause.what();
    throw Error(ErrorCode::failed, fmt::format("another rank is gone: {}", printable(what.substr(0, what.find('\n')))),
                "start all ranks again with --resume: the state of the last save is kept");
}

}  // namespace

struct Ranks::Group {
    c10::intrusive_ptr<c10d::TCPStore> store;
    c10::intrusive_ptr<c10d::ProcessGroupGloo> gloo;

    c10::intrusive_ptr<c10d::Work> start_sum(at::Tensor tensor) const {
        std::vector<at::Tensor> tensors{std::move(tensor)};
        return gloo->allreduce(tensors, {});
    }
};

Ranks::Ranks() = default;
Ranks::Ranks(Ranks&&) noexcept = default;
Ranks& Ranks::operator=(Ranks&&) noexcept = default;
Ranks::~Ranks() = default;

Ranks Ranks::from_environment() {
    Ranks ranks;
    if (std::getenv("WORLD_SIZE") == nullptr) return ranks;
    ranks.size_ = number_of("WORLD_SIZE", 1, 65'536);
    ranks.rank_ = number_of("RANK", 0, ranks.size_ - 1);
    if (ranks.size_ == 1) return ranks;
    const char* address = std::getenv("MASTER_ADDR");
    if (address == nullptr) throw Error(ErrorCode::usage, "MASTER_ADDR is not set beside WORLD_SIZE", "start the ranks by torchrun --no-python");
    try {
        c10d::TCPStoreOptions options;
        options.port = static_cast<std::uint16_t>(number_of("MASTER_PORT", 1, 65'535));
        // torchrun keeps a store of its own on that port, and says so.
        const char* agent = std::getenv("TORCHELASTIC_USE_AGENT_STORE");
        options.isServer = ranks.rank_ == 0 && !(agent != nullptr && std::string_view(agent) == "True");
        options.numWorkers = static_cast<std::size_t>(ranks.size_);
        options.timeout = patience;
        ranks.group_ = std::make_shared<Group>();
        ranks.group_->store = c10::make_intrusive<c10d::TCPStore>(address, options);
        auto gloo = c10d::ProcessGroupGloo::Options::create(patience);
        gloo->devices.push_back(c10d::ProcessGroupGloo::createDefaultDevice());
        ranks.group_->gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(ranks.group_->store, static_cast<int>(ranks.rank_), static_cast<int>(ranks.size_), gloo);
    } catch (const Error&) {
        throw;
    } catch (const std::exception& cause) {
        lost(cause);
    }
    return ranks;
}

std::vector<double> Ranks::sum(std::vector<double> values) const {
    if (!group_) return values;
    const at::Tensor tensor = at::tensor(values, at::kDouble);
    try {
        group_->start_sum(tensor)->wait();
    } catch (const std::exception& cause) {
        lost(cause);
    }
    const auto* data = tensor.const_data_ptr<double>();
    return {data, data + tensor.numel()};
}

void Ranks::sum_gradients(std::vector<Parameter>& parameters) const {
    if (!group_) return;
    struct Bucket {
        std::vector<Parameter*> parameters;
        at::Tensor flat;
        c10::intrusive_ptr<c10d::Work> work;
    };
    const at::NoGradGuard guard;
    std::vector<Bucket> buckets;
    try {
        std::int64_t filled = bucket_elements;
        for (Parameter& p : parameters) {
            if (filled >= bucket_elements) {
                buckets.emplace_back();
                filled = 0;
            }
            buckets.back().parameters.push_back(&p);
            filled += p.master.numel();
        }
        for (Bucket& bucket : buckets) {
            std::vector<at::Tensor> parts;
            for (const Parameter* p : bucket.parameters)
                parts.push_back(p->working.grad().defined() ? p->working.grad().reshape({-1}).to(at::kCPU, at::kFloat) : at::zeros({p->master.numel()}, at::kFloat));
            bucket.flat = at::cat(parts);
            bucket.work = group_->start_sum(bucket.flat);
        }
        for (Bucket& bucket : buckets) {
            bucket.work->wait();
            std::int64_t begin = 0;
            for (Parameter* p : bucket.parameters) {
                const std::int64_t count = p->master.numel();
                p->working.mutable_grad() = bucket.flat.narrow(0, begin, count).view(p->master.sizes()).to(p->working.options().requires_grad(false));
                begin += count;
            }
        }
    } catch (const std::exception& cause) {
        lost(cause);
    }
}

}  // namespace mixwright::train
