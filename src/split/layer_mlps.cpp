#include "split/layer_mlps.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "checkpoint/convert.h"
#include "error.h"

namespace mixwright::split {
namespace {

using checkpoint::TensorBytes;
using checkpoint::TensorInfo;
using checkpoint::TensorSource;

MlpBlock stored_block(const std::shared_ptr<const TensorSource>& tensors, const arch::MlpNames& names, double scale) {
    return {tensors, tensors->at(names.gate), tensors->at(names.up), tensors->at(names.down), scale};
}

std::vector<TensorInfo> block_infos(std::int64_t hidden_size, std::int64_t width, std::string_view prefix) {
    return {{fmt::format("{}.down", prefix), Dtype::f32, {hidden_size, width}},
            {fmt::format("{}.gate", prefix), Dtype::f32, {width, hidden_size}},
            {fmt::format("{}.up", prefix), Dtype::f32, {width, hidden_size}}};
}

MlpBlock block_of(const std::shared_ptr<const TensorSource>& source, std::string_view prefix) {
    return {source, source->at(fmt::format("{}.gate", prefix)), source->at(fmt::format("{}.up", prefix)), source->at(fmt::format("{}.down", prefix))};
}

class Zeros final : public TensorSource {
public:
    Zeros(std::int64_t hidden_size, std::int64_t width) : infos_(block_infos(hidden_size, width, "zeros")) {}

    const std::vector<TensorInfo>& tensors() const override { return infos_; }
    std::string where(const TensorInfo&) const override { return "zeros"; }
    TensorBytes bytes(const TensorInfo& info) const override {
        auto buffer = std::make_shared<std::vector<std::byte>>(info.num_bytes());
        return {{buffer->data(), buffer->size()}, buffer, false};
    }

private:
    std::vector<TensorInfo> infos_;
};

class Computed final : public TensorSource {
public:
    Computed(std::int64_t num_layers, std::int64_t hidden_size, std::int64_t width, std::string identity,
             std::function<MlpTensors(std::int64_t)> compute)
        : identity_(std::move(identity)), compute_(std::move(compute)) {
        for (std::int64_t layer = 0; layer < num_layers; ++layer)
            for (TensorInfo& info : block_infos(hidden_size, width, std::to_string(layer))) infos_.push_back(std::move(info));
        std::ranges::sort(infos_, {}, &TensorInfo::name);
    }

    const std::vector<TensorInfo>& tensors() const override { return infos_; }
    std::string where(const TensorInfo&) const override { return identity_; }

    TensorBytes bytes(const TensorInfo& info) const override {
        std::int64_t layer = -1;
        std::from_chars(info.name.data(), info.name.data() + info.name.size(), layer);
        if (layer != held_layer_) {
            held_ = {};
            held_ = compute_(layer);
            held_layer_ = layer;
        }
        const at::Tensor& value = info.name.ends_with(".gate") ? held_.gate : info.name.ends_with(".up") ? held_.up : held_.down;
        auto owner = std::make_shared<at::Tensor>(value.to(at::kCPU, at::kFloat).contiguous());
        if (owner->sizes() != at::IntArrayRef(info.shape))
            throw Error(ErrorCode::internal, fmt::format("computed tensor {} is not of the planned shape", info.name));
        const auto* data = static_cast<const std::byte*>(owner->const_data_ptr());
        return {{data, static_cast<std::size_t>(info.num_bytes())}, owner, false};
    }

private:
    std::string identity_;
    std::function<MlpTensors(std::int64_t)> compute_;
    std::vector<TensorInfo> infos_;
    mutable std::int64_t held_layer_ = -1;  // the writer reads from one thread
    mutable MlpTensors held_;
};

at::Tensor load_f32(const TensorSource& source, const TensorInfo& info) {
    const TensorBytes stored = source.bytes(info);
    at::Tensor values = at::empty(info.shape, at::kFloat);
    checkpoint::to_float(stored.bytes, info.dtype, {values.mutable_data_ptr<float>(), static_cast<std::size_t>(values.numel())});
    source.drop(info);
    return values;
}

}  // namespace

std::int64_t width_of(const LayerMlp& mlp) {
    std::int64_t width = 0;
    for (const MlpBlock& block : mlp) width += block.width();
    return width;
}

MlpBlock expert_block(const arch::OpenModel& moe, std::int64_t layer, std::int64_t expert, double scale) {
    return stored_block(arch::expert_tensors(moe, layer, expert), arch::expert_names(*moe.spec.architecture, layer, expert), scale);
}

MlpBlock shared_block(const arch::OpenModel& moe, std::int64_t layer, double scale) {
    return stored_block(moe.tensors, arch::shared_expert_names(*moe.spec.architecture, layer), scale);
}

MlpBlock dense_block(const arch::OpenModel& moe, std::int64_t layer) { return stored_block(moe.tensors, arch::dense_mlp_names(layer), 1.0); }

MlpBlock zero_block(std::int64_t hidden_size, std::int64_t width) { return block_of(std::make_shared<Zeros>(hidden_size, width), "zeros"); }

MlpTensors load_block(const MlpBlock& block) {
    MlpTensors tensors{load_f32(*block.source, block.gate), load_f32(*block.source, block.up), load_f32(*block.source, block.down)};
    if (block.down_scale != 1.0) tensors.down.mul_(block.down_scale);
    return tensors;
}

std::vector<MlpBlock> computed_blocks(std::int64_t num_layers, std::int64_t hidden_size, std::int64_t width, std::string identity,
                                      std::function<MlpTensors(std::int64_t)> compute) {
    const auto source = std::make_shared<Computed>(num_layers, hidden_size, width, std::move(identity), std::move(compute));
    std::vector<MlpBlock> blocks;
    for (std::int64_t layer = 0; layer < num_layers; ++layer) blocks.push_back(block_of(source, std::to_string(layer)));
    return blocks;
}

}  // namespace mixwright::split
