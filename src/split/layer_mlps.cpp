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

MlpBlock stored_block(const std::shared_ptr<const TensorSource>& tensors, const arch::MlpNames& names) {
    MlpBlock block{tensors, tensors->at(names.gate), tensors->at(names.up), tensors->at(names.down)};
    if (const TensorInfo* down = tensors->find(arch::sibling(names.down, "bias")))
        block.biases = BlockBiases{tensors->at(arch::sibling(names.gate, "bias")), tensors->at(arch::sibling(names.up, "bias")), *down};
    return block;
}

// A tensor of a made MLP: what it is called behind the prefix, its shape, and its value among an MLP's.
struct Part {
    std::string_view name;
    std::vector<std::int64_t> shape;
    at::Tensor MlpTensors::*value;
};

std::vector<Part> parts_of(std::int64_t hidden_size, std::int64_t width, bool biased) {
    std::vector<Part> parts{{"gate", {width, hidden_size}, &MlpTensors::gate}, {"up", {width, hidden_size}, &MlpTensors::up}, {"down", {hidden_size, width}, &MlpTensors::down}};
    if (biased) {
        parts.push_back({"gate_bias", {width}, &MlpTensors::gate_bias});
        parts.push_back({"up_bias", {width}, &MlpTensors::up_bias});
        parts.push_back({"down_bias", {hidden_size}, &MlpTensors::down_bias});
    }
    return parts;
}

std::string part_name(std::string_view prefix, std::string_view part) { return fmt::format("{}.{}", prefix, part); }

std::vector<TensorInfo> block_infos(const std::vector<Part>& parts, std::string_view prefix) {
    std::vector<TensorInfo> infos;
    for (const Part& part : parts) infos.push_back({part_name(prefix, part.name), Dtype::f32, part.shape});
    return infos;
}

MlpBlock block_of(const std::shared_ptr<const TensorSource>& source, std::string_view prefix, bool biased) {
    const auto at = [&](std::string_view part) { return source->at(part_name(prefix, part)); };
    MlpBlock block{source, at("gate"), at("up"), at("down")};
    if (biased) block.biases = BlockBiases{at("gate_bias"), at("up_bias"), at("down_bias")};
    return block;
}

class Zeros final : public TensorSource {
public:
    Zeros(std::int64_t hidden_size, std::int64_t width, bool biased) : infos_(block_infos(parts_of(hidden_size, width, biased), "zeros")) {
        std::ranges::sort(infos_, {}, &TensorInfo::name);
    }

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
    Computed(std::int64_t num_layers, std::vector<Part> parts, std::string identity, std::function<MlpTensors(std::int64_t)> compute)
        : identity_(std::move(identity)), compute_(std::move(compute)), parts_(std::move(parts)) {
        for (std::int64_t layer = 0; layer < num_layers; ++layer)
            for (TensorInfo& info : block_infos(parts_, std::to_string(layer))) infos_.push_back(std::move(info));
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
        const auto part = std::ranges::find(parts_, std::string_view(info.name).substr(info.name.find('.') + 1), &Part::name);
        const at::Tensor& value = held_.*part->value;
        auto owner = std::make_shared<at::Tensor>(value.to(at::kCPU, at::kFloat).contiguous());
        if (owner->sizes() != at::IntArrayRef(info.shape))
            throw Error(ErrorCode::internal, fmt::format("computed tensor {} is not of the planned shape", info.name));
        const auto* data = static_cast<const std::byte*>(owner->const_data_ptr());
        return {{data, static_cast<std::size_t>(info.num_bytes())}, owner, false};
    }

private:
    std::string identity_;
    std::function<MlpTensors(std::int64_t)> compute_;
    std::vector<Part> parts_;
    std::vector<TensorInfo> infos_;
    mutable std::int64_t held_layer_ = -1;  // the writer reads from one thread
    mutable MlpTensors held_;
};

class SummedBiases final : public TensorSource {
public:
    SummedBiases(std::string name, LayerMlp blocks) : blocks_(std::move(blocks)) { infos_.push_back({std::move(name), Dtype::f32, blocks_.at(0).biases->down.shape}); }

    const std::vector<TensorInfo>& tensors() const override { return infos_; }
    std::string where(const TensorInfo&) const override { return blocks_[0].source->where(blocks_[0].biases->down); }
    TensorBytes bytes(const TensorInfo& info) const override;

private:
    LayerMlp blocks_;
    std::vector<TensorInfo> infos_;
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
    MlpBlock block = stored_block(arch::expert_tensors(moe, layer, expert), arch::expert_names(*moe.spec.architecture, layer, expert));
    (moe.spec.architecture->moe->weigh_input ? block.input_scale : block.output_scale) = scale;
    return block;
}

MlpBlock shared_block(const arch::OpenModel& moe, std::int64_t layer, double scale) {
    MlpBlock block = stored_block(moe.tensors, arch::shared_expert_names(*moe.spec.architecture, layer));
    block.output_scale = scale;
    return block;
}

MlpBlock dense_block(const arch::OpenModel& moe, std::int64_t layer) { return stored_block(moe.tensors, arch::dense_mlp_names(*moe.spec.architecture, layer)); }

MlpBlock zero_block(std::int64_t hidden_size, std::int64_t width, bool biased) {
    return block_of(std::make_shared<Zeros>(hidden_size, width, biased), "zeros", biased);
}

TensorBytes SummedBiases::bytes(const TensorInfo& info) const {
    const auto sum = std::make_shared<at::Tensor>(at::zeros(info.shape, at::kFloat));
    for (const MlpBlock& block : blocks_) sum->add_(load_f32(*block.source, block.biases->down), block.output_scale);
    return {{static_cast<const std::byte*>(sum->const_data_ptr()), static_cast<std::size_t>(info.num_bytes())}, sum, false};
}

std::shared_ptr<const TensorSource> summed_biases(std::string name, LayerMlp blocks) { return std::make_shared<SummedBiases>(std::move(name), std::move(blocks)); }

MlpTensors load_block(const MlpBlock& block) {
    const auto load = [&](const TensorInfo& info, double scale) {
        at::Tensor values = load_f32(*block.source, info);
        return scale == 1.0 ? values : values.mul_(scale);
    };
    MlpTensors tensors{load(block.gate, block.input_scale), load(block.up, block.input_scale), load(block.down, block.output_scale)};
    if (block.biases) {
        tensors.gate_bias = load(block.biases->gate, 1.0);
        tensors.up_bias = load(block.biases->up, 1.0);
        tensors.down_bias = load(block.biases->down, block.output_scale);
    }
    return tensors;
}

std::vector<MlpBlock> computed_blocks(std::int64_t num_layers, std::int64_t hidden_size, std::int64_t width, bool biased, std::string identity,
                                      std::function<MlpTensors(std::int64_t)> compute) {
    const auto source = std::make_shared<Computed>(num_layers, parts_of(hidden_size, width, biased), std::move(identity), std::move(compute));
    std::vector<MlpBlock> blocks;
    for (std::int64_t layer = 0; layer < num_layers; ++layer) blocks.push_back(block_of(source, std::to_string(layer), biased));
    return blocks;
}

}  // namespace mixwright::split
