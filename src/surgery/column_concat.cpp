#include "surgery/column_concat.h"

#include <algorithm>
#include <cstring>

#include "checkpoint/convert.h"

namespace mixwright::surgery {
namespace {

using checkpoint::TensorBytes;
using checkpoint::TensorInfo;

class ColumnConcat final : public checkpoint::TensorSource {
public:
    ColumnConcat(std::string name, std::vector<ColumnBlock> blocks) : blocks_(std::move(blocks)) {
        const Dtype first = blocks_[0].tensor.dtype;
        const bool plain = std::ranges::all_of(blocks_, [&](const ColumnBlock& b) { return b.tensor.dtype == first && b.scale == 1.0; });
        std::int64_t columns = 0;
        for (const ColumnBlock& block : blocks_) columns += block.tensor.shape[1];
        infos_.push_back({std::move(name), plain ? first : Dtype::f32, {blocks_[0].tensor.shape[0], columns}});
    }

    const std::vector<TensorInfo>& tensors() const override { return infos_; }
    std::string where(const TensorInfo&) const override { return blocks_[0].source->where(blocks_[0].tensor); }
    void drop(const TensorInfo&) const override {
        for (const ColumnBlock& block : blocks_) block.source->drop(block.tensor);
    }

    TensorBytes bytes(const TensorInfo& info) const override {
        auto joined = std::make_shared<std::vector<std::byte>>(info.num_bytes());
        const auto rows = static_cast<std::size_t>(info.shape[0]);
        const std::size_t row_bytes = joined->size() / rows;
        std::size_t column = 0;
        for (const ColumnBlock& block : blocks_) {
            const std::vector<std::byte> values = converted(block, info.dtype);
            const std::size_t block_bytes = values.size() / rows;
            for (std::size_t row = 0; row < rows; ++row)
                std::memcpy(joined->data() + row * row_bytes + column, values.data() + row * block_bytes, block_bytes);
            column += block_bytes;
        }
        return {{joined->data(), joined->size()}, joined, false};
    }

private:
    static std::vector<std::byte> converted(const ColumnBlock& block, Dtype dtype) {
        const TensorBytes stored = block.source->bytes(block.tensor);
        std::vector<std::byte> values(static_cast<std::size_t>(block.tensor.numel()) * dtype_bytes(dtype));
        checkpoint::convert(stored.bytes, block.tensor.dtype, values, dtype);
        if (block.scale != 1.0) {
            // A scaled block is f32: see the constructor.
            auto* floats = reinterpret_cast<float*>(values.data());
            const auto scale = static_cast<float>(block.scale);
            for (std::int64_t i = 0; i < block.tensor.numel(); ++i) floats[i] *= scale;
        }
        return values;
    }

    std::vector<ColumnBlock> blocks_;
    std::vector<TensorInfo> infos_;
};

}  // namespace

std::shared_ptr<const checkpoint::TensorSource> concat_columns(std::string name, std::vector<ColumnBlock> blocks) {
    return std::make_shared<ColumnConcat>(std::move(name), std::move(blocks));
}

}  // namespace mixwright::surgery
