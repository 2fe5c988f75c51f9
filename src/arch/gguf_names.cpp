#include "arch/gguf_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <map>
#include <optional>
#include <vector>

#include "error.h"

namespace mixwright::arch {
namespace {

using checkpoint::TensorBytes;
using checkpoint::TensorInfo;
using checkpoint::TensorSource;

// A tensor of the view: part of one stored tensor, its rows permuted when `heads` is not 0.
struct Part {
    const TensorInfo* stored = nullptr;
    std::uint64_t offset = 0;  // in the decoded bytes of `stored`
    std::int64_t heads = 0;
};

class GgufView final : public TensorSource {
public:
    explicit GgufView(std::shared_ptr<const TensorSource> source) : source_(std::move(source)) {}

    void add(TensorInfo info, Part part) {
        const std::string name = info.name;
        if (!parts_.try_emplace(name, std::move(info), part).second)
            throw Error(ErrorCode::malformed, fmt::format("{}: two tensors stand for {}", source_->where(*part.stored), printable(name)));
    }

    void finish() {
        for (const auto& [name, entry] : parts_) infos_.push_back(entry.first);
    }

    const std::vector<TensorInfo>& tensors() const override { return infos_; }

    TensorBytes bytes(const TensorInfo& info) const override {
        const Part& part = part_of(info);
        const std::uint64_t size = info.num_bytes();
        if (part.heads == 0) return source_->slice(*part.stored, part.offset, size);
        const std::shared_ptr<std::byte[]> buffer(new std::byte[size]);
        read(info, 0, {buffer.get(), size});
        return {{buffer.get(), size}, buffer, false};
    }

    void read(const TensorInfo& info, std::uint64_t offset, std::span<std::byte> out) const override {
        const Part& part = part_of(info);
        if (part.heads == 0) return source_->read(*part.stored, part.offset + offset, out);
        const std::uint64_t row_bytes = info.num_bytes() / static_cast<std::uint64_t>(info.shape[0]);
        while (!out.empty()) {
            const std::uint64_t row = offset / row_bytes, within = offset % row_bytes;
            const std::uint64_t count = std::min<std::uint64_t>(row_bytes - within, out.size());
            const std::uint64_t from = stored_row(row, static_cast<std::uint64_t>(info.shape[0] / part.heads));
            source_->read(*part.stored, part.offset + from * row_bytes + within, out.first(count));
            out = out.subspan(count);
            offset += count;
        }
    }

    void drop(const TensorInfo& info) const override { source_->drop(*part_of(info).stored); }
    std::string where(const TensorInfo& info) const override { return source_->where(*part_of(info).stored); }

private:
    const Part& part_of(const TensorInfo& info) const {
        const auto it = parts_.find(info.name);
        if (it == parts_.end()) throw Error(ErrorCode::internal, fmt::format("{} is not of this model", printable(info.name)));
        return it->second.second;
    }

    // ggml rotates neighbours (2j, 2j+1), Hugging Face halves (j, j + d/2): the stored row of row `row` of heads of `d` rows.
    static std::uint64_t stored_row(std::uint64_t row, std::uint64_t d) {
        const std::uint64_t head = row / d, r = row % d;
        return head * d + r % (d / 2) * 2 + r / (d / 2);
    }

