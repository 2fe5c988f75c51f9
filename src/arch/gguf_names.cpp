#include "arch/gguf_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "arch/gguf_view.h"
#include "error.h"

namespace mixwright::arch {
namespace {

using checkpoint::TensorInfo;
using checkpoint::TensorSource;

struct NamePair {
    std::string_view gguf, hugging_face;
};

// Of the whole model, without ".weight" or ".bias".
constexpr NamePair model_names[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
};

// After "blk.N." and "model.layers.N.", without ".weight" or ".bias".
constexpr NamePair layer_names[] = {
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"attn_q_a", "self_attn.q_a_proj"},
    {"attn_q_a_norm", "self_attn.q_a_layernorm"},
    {"attn_q_b", "self_attn.q_b_proj"},
    {"attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"},
    {"attn_kv_a_norm", "self_attn.kv_a_layernorm"},
    {"attn_kv_b", "self_attn.kv_b_proj"},
};

// The names of the norms of a layer in order of use; the one before the MLP has had three.
struct NormPair {
    std::string_view gguf;
    std::string_view NormNames::*hugging_face;
};
constexpr NormPair norm_pairs[] = {
    {"attn_norm", &NormNames::before_attention}, {"post_attention_norm", &NormNames::after_attention},
    {"ffn_norm", &NormNames::before_mlp},        {"post_attention_norm", &NormNames::before_mlp},
    {"attn_output_norm", &NormNames::before_mlp}, {"post_ffw_norm", &NormNames::after_mlp},
};

constexpr std::string_view rope_tables[] = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"};

std::optional<std::string_view> look_up(std::span<const NamePair> names, std::string_view gguf) {
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

bool take_prefix(std::string_view& text, std::string_view prefix) {
    if (!text.starts_with(prefix)) return false;
    text.remove_prefix(prefix.size());
    return true;
}
bool take_suffix(std::string_view& text, std::string_view suffix) {
    if (!text.ends_with(suffix)) return false;
    text.remove_suffix(suffix.size());
    return true;
}

const std::string* projection(const MlpNames& names, std::string_view kind) {
    const std::string* name = kind == "gate" ? &names.gate : kind == "up" ? &names.up : kind == "down" ? &names.down : nullptr;
    return name != nullptr && !name->empty() ? name : nullptr;
}

// Fills a view with the tensors of a source, one after another.
class Mapper {
public:
    Mapper(std::shared_ptr<const TensorSource> source, const ModelSpec& spec)
        : source_(source), view_(std::make_shared<GgufView>(source)), spec_(spec), architecture_(*spec.architecture) {}

    std::shared_ptr<const TensorSource> map() {
        for (const TensorInfo& stored : source_->tensors()) {
            if (std::ranges::find(rope_tables, stored.name) != std::end(rope_tables)) continue;
            if (!map_tensor(stored)) view_->add(stored, {&stored});
        }
        view_->finish();
        return view_;
    }

private:
    bool map_tensor(const TensorInfo& stored) {
        std::string_view rest = stored.name;
        const bool weight = rest.ends_with(".weight");
        if (!take_suffix(rest, ".weight") && !take_suffix(rest, ".bias")) return false;
        suffix_ = weight ? "weight" : "bias";
        if (const auto name = look_up(model_names, rest)) {
            add_norm_or_plain(fmt::format("{}.{}", *name, suffix_), stored, *name == "model.norm");
            return true;
        }
        if (!take_prefix(rest, "blk.")) return false;
        const std::optional<std::int64_t> layer = take_index(rest);
        if (!layer || *layer >= spec_.num_layers) return false;
        layer_ = *layer;
        return map_attention(stored, rest) || map_norm(stored, rest) || map_mlp(stored, rest) || (architecture_.moe && map_moe(stored, rest));
    }

    std::string in_layer(std::string_view name) const { return layer_tensor(layer_, fmt::format("{}.{}", name, suffix_)); }
    // "x.weight" with the suffix of the tensor at hand.
    std::string suffixed(const std::string& weight) const { return sibling(weight, suffix_); }

    // ---- attention ----

    bool map_attention(const TensorInfo& stored, std::string_view rest) {
        if (const auto name = look_up(layer_names, rest)) {
            const bool norm = name->ends_with("norm");
            const std::int64_t heads = rest == "attn_q" ? spec_.num_heads : rest == "attn_k" ? spec_.num_kv_heads : 0;
            if (norm)
                add_norm_or_plain(in_layer(*name), stored, true);
            else
                add_rotated(in_layer(*name), stored, stored.shape, 0, heads);
            return true;
        }
        if (rest == "attn_sinks" && architecture_.attention_sinks) {
            add(layer_tensor(layer_, "self_attn.sinks"), stored);
            return true;
        }
        if (rest == "attn_qkv") return map_fused_attention(stored);
        // v_b goes with k_b.
        if (rest == "attn_v_b" && spec_.latent) return source_->find(fmt::format("blk.{}.attn_k_b.weight", layer_)) != nullptr;
        return rest == "attn_k_b" && spec_.latent && map_latent_heads(stored);
    }

    bool map_fused_attention(const TensorInfo& stored) {
        const std::int64_t q = spec_.num_heads * spec_.head_dim, kv = spec_.num_kv_heads * spec_.head_dim;
        expect_rows(stored, q + 2 * kv, "q, k and v");
        std::int64_t row = 0;
        const auto cut = [&](const char* name, std::int64_t rows, std::int64_t heads) {
            std::vector<std::int64_t> shape = stored.shape;
            shape[0] = rows;
            add_rotated(in_layer(fmt::format("self_attn.{}", name)), stored, std::move(shape), row, heads);
            row += rows;
        };
        cut("q_proj", q, spec_.num_heads);
        cut("k_proj", kv, spec_.num_kv_heads);
        cut("v_proj", kv, 0);
        return true;
    }

    bool map_latent_heads(const TensorInfo& keys) {
        const LatentAttention& latent = *spec_.latent;
        const TensorInfo* values = source_->find(fmt::format("blk.{}.attn_v_b.weight", layer_));
        const std::vector<std::int64_t> key_shape{spec_.num_heads, latent.kv_rank, latent.nope_dim}, value_shape{spec_.num_heads, latent.v_dim, latent.kv_rank};
        if (values == nullptr || keys.shape != key_shape || values->shape != value_shape || keys.dtype != values->dtype)
            throw Error(ErrorCode::mismatch, fmt::format("{}: tensor {} and its values do not fit (got {} and {}, expected {} and {})", source_->where(keys),
                                                         printable(keys.name), checkpoint::shape_text(keys.shape),
                                                         values != nullptr ? checkpoint::shape_text(values->shape) : "nothing",
                                                         checkpoint::shape_text(key_shape), checkpoint::shape_text(value_shape)));
        view_->add({layer_tensor(layer_, "self_attn.kv_b_proj.weight"), keys.dtype, {spec_.num_heads * (latent.nope_dim + latent.v_dim), latent.kv_rank}},
                   {.stored = &keys, .form = GgufView::Form::latent_heads, .heads = spec_.num_heads, .values = values});
        return true;
    }

    // ---- norms ----

    bool map_norm(const TensorInfo& stored, std::string_view rest) {
        const NormNames names = norm_names(architecture_.norm_placement);
        for (const NormPair& pair : norm_pairs) {
            const std::string_view weight = names.*pair.hugging_face;
            if (pair.gguf != rest || weight.empty()) continue;
            add_norm_or_plain(suffixed(layer_tensor(layer_, weight)), stored, true);
            return true;
        }
        return false;
    }

    void add_norm_or_plain(std::string name, const TensorInfo& stored, bool norm) {
        const bool less_one = norm && suffix_ == "weight" && architecture_.norm == NormForm::rms_plus_one;
        if (less_one && stored.dtype != Dtype::f32)
            throw Error(ErrorCode::unsupported, fmt::format("{}: the norm {} is not stored as f32", source_->where(stored), printable(stored.name)));
        view_->add({std::move(name), stored.dtype, stored.shape}, {.stored = &stored, .form = less_one ? GgufView::Form::minus_one : GgufView::Form::as_stored});
    }

    // ---- MLP ----

    bool map_mlp(const TensorInfo& stored, std::string_view rest) {
        if (!take_prefix(rest, "ffn_")) return false;
        const MlpNames names = dense_mlp_names(architecture_, layer_);
        const std::string* name = projection(names, rest);
        if (name == nullptr) return false;
        const bool fused = rest == "up" && !names.gate.empty() && source_->find(fmt::format("blk.{}.ffn_gate.{}", layer_, suffix_)) == nullptr;
        if (!fused) return add(suffixed(*name), stored);
        expect_rows(stored, 2 * spec_.intermediate_size, "gate and up");
        std::vector<std::int64_t> shape = stored.shape;
        shape[0] /= 2;
        add_rotated(suffixed(names.gate), stored, shape, 0, 0);
        add_rotated(suffixed(names.up), stored, shape, shape[0], 0);
        return true;
    }

    bool map_moe(const TensorInfo& stored, std::string_view rest) {
        const MoeTable& moe = *architecture_.moe;
        const std::string router = layer_tensor(layer_, moe.router);
        if (rest == "ffn_gate_inp") return add(suffixed(router), stored);
        if (rest == "exp_probs_b" && moe.correction_bias) return add(sibling(router, "e_score_correction_bias"), stored);
        if (rest == "ffn_gate_inp_shexp" && !moe.shared_gate_name.empty()) {
            // Stored as a vector [D]; a row [1, D] in Hugging Face.
            view_->add({layer_tensor(layer_, moe.shared_gate_name), stored.dtype, {1, stored.numel()}}, {&stored});
            return true;
        }
        if (!take_prefix(rest, "ffn_")) return false;
        if (take_suffix(rest, "_shexp")) {
            if (moe.shared_expert.empty()) return false;
            const MlpNames names = shared_expert_names(architecture_, layer_);
            const std::string* name = projection(names, rest);
            return name != nullptr && add(suffixed(*name), stored);
        }
        if (take_suffix(rest, "_exps")) return map_expert_stack(stored, rest);
        // Files made before April 2024: ffn_gate.E
        const auto dot = rest.find('.');
        if (dot == std::string_view::npos) return false;
        const std::string index = std::string(rest.substr(dot + 1)) + ".";
        std::string_view index_view = index;
        const std::optional<std::int64_t> expert = take_index(index_view);
        if (!expert || !index_view.empty()) return false;
        const MlpNames names = expert_names(architecture_, layer_, *expert);
        const std::string* name = projection(names, rest.substr(0, dot));
        return name != nullptr && add(suffixed(*name), stored);
    }

    // One projection of every expert (or its bias), or gate and up of each in one, gate rows first.
    bool map_expert_stack(const TensorInfo& stored, std::string_view kind) {
        const bool fused = kind == "gate_up";
        if (!fused && kind != "gate" && kind != "up" && kind != "down") return false;
        const std::int64_t experts = spec_.num_experts;
        const std::size_t dims = suffix_ == "weight" ? 3 : 2;
        if (stored.shape.size() != dims || stored.shape[0] != experts || (fused && stored.shape[1] % 2 != 0))
            throw Error(ErrorCode::mismatch, fmt::format("{}: tensor {} does not hold {} experts (got {})", source_->where(stored),
                                                         printable(stored.name), experts, checkpoint::shape_text(stored.shape)));
        const std::uint64_t expert_bytes = stored.num_bytes() / static_cast<std::uint64_t>(experts);
        std::vector<std::int64_t> shape(stored.shape.begin() + 1, stored.shape.end());
        if (fused) shape[0] /= 2;
        for (std::int64_t e = 0; e < experts; ++e) {
            const MlpNames names = expert_names(architecture_, layer_, e);
            const std::uint64_t begin = static_cast<std::uint64_t>(e) * expert_bytes;
            const auto add_slice = [&](const std::string& name, std::uint64_t offset) { view_->add({suffixed(name), stored.dtype, shape}, {&stored, offset}); };
            add_slice(fused ? names.gate : *projection(names, kind), begin);
            if (fused) add_slice(names.up, begin + expert_bytes / 2);
        }
        return true;
    }

    // ---- what they have in common ----

    bool add(std::string name, const TensorInfo& stored) {
        view_->add({std::move(name), stored.dtype, stored.shape}, {&stored});
        return true;
    }

    // Rows [row, row + shape[0]) of `stored`; of so many heads when they rotate, 0 when not.
    void add_rotated(std::string name, const TensorInfo& stored, std::vector<std::int64_t> shape, std::int64_t row, std::int64_t heads) {
        if (!architecture_.gguf_permutes_qk) heads = 0;
        if (heads > 0 && (shape.empty() || shape[0] == 0 || shape[0] % (2 * heads) != 0))
            throw Error(ErrorCode::mismatch, fmt::format("{}: tensor {} cannot be cut into {} heads of an even size (got {})", source_->where(stored),
                                                         printable(stored.name), heads, checkpoint::shape_text(stored.shape)));
        const std::uint64_t offset = row == 0 ? 0 : stored.num_bytes() / static_cast<std::uint64_t>(stored.shape[0]) * static_cast<std::uint64_t>(row);
        view_->add({std::move(name), stored.dtype, std::move(shape)},
                   {.stored = &stored, .offset = offset, .form = heads > 0 ? GgufView::Form::halves : GgufView::Form::as_stored, .heads = heads});
    }

    void expect_rows(const TensorInfo& stored, std::int64_t rows, const char* what) const {
        if (!stored.shape.empty() && stored.shape[0] == rows) return;
        throw Error(ErrorCode::mismatch, fmt::format("{}: tensor {} does not hold {} (got {}, expected {} rows)", source_->where(stored),
                                                     printable(stored.name), what, checkpoint::shape_text(stored.shape), rows));
    }

    std::shared_ptr<const TensorSource> source_;
    std::shared_ptr<GgufView> view_;
    const ModelSpec& spec_;
    const Architecture& architecture_;
    std::int64_t layer_ = -1;                    // of the tensor at hand
    std::string_view suffix_;                    // "weight" or "bias"
};

}  // namespace

std::shared_ptr<const TensorSource> hf_view_of_gguf(std::shared_ptr<const TensorSource> source, const ModelSpec& spec) {
    return Mapper(std::move(source), spec).map();
}

}  // namespace mixwright::arch
