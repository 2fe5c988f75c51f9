#include "ops/expert_exchange.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <array>
#include <barrier>
#include <thread>

#include "ops/gradient_check.h"
#include "ops/grouped_experts.h"

namespace mixwright::ops {
namespace {

constexpr std::int64_t model = 6, width = 4, num_experts = 6, top_k = 2;

// Threads in place of processes: each leaves what it sends on a table.
struct Table {
    explicit Table(std::int64_t size) : meeting(size), left(static_cast<std::size_t>(size)) {}
    std::barrier<> meeting;
    std::vector<std::vector<at::Tensor>> left;   // [from][to]
};

class Seat final : public RowExchange {
public:
    Seat(Table& table, std::int64_t index) : table_(table), index_(static_cast<std::size_t>(index)) {}
    std::int64_t size() const override { return static_cast<std::int64_t>(table_.left.size()); }
    at::Tensor exchange(const at::Tensor& rows, const std::vector<std::int64_t>& send, const std::vector<std::int64_t>& receive) const override {
        table_.left[index_] = rows.detach().split_with_sizes(send);
        table_.meeting.arrive_and_wait();
        std::vector<at::Tensor> arrived;
        for (std::size_t from = 0; from < receive.size(); ++from) {
            arrived.push_back(table_.left[from][index_].clone());
            EXPECT_EQ(arrived.back().size(0), receive[from]);
        }
        table_.meeting.arrive_and_wait();
        return at::cat(arrived);
    }

private:
    Table& table_;
    std::size_t index_;
};

TEST(ExpertExchange, gradients_equal_finite_differences) {
    at::manual_seed(7);
    Table table(1);
    const Seat alone(table, 0);
    const at::Tensor chosen = at::stack({at::arange(9) % 3, at::arange(9) % 2 + 3}, 1);
    expect_gradients_match({at::randn({9, model}, at::kDouble), at::rand({9, top_k}, at::kDouble), at::randn({num_experts, 2 * width, model}, at::kDouble), at::randn({num_experts, model, width}, at::kDouble)},
                           [&](const std::vector<at::Tensor>& in) { return exchanged_experts(in[0], {.weights = in[1], .experts = chosen}, {in[2], in[3]}, alone); });
}

// Each of three has two of the experts and tokens of its own; the last gets no token at all.
TEST(ExpertExchange, three_processes_compute_what_one_does) {
    at::manual_seed(8);
    constexpr std::int64_t size = 3, own = num_experts / size, tokens = 5;
    const ExpertStack experts{at::randn({num_experts, 2 * width, model}).requires_grad_(true), at::randn({num_experts, model, width}).requires_grad_(true)};
    const at::Tensor x = at::randn({size * tokens, model}), weights = at::rand({size * tokens, top_k}), direction = at::randn({size * tokens, model});
    const at::Tensor chosen = at::stack({at::arange(size * tokens) % 3, at::full({size * tokens}, 3, at::kLong)}, 1);

    const at::Tensor all_x = x.clone().requires_grad_(true), all_weights = weights.clone().requires_grad_(true);
    const at::Tensor expected = grouped_experts(all_x, {.weights = all_weights, .experts = chosen}, experts);
    (expected * direction).sum().backward();

    struct Result {
        at::Tensor y, x, weights, gate_up, down;
    };
    std::array<Result, size> results;
    Table table(size);
    std::vector<std::thread> threads;
    for (std::int64_t p = 0; p < size; ++p)
        threads.emplace_back([&, p] {
            const Seat seat(table, p);
            Result& r = results[static_cast<std::size_t>(p)];
            r.x = x.narrow(0, p * tokens, tokens).clone().requires_grad_(true);
            r.weights = weights.narrow(0, p * tokens, tokens).clone().requires_grad_(true);
            r.gate_up = experts.gate_up.detach().narrow(0, p * own, own).clone().requires_grad_(true);
            r.down = experts.down.detach().narrow(0, p * own, own).clone().requires_grad_(true);
            r.y = grouped_experts(r.x, {.weights = r.weights, .experts = chosen.narrow(0, p * tokens, tokens)}, {r.gate_up, r.down, &seat});
            (r.y * direction.narrow(0, p * tokens, tokens)).sum().backward();
        });
    for (std::thread& thread : threads) thread.join();
    const auto expect_equal = [&](const char* what, at::Tensor Result::*part, const at::Tensor& whole) {
        std::vector<at::Tensor> parts;
        for (const Result& r : results) parts.push_back(part == &Result::y ? r.y.detach() : (r.*part).grad());
        // Blocks of other heights are summed in another order: a few roundings of the largest number.
        EXPECT_LT((at::cat(parts) - whole).abs().max().item<double>(), 1e-6 * whole.abs().max().item<double>()) << what;
    };
    expect_equal("output", &Result::y, expected.detach());
    expect_equal("gradient of x", &Result::x, all_x.grad());
    expect_equal("gradient of the weights", &Result::weights, all_weights.grad());
    expect_equal("gradient of gate_up", &Result::gate_up, experts.gate_up.grad());
    expect_equal("gradient of down", &Result::down, experts.down.grad());
}

}  // namespace
}  // namespace mixwright::ops