    std::shared_ptr<const TensorSource> source_;
    std::map<std::string, std::pair<TensorInfo, Part>> parts_;
    std::vector<TensorInfo> infos_;
};

struct NamePair {
    std::string_view gguf, hugging_face;
};

constexpr NamePair model_names[] = {
    {"token_embd.weight", "model.embed_tokens.weight"},
    {"output_norm.weight", "model.norm.weight"},
    {"output.weight", "lm_head.weight"},
};

// After "blk.N." and "model.layers.N.".
constexpr NamePair layer_names[] = {
    {"attn_norm.weight", "input_layernorm.weight"},
    {"ffn_norm.weight", "post_attention_layernorm.weight"},
    {"attn_q.weight", "self_attn.q_proj.weight"},
    {"attn_q.bias", "self_attn.q_proj.bias"},
    {"attn_k.weight", "self_attn.k_proj.weight"},
    {"attn_k.bias", "self_attn.k_proj.bias"},
    {"attn_v.weight", "self_attn.v_proj.weight"},
    {"attn_v.bias", "self_attn.v_proj.bias"},
    {"attn_output.weight", "self_attn.o_proj.weight"},
    {"attn_output.bias", "self_attn.o_proj.bias"},
    {"attn_q_norm.weight", "self_attn.q_norm.weight"},
    {"attn_k_norm.weight", "self_attn.k_norm.weight"},
    {"ffn_gate.weight", "mlp.gate_proj.weight"},
    {"ffn_gate.bias", "mlp.gate_proj.bias"},
    {"ffn_up.weight", "mlp.up_proj.weight"},
    {"ffn_up.bias", "mlp.up_proj.bias"},
    {"ffn_down.weight", "mlp.down_proj.weight"},
    {"ffn_down.bias", "mlp.down_proj.bias"},
};

template <std::size_t n>
std::optional<std::string_view> look_up(const NamePair (&names)[n], std::string_view gguf) {
    for (const NamePair& pair : names)
        if (pair.gguf == gguf) return pair.hugging_face;
    return std::nullopt;
}

// Takes "N." off the front of `text`.
std::optional<std::int64_t> take_index(std::string_view& text) {
    std::int64_t value = -1;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    const auto length = static_cast<std::size_t>(end - text.data());
    if (error != std::errc{} || value < 0 || length >= text.size() || text[length] != '.') return std::nullopt;
    text.remove_prefix(length + 1);
    return value;
}

const std::string* projection(const MlpNames& names, std::string_view kind) {
    return kind == "gate" ? &names.gate : kind == "up" ? &names.up : kind == "down" ? &names.down : nullptr;
}

// Fills a view with the tensors of a source, one after another.
class Mapper {
public:
    Mapper(std::shared_ptr<const TensorSource> source, const Architecture& architecture, const io::Json& config)
        : source_(source), view_(std::make_shared<GgufView>(source)), architecture_(architecture), config_(config) {}

    std::shared_ptr<const TensorSource> map() {
        for (const TensorInfo& stored : source_->tensors()) {
            if (stored.name == "rope_freqs.weight") continue;
            if (!map_model_tensor(stored) && !map_layer_tensor(stored)) view_->add(stored, {&stored});
        }
        view_->finish();
        return view_;
    }

private:
    bool map_model_tensor(const TensorInfo& stored) {
        const auto name = look_up(model_names, stored.name);
        if (name) add(std::string(*name), stored);
        return name.has_value();
    }

    bool map_layer_tensor(const TensorInfo& stored) {
        std::string_view rest = stored.name;
        if (!rest.starts_with("blk.")) return false;
        rest.remove_prefix(4);
        const std::optional<std::int64_t> layer = take_index(rest);
        if (!layer) return false;
        if (const auto name = look_up(layer_names, rest)) {
            const bool q = rest.starts_with("attn_q."), k = rest.starts_with("attn_k.");
            const std::int64_t heads = !architecture_.gguf_permutes_qk ? 0 : q ? heads_of(stored, "num_attention_heads") : k ? heads_of(stored, "num_key_value_heads") : 0;
            add(layer_tensor(*layer, *name), stored, heads);
            return true;
        }
        return architecture_.moe && map_moe_tensor(stored, *layer, rest);
    }

