#include "checkpoint/lora.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "checked.h"
#include "checkpoint/convert.h"
#include "checkpoint/safetensors_source.h"
#include "error.h"
#include "io/file.h"
#include "io/json.h"

namespace mixwright::checkpoint {
namespace {

struct AdapterConfig {
    std::int64_t rank = 8;
    double alpha = 8;
    bool rslora = false, fan_in_fan_out = false;
    std::map<std::string, double> rank_pattern, alpha_pattern;
};

[[noreturn]] void fail(ErrorCode code, const std::string& source, const std::string& what) {
    throw Error(code, fmt::format("{}: {}", source, what));
}

bool flag(const io::Json& json, const char* key, const std::string& source) {
    const auto it = json.find(key);
    if (it == json.end() || it->is_null()) return false;
    if (!it->is_boolean()) fail(ErrorCode::malformed, source, fmt::format("{}: not a boolean", key));
    return it->get<bool>();
}

double number(const io::Json& value, const char* key, const std::string& source) {
    if (!value.is_number()) fail(ErrorCode::malformed, source, fmt::format("{}: not a number", key));
    const double result = value.get<double>();
    if (!(result > 0 && result <= 1e6)) fail(ErrorCode::malformed, source, fmt::format("{}: {} is out of range (0 to 1e6)", key, result));
    return result;
}

// Patterns are regular expressions in PEFT, but names are what is written in practice: those are taken.
std::map<std::string, double> pattern(const io::Json& json, const char* key, const std::string& source) {
    std::map<std::string, double> result;
    const auto it = json.find(key);
    if (it == json.end() || it->is_null()) return result;
    if (!it->is_object()) fail(ErrorCode::malformed, source, fmt::format("{}: not an object", key));
    for (const auto& [name, value] : it->items()) {
        if (name.find_first_of("*+?[](){}|\\$^") != std::string::npos)
            fail(ErrorCode::unsupported, source, fmt::format("{}: \"{}\" is a regular expression; only module names are known", key, printable(name)));
        result.emplace(name, number(value, key, source));
    }
    return result;
}

AdapterConfig read_config(const std::filesystem::path& path) {
    const io::Json json = io::read_json(path);
    const std::string source = io::shown(path);
    if (!json.is_object()) fail(ErrorCode::malformed, source, "not an object");
    const std::string type = json.value("peft_type", io::Json()).is_string() ? json["peft_type"].get<std::string>() : "";
    if (type != "LORA") fail(ErrorCode::unsupported, source, fmt::format("peft_type \"{}\": only LORA adapters can be merged", printable(type)));
    if (flag(json, "use_dora", source))
        fail(ErrorCode::unsupported, source, "use_dora: DoRA rescales the columns of the merged weight; merge it with PEFT first");
    for (const char* key : {"use_qalora", "lora_bias"})
        if (flag(json, key, source)) fail(ErrorCode::unsupported, source, fmt::format("{}: not a plain LoRA", key));
    AdapterConfig config;
    if (const auto it = json.find("r"); it != json.end()) config.rank = static_cast<std::int64_t>(number(*it, "r", source));
    if (const auto it = json.find("lora_alpha"); it != json.end()) config.alpha = number(*it, "lora_alpha", source);
    config.rslora = flag(json, "use_rslora", source);
    config.fan_in_fan_out = flag(json, "fan_in_fan_out", source);
    config.rank_pattern = pattern(json, "rank_pattern", source);
    config.alpha_pattern = pattern(json, "alpha_pattern", source);
    return config;
}

// The value for `module`: a pattern matches when it is the module's name or its last parts.
double pattern_value(const std::map<std::string, double>& patterns, const std::string& module, double otherwise) {
    for (const auto& [name, value] : patterns)
        if (module == name || module.ends_with("." + name)) return value;
    return otherwise;
}

struct Delta {
    const TensorInfo* a = nullptr;  // [r, in]
    const TensorInfo* b = nullptr;  // [out, r]
    float scale = 0;
    bool transposed = false;        // the base holds [in, out]
};

class LoraSource final : public TensorSource {
public:
    LoraSource(std::shared_ptr<const TensorSource> base, const std::filesystem::path& directory)
        : base_(std::move(base)), adapter_(open_safetensors_file(directory / "adapter_model.safetensors")),
          source_(io::shown(directory / "adapter_model.safetensors")) {
        const AdapterConfig config = read_config(directory / "adapter_config.json");
        for (const TensorInfo& info : adapter_->tensors()) place(info, config);
        for (auto& [name, delta] : deltas_) finish(name, delta, config);
    }

