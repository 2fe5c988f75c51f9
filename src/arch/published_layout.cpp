#include "arch/published_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "checkpoint/convert.h"
#include "error.h"

namespace mixwright::arch {
namespace {

using checkpoint::OutputTensor;

// What one tensor on disk is made of: `units` matrices (experts, or one), each of `parts` canonical tensors.
struct Packed {
    const PackedForm* form = nullptr;
    std::vector<OutputTensor> parts;   // [units * form->parts.size()]
    std::size_t units = 0;
};

std::vector<std::byte> values_of(const OutputTensor& tensor) {
    if (const auto* owned = std::get_if<checkpoint::OwnedBytes>(&tensor.content)) return *owned;
    std::vector<std::byte> bytes(tensor.info.num_bytes());
    if (const auto* generated = std::get_if<checkpoint::Generated>(&tensor.content)) {
        generated->fill(0, bytes);
        return bytes;
    }
    std::size_t at = 0;
    for (const checkpoint::Piece& piece : std::get<checkpoint::Pieces>(tensor.content)) {
        const std::size_t size = static_cast<std::size_t>(piece.tensor.numel()) * dtype_bytes(tensor.info.dtype);
        const checkpoint::TensorBytes stored = piece.source->bytes(piece.tensor);
        const std::span<std::byte> out = std::span(bytes).subspan(at, size);
        if (piece.noise != 0.0) throw Error(ErrorCode::internal, fmt::format("{}: noise in a packed tensor", tensor.info.name));
        if (piece.scale == 1.0) {
            checkpoint::convert(stored.bytes, piece.tensor.dtype, out, tensor.info.dtype);
        } else {
            std::vector<float> values(static_cast<std::size_t>(piece.tensor.numel()));
            checkpoint::to_float(stored.bytes, piece.tensor.dtype, values);
            for (float& value : values) value *= static_cast<float>(piece.scale);
            checkpoint::from_float(values, out, tensor.info.dtype);
        }
        piece.source->drop(piece.tensor);
        at += size;
    }
    return bytes;
}

// The stored bytes of one unit.
std::vector<std::byte> pack_unit(const Packed& packed, std::size_t unit) {
    const std::size_t parts = packed.form->parts.size(), size = dtype_bytes(packed.parts[0].info.dtype);
    const auto& first = packed.parts[unit * parts].info.shape;
    const std::size_t columns = first.size() < 2 ? 1 : static_cast<std::size_t>(first[1]);
    std::size_t rows = 0;
    for (std::size_t p = 0; p < parts; ++p) rows += static_cast<std::size_t>(packed.parts[unit * parts + p].info.shape[0]);
    std::vector<std::byte> bytes(rows * columns * size);
    std::size_t first_row = 0;
    for (std::size_t p = 0; p < parts; ++p) {
        const OutputTensor& part = packed.parts[unit * parts + p];
        const std::vector<std::byte> values = values_of(part);
        const auto part_rows = static_cast<std::size_t>(part.info.shape[0]);
        for (std::size_t r = 0; r < part_rows; ++r) {
            const std::size_t row = packed.form->interleaved ? r * parts + p : first_row + r;
            const std::byte* from = values.data() + r * columns * size;
            if (!packed.form->transposed) {
                std::memcpy(bytes.data() + row * columns * size, from, columns * size);
                continue;
            }
            for (std::size_t c = 0; c < columns; ++c) std::memcpy(bytes.data() + (c * rows + row) * size, from + c * size, size);
        }
        first_row += part_rows;
    }
    return bytes;
}

std::string identity_of(const Packed& packed) {
    std::string identity = "packed";
    for (const OutputTensor& part : packed.parts) {
        if (const auto* generated = std::get_if<checkpoint::Generated>(&part.content)) identity += " " + generated->identity;
        if (const auto* pieces = std::get_if<checkpoint::Pieces>(&part.content))
            for (const checkpoint::Piece& piece : *pieces) identity += fmt::format(" {} {} {}", piece.source->where(piece.tensor), piece.tensor.name, piece.scale);
    }
    return identity;
}

std::vector<std::int64_t> stored_shape(const Packed& packed) {
    const std::size_t parts = packed.form->parts.size();
    const auto& first = packed.parts[0].info.shape;
    std::int64_t rows = 0;
    for (std::size_t p = 0; p < parts; ++p) rows += packed.parts[p].info.shape[0];
    std::vector<std::int64_t> shape{rows};
    if (first.size() == 2) shape = packed.form->transposed ? std::vector{first[1], rows} : std::vector{rows, first[1]};
    if (!packed.form->per_expert) return shape;
    if (packed.form->flat)
        shape[0] *= static_cast<std::int64_t>(packed.units);
    else
        shape.insert(shape.begin(), static_cast<std::int64_t>(packed.units));
    return shape;
}

OutputTensor output_of(std::string name, Packed packed) {
    const Dtype dtype = packed.parts[0].info.dtype;
    for (const OutputTensor& part : packed.parts)
        if (part.info.dtype != dtype)
            throw Error(ErrorCode::mismatch, fmt::format("{}: {} is {}, other parts are {}: they cannot share a tensor", printable(name),
                                                         printable(part.info.name), torch_name(part.info.dtype), torch_name(dtype)));
    checkpoint::TensorInfo info{std::move(name), dtype, stored_shape(packed)};
    if (packed.parts.size() == 1 && !packed.form->transposed) return {std::move(info), std::move(packed.parts[0].content)};
    const bool in_order = !packed.form->transposed && !packed.form->interleaved;
    if (in_order && std::ranges::all_of(packed.parts, [](const OutputTensor& t) { return std::holds_alternative<checkpoint::Pieces>(t.content); })) {
        checkpoint::Pieces pieces;
        for (const OutputTensor& part : packed.parts) std::ranges::copy(std::get<checkpoint::Pieces>(part.content), std::back_inserter(pieces));
        return {std::move(info), std::move(pieces)};
    }
    const std::string identity = identity_of(packed);
    const std::size_t unit_bytes = static_cast<std::size_t>(info.num_bytes()) / packed.units;
    auto source = std::make_shared<Packed>(std::move(packed));
    auto unit = std::make_shared<std::vector<std::byte>>();
    const auto fill = [source, unit, unit_bytes, held = SIZE_MAX](std::uint64_t offset, std::span<std::byte> out) mutable {
        while (!out.empty()) {
            const std::size_t index = offset / unit_bytes, within = offset % unit_bytes, count = std::min(unit_bytes - within, out.size());
            if (index != held) *unit = pack_unit(*source, held = index);
            std::memcpy(out.data(), unit->data() + within, count);
            out = out.subspan(count);
            offset += count;
        }
        if (offset == unit_bytes * source->units) *unit = {}, held = SIZE_MAX;
    };
    return {std::move(info), checkpoint::Generated{fill, identity}};
}

}  // namespace

std::vector<OutputTensor> published(const ModelSpec& spec, std::vector<OutputTensor> tensors) {
    const Architecture& architecture = *spec.architecture;
    if (architecture.packed.empty()) return tensors;
    std::map<std::string, OutputTensor, std::less<>> by_name;
    std::vector<std::string> order;
    for (OutputTensor& tensor : tensors) {
        order.push_back(tensor.info.name);
        by_name.emplace(tensor.info.name, std::move(tensor));
    }
    std::vector<OutputTensor> outputs;
    const auto take = [&](const std::string& name) {
        auto node = by_name.extract(name);
        if (node.empty()) throw Error(ErrorCode::internal, fmt::format("{} is not among the tensors to publish", name));
        return std::move(node.mapped());
    };
    const auto pack = [&](const PackedForm& form, std::int64_t layer) {
        Packed packed{.form = &form, .units = form.per_expert ? static_cast<std::size_t>(spec.num_experts) : 1};
        for (std::size_t unit = 0; unit < packed.units; ++unit)
            for (const std::string_view part : form.parts)
                packed.parts.push_back(take(form.whole_model ? std::string(part)
                                            : form.per_expert ? layer_tensor(layer, fmt::format("{}.{}.{}", architecture.moe->experts, unit, part))
                                                              : layer_tensor(layer, part)));
        outputs.push_back(output_of(form.whole_model ? std::string(form.name) : fmt::format("{}{}.{}", architecture.disk_layers, layer, form.name),
                                    std::move(packed)));
    };
    // A form applies where its first part is there and no form before it took it.
    std::map<std::string, const TensorSlot*> slots;
    const std::vector<TensorSlot> all = tensor_slots(spec);
    for (const TensorSlot& slot : all) slots.emplace(slot.name, &slot);
    for (const std::string& name : order) {
        if (!by_name.contains(name)) continue;
        const auto slot = slots.find(name);
        const PackedForm* found = nullptr;
        for (const PackedForm& form : architecture.packed) {
            if (found != nullptr || slot == slots.end()) break;
            const std::int64_t layer = slot->second->layer;
            if (form.whole_model != (layer < 0) || form.per_expert != (slot->second->expert >= 0)) continue;
            const std::string prefix = form.whole_model ? "" : form.per_expert ? layer_tensor(layer, fmt::format("{}.{}.", architecture.moe->experts, slot->second->expert)) : layer_tensor(layer, "");
            if (std::ranges::find(form.parts, name.substr(prefix.size())) != form.parts.end()) found = &form;
        }
        if (found != nullptr)
            pack(*found, slot->second->layer);
        else
            outputs.push_back(take(name));
    }
    return outputs;
}

}  // namespace mixwright::arch