    bool map_moe_tensor(const TensorInfo& stored, std::int64_t layer, std::string_view rest) {
        const MoeTable& moe = *architecture_.moe;
        if (rest == "ffn_gate_inp.weight") {
            add(layer_tensor(layer, moe.router), stored);
            return true;
        }
        if (rest == "ffn_gate_inp_shexp.weight" && !moe.shared_gate_name.empty()) {
            // Stored as a vector [D]; a row [1, D] in Hugging Face.
            view_->add({layer_tensor(layer, moe.shared_gate_name), stored.dtype, {1, stored.numel()}}, {&stored});
            return true;
        }
        if (!rest.starts_with("ffn_") || !rest.ends_with(".weight")) return false;
        rest.remove_prefix(4);
        rest.remove_suffix(7);
        if (rest.ends_with("_shexp") && !moe.shared_expert.empty()) {
            const MlpNames names = shared_expert_names(architecture_, layer);
            const std::string* name = projection(names, rest.substr(0, rest.size() - 6));
            if (name != nullptr) add(*name, stored);
            return name != nullptr;
        }
        if (rest.ends_with("_exps")) return map_expert_stack(stored, layer, rest.substr(0, rest.size() - 5));
        // Files made before April 2024: ffn_gate.E
        const auto dot = rest.find('.');
        if (dot == std::string_view::npos) return false;
        std::string index = std::string(rest.substr(dot + 1)) + ".";
        std::string_view index_view = index;
        const std::optional<std::int64_t> expert = take_index(index_view);
        if (!expert || !index_view.empty()) return false;
        const MlpNames names = expert_names(architecture_, layer, *expert);
        const std::string* name = projection(names, rest.substr(0, dot));
        if (name != nullptr) add(*name, stored);
        return name != nullptr;
    }

    // One projection of every expert, or gate and up of each in one, gate rows first.
    bool map_expert_stack(const TensorInfo& stored, std::int64_t layer, std::string_view kind) {
        const bool fused = kind == "gate_up";
        if (!fused && kind != "gate" && kind != "up" && kind != "down") return false;
        const auto experts = config_.at(std::string(architecture_.moe->num_experts_keys.front())).get<std::int64_t>();
        if (stored.shape.size() != 3 || stored.shape[0] != experts || (fused && stored.shape[1] % 2 != 0))
            throw Error(ErrorCode::mismatch, fmt::format("{}: tensor {} does not hold {} experts (got {})", source_->where(stored),
                                                         printable(stored.name), experts, checkpoint::shape_text(stored.shape)));
        const std::uint64_t expert_bytes = stored.num_bytes() / static_cast<std::uint64_t>(experts);
        const std::int64_t rows = fused ? stored.shape[1] / 2 : stored.shape[1];
        for (std::int64_t e = 0; e < experts; ++e) {
            const MlpNames names = expert_names(architecture_, layer, e);
            const std::uint64_t begin = static_cast<std::uint64_t>(e) * expert_bytes;
            const auto add_slice = [&](const std::string& name, std::uint64_t offset) { view_->add({name, stored.dtype, {rows, stored.shape[2]}}, {&stored, offset}); };
            add_slice(fused ? names.gate : *projection(names, kind), begin);
            if (fused) add_slice(names.up, begin + expert_bytes / 2);
        }
        return true;
    }

    void add(std::string name, const TensorInfo& stored, std::int64_t heads = 0) {
        view_->add({std::move(name), stored.dtype, stored.shape}, {&stored, 0, heads});
    }

    std::int64_t heads_of(const TensorInfo& stored, const char* key) const {
        const auto heads = config_.at(key).get<std::int64_t>();
        if (stored.shape.empty() || heads <= 0 || stored.shape[0] % (2 * heads) != 0)
            throw Error(ErrorCode::mismatch, fmt::format("{}: tensor {} cannot be cut into {} heads of an even size (got {})", source_->where(stored),
                                                         printable(stored.name), heads, checkpoint::shape_text(stored.shape)));
        return heads;
    }

    std::shared_ptr<const TensorSource> source_;
    std::shared_ptr<GgufView> view_;
    const Architecture& architecture_;
    const io::Json& config_;
};

}  // namespace

std::shared_ptr<const TensorSource> hf_view_of_gguf(std::shared_ptr<const TensorSource> source, const Architecture& architecture,
                                                    const io::Json& config) {
    return Mapper(std::move(source), architecture, config).map();
}

}  // namespace mixwright::arch
