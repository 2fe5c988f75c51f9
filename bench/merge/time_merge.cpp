// How long the algorithms of src/merge take at the sizes of real models, in wall-clock and CPU seconds:
//   cmake --build build/release --target time-merge && build/release/bin/time-merge [THREADS]
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <ctime>

#include "merge/neuron_selection.h"
#include "merge/zipit.h"

namespace {

using namespace mixwright::merge;

void timed(const char* what, const auto& work) {
    const auto start = std::chrono::steady_clock::now();
    const std::clock_t cpu = std::clock();
    work();
    fmt::print("{:<64} {:>7.2f} s, {:>7.2f} s of CPU\n", what, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
               static_cast<double>(std::clock() - cpu) / CLOCKS_PER_SEC);
}

// Two experts of 768 neurons in a stream of 2,048, on 16,384 tokens: the shape of Qwen3-30B-A3B.
void pair_refit() {
    constexpr std::int64_t tokens = 16'384, features = 1536, outputs = 2048;
    const at::Tensor basis = at::randn({256, features}), down = at::randn({outputs, features});
    const at::Tensor a = at::mm(at::randn({tokens, 256}), basis) + 4 * at::randn({tokens, features}), y = at::linear(a, down);
    NormalEquations fit(features, outputs), held_out(features, outputs);
    timed("Gram matrix and products of a pair, d = 2048, f = 768, 16,384 tokens", [&] {
        held_out.add(a.narrow(0, 0, 1600), y.narrow(0, 0, 1600));
        fit.add(a.narrow(0, 1600, tokens - 1600), y.narrow(0, 1600, tokens - 1600));
    });
    timed("choice of 768 of its 1,536 neurons, ridge and refit", [&] { select_and_refit(fit, held_out, down, 768); });
}

void matching() {
    const at::Tensor z = at::randn({8192, 2048});
    const at::Tensor similarity = correlation(at::mm(z.t(), z).to(at::kDouble) / 8192.0, z.mean(0).to(at::kDouble));
    timed("ZipIt!'s greedy matching of 2,048 features down to 1,024", [&] { zipit_groups(similarity, 1024, {}); });
}

}  // namespace

int main(int argc, char** argv) {
    at::set_num_threads(argc > 1 ? std::atoi(argv[1]) : 1);
    at::manual_seed(1);
    matching();
    pair_refit();
}
