#include "arch/stored_pieces.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "error.h"

namespace mixwright::arch {
namespace {

using checkpoint::TensorInfo;
using checkpoint::TensorSource;
using checkpoint::shape_text;

std::int64_t rows_of(const TensorSlot& slot) { return slot.shape[0]; }
std::int64_t columns_of(const TensorSlot& slot) { return slot.shape.size() < 2 ? 1 : slot.shape[1]; }

Piece whole(const TensorSlot& slot, const TensorInfo& disk) { return {{slot.name, disk.dtype, slot.shape}, &disk, 0, columns_of(slot), 1}; }

class PieceFinder {
public:
    PieceFinder(const TensorSource& source, const ModelSpec& spec) : source_(source), spec_(spec), architecture_(*spec.architecture), slots_(tensor_slots(spec)) {
        for (const TensorSlot& slot : slots_) by_name_.emplace(slot.name, &slot);
    }

    StoredPieces find_all(const std::string& model_name) {
        StoredPieces found;
        std::unordered_set<std::string> used;
        for (const TensorSlot& slot : slots_) {
            if (auto piece = find(slot)) {
                used.insert(piece->disk->name);
                found.pieces.push_back(std::move(*piece));
            }
        }
        if (num_problems_ > 0)
            throw Error(ErrorCode::mismatch,
                        fmt::format("{}: {} tensors do not fit its config.json:{}{}", model_name, num_problems_, problems_,
                                    num_problems_ > max_listed ? "\n    ..." : ""),
                        "the download may be incomplete, or config.json may belong to another model");
        for (const TensorInfo& info : source_.tensors()) {
            const bool buffer = info.name.ends_with("rotary_emb.inv_freq") || info.name.ends_with("attn.masked_bias");
            const bool tied_head = spec_.tied_embeddings && info.name == "lm_head.weight";
            if (!buffer && !tied_head && !used.contains(info.name)) found.unused.push_back(info.name);
        }
        return found;
    }

private:
    static constexpr int max_listed = 12;

    void problem(std::string text) {
        if (num_problems_++ < max_listed) problems_ += "\n    " + std::move(text);
    }
    void misfit(const TensorInfo& disk, const std::string& expected) {
        problem(fmt::format("{}: {} (got {}, expected {})", source_.where(disk), printable(disk.name), shape_text(disk.shape), expected));
    }

    std::optional<Piece> find(const TensorSlot& slot) {
        if (const TensorInfo* disk = source_.find(slot.name)) {
            if (disk->shape == slot.shape) return whole(slot, *disk);
            misfit(*disk, shape_text(slot.shape));
            return std::nullopt;
        }
        if (const PackedForm* form = packed_form(slot)) return packed(slot, *form);
        // Routers of transformers 5 in memory have one name in every architecture.
        if (slot.role == TensorRole::router && slot.name == layer_tensor(slot.layer, architecture_.moe->router))
            if (const TensorInfo* disk = source_.find(layer_tensor(slot.layer, "mlp.gate.weight")); disk && disk->shape == slot.shape) return whole(slot, *disk);
        if (slot.role == TensorRole::expert && !architecture_.moe->zipped)
            if (auto piece = find_fused(slot)) return piece;
        problem(fmt::format("{} {} is missing", printable(slot.name), shape_text(slot.shape)));
        return std::nullopt;
    }

    // ---- forms of the architecture's table ----

    // "model.layers.3.mlp.experts.7.gate_proj.weight" -> what a PackedForm calls it.
    std::string part_name(const TensorSlot& slot, const PackedForm& form) const {
        if (form.whole_model) return slot.name;
        if (!form.per_expert) return slot.name.substr(layer_tensor(slot.layer, "").size());
        return slot.name.substr(layer_tensor(slot.layer, fmt::format("{}.{}.", architecture_.moe->experts, slot.expert)).size());
    }

    std::string disk_name(const TensorSlot& slot, const PackedForm& form) const {
        return form.whole_model ? std::string(form.name) : fmt::format("{}{}.{}", architecture_.disk_layers, slot.layer, form.name);
    }

