// What the nodes of a pickle mean: tensors, checked against the storages they lie in.
#include "checkpoint/pickle_globals.h"
#include "checkpoint/unpickler.h"
#include "checked.h"

namespace mixwright::checkpoint {
namespace {

constexpr std::size_t max_dims = 8;
constexpr std::size_t max_name_bytes = 1024;
// torch.serialization.MAGIC_NUMBER, 0x1950a86a20f9469cfc6c, as LONG1 writes it.
constexpr std::string_view legacy_magic("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 10);

}  // namespace

void Pickle::fail(const Node& node, const std::string& message) const {
    throw Error(ErrorCode::malformed, fmt::format("{}: at byte {}: {}", source_, node.offset, message));
}

bool Pickle::is_legacy_magic() const { return root().kind == Kind::long_integer && root().text == legacy_magic; }

std::int64_t Pickle::integer_or(std::int64_t otherwise) const { return root().kind == Kind::integer ? root().number : otherwise; }

const Pickle::Node* Pickle::find(const Node& dict, std::string_view key) const {
    for (std::size_t i = 0; i + 1 < dict.items.size(); i += 2)
        if (const Node& k = nodes_[dict.items[i]]; k.kind == Kind::text && k.text == key) return &nodes_[dict.items[i + 1]];
    return nullptr;
}

bool Pickle::boolean_or(std::string_view key, bool otherwise) const {
    const Node* value = root().kind == Kind::dict ? find(root(), key) : nullptr;
    return value != nullptr && value->kind == Kind::boolean ? value->number != 0 : otherwise;
}

std::vector<std::string> Pickle::texts() const {
    if (root().kind != Kind::list) fail(root(), "expected a list of storage keys");
    std::vector<std::string> result;
    for (const Index index : root().items) {
        if (nodes_[index].kind != Kind::text) fail(nodes_[index], "the key of a storage is no text");
        result.emplace_back(nodes_[index].text);
    }
    return result;
}

std::vector<PickledTensor> Pickle::tensors() const {
    const Node* dict = &root();
    if (dict->kind == Kind::dict)
        if (const Node* inner = find(*dict, "state_dict"); inner != nullptr && inner->kind == Kind::dict) dict = inner;
    if (dict->kind != Kind::dict) fail(*dict, "expected a dict of tensors");
    std::vector<PickledTensor> result;
    for (std::size_t i = 0; i + 1 < dict->items.size(); i += 2) {
        const Node &key = nodes_[dict->items[i]], &value = nodes_[dict->items[i + 1]];
        if (value.kind != Kind::tensor) continue;
        if (key.kind != Kind::text) fail(key, "a tensor under a key that is no text");
        if (key.text.empty() || key.text.size() > max_name_bytes) fail(key, fmt::format("the name of a tensor has {} bytes (expected 1 to {})", key.text.size(), max_name_bytes));
        result.push_back(describe(std::string(key.text), value));
    }
    return result;
}

std::vector<std::int64_t> Pickle::sizes(const Node& tensor, Index item, const char* what) const {
    const Node& node = nodes_[item];
    if (node.kind != Kind::tuple && node.kind != Kind::list) fail(tensor, fmt::format("the {} of a tensor is no tuple", what));
    if (node.items.size() > max_dims) fail(tensor, fmt::format("a tensor has too many dimensions (got {}, limit {})", node.items.size(), max_dims));
    std::vector<std::int64_t> result;
    for (const Index index : node.items) {
        const Node& size = nodes_[index];
        if (size.kind != Kind::integer || size.number < 0) fail(tensor, fmt::format("the {} of a tensor holds what is no size", what));
        result.push_back(size.number);
    }
    return result;
}

PickledTensor Pickle::describe(std::string name, const Node& node) const {
    const std::string shown = printable(name);
    const Node& storage = nodes_[node.items[0]];
    const auto& type = pickle_globals()[static_cast<std::size_t>(nodes_[storage.items[0]].number)];
    PickledTensor tensor{.name = std::move(name), .dtype = type.dtype, .storage = std::string(storage.text)};
    tensor.storage_value_bytes = dtype_bytes(type.dtype);
    tensor.storage_bytes = checked_mul(static_cast<std::uint64_t>(nodes_[storage.items[1]].number), tensor.storage_value_bytes, "size of a storage");
    if (node.items.size() > 4) {
        const Node& dtype = nodes_[node.items[4]];
        const auto* row = dtype.kind == Kind::global ? &pickle_globals()[static_cast<std::size_t>(dtype.number)] : nullptr;
        if (row == nullptr || row->kind != GlobalKind::dtype) fail(node, fmt::format("tensor {} has no dtype", shown));
        tensor.dtype = row->dtype;
    } else if (type.kind == GlobalKind::untyped_storage) {
        fail(node, fmt::format("tensor {} has no dtype", shown));
    }
    const Node& offset = nodes_[node.items[1]];
    if (offset.kind != Kind::integer || offset.number < 0) fail(node, fmt::format("tensor {}: its offset is no size", shown));
    tensor.offset = offset.number;
    tensor.shape = sizes(node, node.items[2], "shape");
    tensor.strides = sizes(node, node.items[3], "stride");
    if (tensor.shape.size() != tensor.strides.size())
        fail(node, fmt::format("tensor {} has {} dimensions and {} strides", shown, tensor.shape.size(), tensor.strides.size()));

    // The last value must lie inside the storage. More values than the storage has (an expanded tensor) would let a small
    // file ask for any amount of memory.
    std::int64_t count = 1, last = tensor.offset;
    bool fits = true;
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
        std::int64_t step = 0;
        fits = fits && !__builtin_mul_overflow(count, tensor.shape[i], &count);
        fits = fits && !__builtin_mul_overflow(tensor.shape[i] - 1, tensor.strides[i], &step) && !__builtin_add_overflow(last, step, &last);
    }
    const std::uint64_t room = tensor.storage_bytes / dtype_bytes(tensor.dtype);
    if (!fits || static_cast<std::uint64_t>(count) > room || (count > 0 && static_cast<std::uint64_t>(last) >= room))
        fail(node, fmt::format("tensor {} does not lie inside its storage of {} values", shown, room));
    return tensor;
}

}  // namespace mixwright::checkpoint
