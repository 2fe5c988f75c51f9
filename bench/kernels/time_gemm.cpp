// Products of an expert's size on one thread, ours beside libtorch's:
//   cmake --build build/release --target time-gemm && build/release/bin/time-gemm
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "kernels/gemm.h"

namespace {

using namespace mixwright::kernels;

double cpu_seconds() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// The best of several runs of a twentieth of a second of this thread's time, in GFLOPS.
double rate(double flops, const auto& work) {
    double best = 0;
    for (int run = 0; run < 10; ++run) {
        const double start = cpu_seconds();
        double seconds = 0;
        int count = 0;
        for (; seconds < 0.05; ++count) work(), seconds = cpu_seconds() - start;
        best = std::max(best, flops * count / seconds / 1e9);
    }
    return best;
}

Factor factor(const at::Tensor& stored, bool transposed) {
    const bool wide = stored.scalar_type() == at::kFloat;
    return {stored.const_data_ptr(), wide ? Format::f32 : Format::bf16, stored.stride(0), transposed};
}

void compare(const char* what, std::int64_t m, std::int64_t k, std::int64_t n, bool a_transposed, bool b_transposed, at::ScalarType dtype) {
    const auto stored = [&](std::int64_t rows, std::int64_t cols, bool transposed) { return (transposed ? at::randn({cols, rows}) : at::randn({rows, cols})).to(dtype); };
    const at::Tensor a = stored(m, k, a_transposed), b = stored(k, n, b_transposed);
    at::Tensor c = at::empty({m, n}, a.options());
    const double flops = 2.0 * static_cast<double>(m * k * n);
    const double ours = rate(flops, [&] { gemm(factor(a, a_transposed), factor(b, b_transposed), m, k, n, {c.mutable_data_ptr(), dtype == at::kFloat ? Format::f32 : Format::bf16, n}); });
    const at::Tensor a_wide = a.to(at::kFloat), b_wide = b.to(at::kFloat), a_view = a_transposed ? a_wide.t() : a_wide, b_view = b_transposed ? b_wide.t() : b_wide;
    at::Tensor c_wide = at::empty({m, n});
    const double theirs = rate(flops, [&] { at::mm_out(c_wide, a_view, b_view); });
    fmt::print("{:<52} {:>4} {:>4} {:>4} {:>5} {:>8.1f} {:>8.1f} {:>6.2f}\n", what, m, k, n, dtype == at::kFloat ? "f32" : "bf16", ours, theirs, ours / theirs);
}

}  // namespace

int main() {
    at::set_num_threads(1);
    fmt::print("{:<52} {:>4} {:>4} {:>4} {:>5} {:>8} {:>8} {:>6}   (GFLOPS of one thread; libtorch always in f32)\n", "", "m", "k", "n", "", "ours", "libtorch", "ratio");
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
        for (const std::int64_t rows : {66, 198, 1024}) {
            compare("gate and up: x W^T", rows, 256, 256, false, true, dtype);
            compare("down's input gradient: dY W", rows, 256, 128, false, false, dtype);
            compare("a weight gradient: dY^T x", 256, rows, 256, true, false, dtype);
        }
    compare("SmolLM2: x W^T", 1024, 576, 1536, false, true, at::kBFloat16);
    compare("SmolLM2: dY W", 1024, 1536, 576, false, false, at::kBFloat16);
    compare("SmolLM2: dY^T x", 1536, 1024, 576, true, false, at::kBFloat16);
}