    // The form that holds `slot` and is on disk, or null.
    const PackedForm* packed_form(const TensorSlot& slot) const {
        for (const PackedForm& form : architecture_.packed) {
            if (form.whole_model != (slot.layer < 0) || form.per_expert != (slot.expert >= 0)) continue;
            if (std::ranges::find(form.parts, part_name(slot, form)) == form.parts.end()) continue;
            if (source_.find(disk_name(slot, form)) != nullptr) return &form;
        }
        return nullptr;
    }

    std::optional<Piece> packed(const TensorSlot& slot, const PackedForm& form) {
        const std::string own = part_name(slot, form), prefix = slot.name.substr(0, slot.name.size() - own.size());
        const auto parts = static_cast<std::int64_t>(form.parts.size()), columns = columns_of(slot);
        std::int64_t rows = 0, first_row = 0, index = 0;
        for (std::int64_t p = 0; p < parts; ++p) {
            const std::string_view part = form.parts[static_cast<std::size_t>(p)];
            if (part == own) first_row = rows, index = p;
            rows += rows_of(*by_name_.at(prefix + std::string(part)));
        }
        const TensorInfo& disk = *source_.find(disk_name(slot, form));
        const std::vector<std::int64_t> matrix = slot.shape.size() < 2 ? std::vector{rows} : form.transposed ? std::vector{columns, rows} : std::vector{rows, columns};
        std::vector<std::int64_t> expected = matrix;
        if (form.per_expert && form.flat)
            expected[0] *= spec_.num_experts;
        else if (form.per_expert)
            expected.insert(expected.begin(), spec_.num_experts);
        if (disk.shape != expected) {
            misfit(disk, shape_text(expected));
            return std::nullopt;
        }
        const std::int64_t row = form.interleaved ? index : first_row, step = form.interleaved ? parts : 1;
        Piece piece = whole(slot, disk);
        piece.row_stride = form.transposed ? step : step * columns;
        piece.column_stride = form.transposed ? rows : 1;
        piece.offset = (form.per_expert ? slot.expert * rows * columns : 0) + (form.transposed ? row : row * columns);
        return piece;
    }

    // ---- transformers 5 in memory ----

    // All experts of a layer in one tensor: gate_up_proj [E, 2F, D] (gate rows first) and down_proj [E, D, F]; some checkpoints
    // hold the transposes [E, D, 2F] and [E, F, D].
    std::optional<Piece> find_fused(const TensorSlot& slot) const {
        const MlpNames names = expert_names(architecture_, slot.layer, slot.expert);
        const bool down = slot.name == names.down, second_half = slot.name == names.up;
        const std::int64_t hidden = spec_.hidden_size, width = spec_.expert_width;
        const std::int64_t out = down ? hidden : 2 * width, in = down ? width : hidden;

        const TensorInfo* disk = nullptr;
        for (const std::string_view prefix : {std::string_view("mlp.experts"), architecture_.moe->experts})
            if (disk == nullptr) disk = source_.find(layer_tensor(slot.layer, fmt::format("{}.{}", prefix, down ? "down_proj" : "gate_up_proj")));
        if (disk == nullptr || slot.shape.size() != 2 || disk->shape.size() != 3 || disk->shape[0] != spec_.num_experts) return std::nullopt;

        Piece piece = whole(slot, *disk);
        piece.offset = slot.expert * out * in;
        if (disk->shape[1] == out && disk->shape[2] == in) {
            if (second_half) piece.offset += width * hidden;
        } else if (disk->shape[1] == in && disk->shape[2] == out) {
            piece.row_stride = 1;
            piece.column_stride = out;
            if (second_half) piece.offset += width;
        } else {
            return std::nullopt;
        }
        return piece;
    }

    const TensorSource& source_;
    const ModelSpec& spec_;
    const Architecture& architecture_;
    std::vector<TensorSlot> slots_;
    std::unordered_map<std::string_view, const TensorSlot*> by_name_;
    std::string problems_;
    int num_problems_ = 0;
};

}  // namespace

StoredPieces find_pieces(const TensorSource& source, const ModelSpec& spec, const std::string& model_name) {
    return PieceFinder(source, spec).find_all(model_name);
}

}  // namespace mixwright::arch
