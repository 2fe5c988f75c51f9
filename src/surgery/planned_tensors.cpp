#include "surgery/planned_tensors.h"

#include <algorithm>
#include <unordered_map>

#include "checkpoint/convert.h"
#include "error.h"

namespace mixwright::surgery {
namespace {

using checkpoint::OutputTensor;
using checkpoint::Piece;
using checkpoint::TensorBytes;
using checkpoint::TensorInfo;

class PlannedTensors final : public checkpoint::TensorSource {
public:
    explicit PlannedTensors(const std::vector<OutputTensor>& tensors) {
        for (const OutputTensor& tensor : tensors) {
            infos_.push_back(tensor.info);
            by_name_.emplace(tensor.info.name, tensor);
        }
        std::ranges::sort(infos_, {}, &TensorInfo::name);
    }

    const std::vector<TensorInfo>& tensors() const override { return infos_; }
    std::string where(const TensorInfo&) const override { return "the plan"; }

    TensorBytes bytes(const TensorInfo& info) const override {
        const OutputTensor& tensor = by_name_.at(info.name);
        auto buffer = std::make_shared<std::vector<std::byte>>();
        if (const auto* pieces = std::get_if<checkpoint::Pieces>(&tensor.content)) {
            buffer->reserve(info.num_bytes());
            for (const Piece& piece : *pieces) append(piece, info.dtype, *buffer);
        } else if (const auto* owned = std::get_if<checkpoint::OwnedBytes>(&tensor.content)) {
            *buffer = *owned;
        } else {
            throw Error(ErrorCode::internal, info.name + ": a generated tensor cannot be read from the plan");
        }
        return {{buffer->data(), buffer->size()}, buffer, false};
    }

private:
    static void append(const Piece& piece, Dtype dtype, std::vector<std::byte>& out) {
        const TensorBytes stored = piece.source->bytes(piece.tensor);
        std::vector<float> values(static_cast<std::size_t>(piece.tensor.numel()));
        checkpoint::to_float(stored.bytes, piece.tensor.dtype, values);
        for (float& value : values) value *= static_cast<float>(piece.scale);
        const std::size_t start = out.size();
        out.resize(start + values.size() * dtype_bytes(dtype));
        checkpoint::from_float(values, std::span(out).subspan(start), dtype);
    }

    std::vector<TensorInfo> infos_;
    std::unordered_map<std::string, OutputTensor> by_name_;
};

}  // namespace

arch::OpenModel open_plan(const checkpoint::OutputPlan& plan, std::string name) {
    return arch::open_model(checkpoint::Checkpoint{.name = std::move(name),
                                                   .config = io::parse_json(plan.config, "config.json of the plan"),
                                                   .tensors = std::make_shared<PlannedTensors>(plan.tensors)});
}

}  // namespace mixwright::surgery
