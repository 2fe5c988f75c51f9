#include "train/teacher.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "ops/gradient_check.h"

namespace mixwright::train {
namespace {

TEST(StreamError, gradients_equal_finite_differences) {
    at::manual_seed(3);
    const auto stream = [] { return at::randn({2, 3, 4}, at::kDouble); };
    const std::vector<at::Tensor> teacher{stream(), stream()};
    ops::expect_gradients_match({stream(), stream()}, [&](const std::vector<at::Tensor>& student) { return stream_error(student, teacher); });
}

TEST(StreamError, counts_every_token_alike) {
    const at::Tensor teacher = at::tensor({1.0f, 0.0f, 1000.0f, 0.0f}).view({1, 2, 2});
    // One token off by its own length, the other by a tenth of it.
    const at::Tensor student = at::tensor({0.0f, 0.0f, 900.0f, 0.0f}).view({1, 2, 2});
    EXPECT_NEAR(stream_error({student}, {teacher}).item<double>(), 1.01, 1e-6);
    EXPECT_NEAR(stream_error({student, teacher}, {teacher, teacher}).item<double>(), 1.01 / 2, 1e-6);
}

}  // namespace
}  // namespace mixwright::train