    const std::vector<TensorInfo>& tensors() const override { return base_->tensors(); }

    TensorBytes bytes(const TensorInfo& info) const override {
        if (const auto it = replaced_.find(info.name); it != replaced_.end()) return replacement(info, *it->second);
        if (const auto it = deltas_.find(info.name); it != deltas_.end()) return merged(info, it->second);
        return base_->bytes(info);
    }

    void read(const TensorInfo& info, std::uint64_t offset, std::span<std::byte> out) const override {
        if (replaced_.contains(info.name) || deltas_.contains(info.name)) return TensorSource::read(info, offset, out);
        base_->read(info, offset, out);
    }

    void drop(const TensorInfo& info) const override { base_->drop(info); }

    std::string where(const TensorInfo& info) const override { return base_->where(info); }

private:
    // Sorts one tensor of the adapter: a factor of a product, or a module trained whole.
    void place(const TensorInfo& info, const AdapterConfig& config) {
        std::string name = info.name;
        if (name.starts_with("base_model.model.")) name.erase(0, std::string_view("base_model.model.").size());
        const auto factor = [&](std::string_view ending, const TensorInfo* Delta::*which, bool transposed) {
            if (!name.ends_with(ending)) return false;
            Delta& delta = deltas_[name.substr(0, name.size() - ending.size()) + ".weight"];
            delta.*which = &info;
            delta.transposed = transposed;
            return true;
        };
        if (factor(".lora_A.weight", &Delta::a, config.fan_in_fan_out) || factor(".lora_B.weight", &Delta::b, config.fan_in_fan_out) ||
            factor(".lora_embedding_A", &Delta::a, true) || factor(".lora_embedding_B", &Delta::b, true))
            return;
        if (name.find("lora_") != std::string::npos)
            fail(ErrorCode::unsupported, source_, fmt::format("tensor {}: not a part of a plain LoRA", printable(info.name)));
        constexpr std::string_view saved = ".modules_to_save";
        if (const auto at = name.find(".modules_to_save."); at != std::string::npos) name.erase(at, saved.size());
        const TensorInfo* target = base_->find(name);
        if (target == nullptr) fail(ErrorCode::mismatch, source_, fmt::format("tensor {}: the base model has no {}", printable(info.name), printable(name)));
        if (target->shape != info.shape || !can_convert(info.dtype, target->dtype))
            fail(ErrorCode::mismatch, source_, fmt::format("tensor {}: {} {} cannot stand for the base's {} {}", printable(info.name), shape_text(info.shape),
                                                           torch_name(info.dtype), shape_text(target->shape), torch_name(target->dtype)));
        replaced_[name] = &info;
    }

