#include "arch/fresh_model.h"

#include <algorithm>
#include <set>

#include "arch/config_reader.h"
#include "arch/render_config.h"
#include "checked.h"
#include "checkpoint/normal_noise.h"

namespace mixwright::arch {
namespace {

using checkpoint::TensorBytes;
using checkpoint::TensorInfo;

class InitialWeights final : public checkpoint::TensorSource {
public:
    InitialWeights(const ModelSpec& spec, double range, std::uint64_t seed, std::string name) : range_(range), seed_(seed), name_(std::move(name)) {
        for (const TensorSlot& slot : tensor_slots(spec)) {
            infos_.push_back({slot.name, Dtype::f32, slot.shape});
            if (slot.role == TensorRole::norm && spec.architecture->norm != NormForm::rms_plus_one && !slot.name.ends_with(".bias")) ones_.insert(slot.name);
        }
        std::ranges::sort(infos_, {}, &TensorInfo::name);
    }

    const std::vector<TensorInfo>& tensors() const override { return infos_; }
    std::string where(const TensorInfo&) const override { return name_; }

    TensorBytes bytes(const TensorInfo& info) const override {
        auto values = std::make_shared<std::vector<float>>(static_cast<std::size_t>(info.numel()));
        fill(info, *values);
        return {std::as_bytes(std::span(*values)), values, false};
    }

private:
    void fill(const TensorInfo& info, std::vector<float>& values) const {
        if (info.shape.size() < 2) {
            std::ranges::fill(values, ones_.contains(info.name) ? 1.0f : 0.0f);
            return;
        }
        const std::uint64_t stream = checkpoint::noise_stream(info.name, seed_);
        for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(range_) * checkpoint::normal(stream, i);
    }

    double range_;
    std::uint64_t seed_;
    std::string name_;
    std::vector<TensorInfo> infos_;
    std::set<std::string> ones_;   // norms; other vectors are biases
};

}  // namespace

OpenModel fresh_model(const io::Json& config, std::string_view source, std::uint64_t seed) {
    OpenModel model;
    model.spec = parse_config(config, source);
    for (const TensorSlot& slot : tensor_slots(model.spec)) checked_numel(slot.shape, "the shape of a new tensor");
    const double range = ConfigReader(config, std::string(source)).number("initializer_range", 0, 10).value_or(0.02);
    model.tensors = std::make_shared<InitialWeights>(model.spec, range, seed, std::string(source));
    model.checkpoint.name = std::string(source);
    model.checkpoint.tensors = model.tensors;
    model.checkpoint.config = render_config(model.spec);
    for (const auto& [key, value] : config.items())
        if (!model.checkpoint.config.contains(key) || model.checkpoint.config[key].is_null()) model.checkpoint.config[key] = value;
    return model;
}

}  // namespace mixwright::arch
