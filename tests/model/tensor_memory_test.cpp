#include "model/tensor_memory.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace mixwright::model {
namespace {

TEST(TensorMemory, HoldsTensorsApart) {
    TensorMemory memory;
    std::vector<at::Tensor> tensors;
    // Small ones, some that fill blocks, and one larger than a block.
    for (const std::int64_t count : {1, 3, 1000, 5 << 20, 5 << 20, 5 << 20, 20 << 20, 7, 0}) tensors.push_back(memory.empty({count, 1}, at::kFloat).fill_(static_cast<double>(tensors.size())));
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        EXPECT_TRUE(tensors[i].eq(static_cast<double>(i)).all().item<bool>()) << i;
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensors[i].data_ptr()) % 64, 0u) << i;
    }
}

TEST(TensorMemory, LivesAsLongAsItsTensors) {
    at::Tensor kept;
    {
        TensorMemory memory;
        kept = memory.empty({4}, at::kLong).fill_(7);
        memory.empty({4}, at::kLong).fill_(8);
    }
    EXPECT_TRUE(kept.view({2, 2}).select(0, 1).eq(7).all().item<bool>());
}

}  // namespace
}  // namespace mixwright::model