    void finish(const std::string& name, Delta& delta, const AdapterConfig& config) {
        const auto refuse = [&](const std::string& what) { fail(ErrorCode::mismatch, source_, fmt::format("{}: {}", printable(name), what)); };
        if (delta.a == nullptr || delta.b == nullptr) refuse(fmt::format("lora_{} is missing", delta.a == nullptr ? 'A' : 'B'));
        const TensorInfo* target = base_->find(name);
        if (target == nullptr) refuse("the base model has no such tensor");
        if (delta.a->shape.size() != 2 || delta.b->shape.size() != 2 || target->shape.size() != 2 || delta.a->shape[0] != delta.b->shape[1])
            refuse(fmt::format("lora_A {} and lora_B {} have no product", shape_text(delta.a->shape), shape_text(delta.b->shape)));
        std::vector<std::int64_t> product{delta.b->shape[0], delta.a->shape[1]};
        if (delta.transposed) std::swap(product[0], product[1]);
        if (product != target->shape)
            refuse(fmt::format("the adapter makes {}, the base has {}", shape_text(product), shape_text(target->shape)));
        for (const TensorInfo* info : {delta.a, delta.b, target})
            if (!is_floating(info->dtype)) refuse(fmt::format("{} is not a floating type", torch_name(info->dtype)));
        if (!can_convert(Dtype::f32, target->dtype)) refuse(fmt::format("a merged weight cannot be stored as {}", torch_name(target->dtype)));

        const std::string module = name.substr(0, name.size() - std::string_view(".weight").size());
        const double rank = pattern_value(config.rank_pattern, module, static_cast<double>(config.rank));
        if (rank != static_cast<double>(delta.a->shape[0]))
            refuse(fmt::format("rank {} in the file, {} in adapter_config.json", delta.a->shape[0], rank));
        const double alpha = pattern_value(config.alpha_pattern, module, config.alpha);
        delta.scale = static_cast<float>(alpha / (config.rslora ? std::sqrt(rank) : rank));
    }

    std::vector<float> floats(const TensorInfo& info) const {
        std::vector<float> values(checked_cast<std::size_t>(info.numel(), "tensor size"));
        to_float(adapter_->bytes(info).bytes, info.dtype, values);
        return values;
    }

    TensorBytes replacement(const TensorInfo& info, const TensorInfo& own) const {
        if (own.dtype == info.dtype) return adapter_->bytes(own);
        auto buffer = std::make_shared<std::vector<std::byte>>(info.num_bytes());
        convert(adapter_->bytes(own).bytes, own.dtype, *buffer, info.dtype);
        return {*buffer, buffer, false};
    }

    TensorBytes merged(const TensorInfo& info, const Delta& delta) const {
        const std::vector<float> a = floats(*delta.a), b = floats(*delta.b);
        const auto rank = static_cast<std::size_t>(delta.a->shape[0]);
        const auto rows = static_cast<std::size_t>(info.shape[0]), columns = static_cast<std::size_t>(info.shape[1]);
        const std::size_t row_bytes = columns * dtype_bytes(info.dtype);
        const TensorBytes weight = base_->bytes(info);
        auto buffer = std::make_shared<std::vector<std::byte>>(info.num_bytes());

        // A row of the delta is a sum of rows of `right`, [rank, columns], with weights left(row, k).
        std::vector<float> right(rank * columns);
        for (std::size_t k = 0; k < rank; ++k)
            for (std::size_t c = 0; c < columns; ++c) right[k * columns + c] = delta.transposed ? b[c * rank + k] : a[k * columns + c];
        const auto left = [&](std::size_t row, std::size_t k) { return delta.transposed ? a[k * rows + row] : b[row * rank + k]; };

        std::vector<float> sum(columns), values(columns);
        for (std::size_t row = 0; row < rows; ++row) {
            std::ranges::fill(sum, 0.0f);
            for (std::size_t k = 0; k < rank; ++k) {
                const float factor = left(row, k);
                const float* source = &right[k * columns];
                for (std::size_t c = 0; c < columns; ++c) sum[c] += factor * source[c];
            }
            to_float(weight.bytes.subspan(row * row_bytes, row_bytes), info.dtype, values);
            for (std::size_t c = 0; c < columns; ++c) values[c] += delta.scale * sum[c];
            from_float(values, std::span(*buffer).subspan(row * row_bytes, row_bytes), info.dtype);
        }
        return {*buffer, buffer, false};
    }

    std::shared_ptr<const TensorSource> base_, adapter_;
    std::string source_;
    std::map<std::string, Delta> deltas_;                    // by name in the base
    std::map<std::string, const TensorInfo*> replaced_;
};

}  // namespace

std::shared_ptr<const TensorSource> merge_lora(std::shared_ptr<const TensorSource> base, const std::filesystem::path& directory) {
    return std::make_shared<LoraSource>(std::move(base), directory);
}

}  // namespace mixwright::checkpoint
