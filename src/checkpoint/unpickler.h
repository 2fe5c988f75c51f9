// A restricted reader of Python pickles: it can describe tensors and nothing else. It interprets an allow-list of opcodes,
// knows an allow-list of global names as words, calls nothing, and refuses the rest by name and offset. Where the bytes of
// storages lie is for torch_bin to know.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/byte_reader.h"
#include "dtype.h"

namespace mixwright::checkpoint {

struct PickledTensor {
    std::string name;
    Dtype dtype = Dtype::f32;
    std::string storage;               // its key
    std::uint64_t storage_bytes = 0;   // what the pickle says the storage holds,
    std::uint64_t storage_value_bytes = 1;  // counted in values of this size
    std::int64_t offset = 0;           // of the first value in the storage, in values; not negative
    std::vector<std::int64_t> shape, strides;  // in values, not negative; all values lie inside storage_bytes
};

/// One pickled object. Values are kept in one array and refer to each other by index, so that neither depth nor cycles
/// can hurt. Text points into the bytes that were read.
class Pickle {
public:
    /// Reads up to and with the STOP opcode. Error(malformed) for broken pickles, Error(unsupported) for foreign opcodes
    /// and globals; both name the file and the offset.
    static Pickle read(ByteReader& reader);

    /// The tensors of a state dict: {name: tensor}, or {"state_dict": {name: tensor}}. Other values are passed over.
    std::vector<PickledTensor> tensors() const;

    /// The object as a whole number (up to 8 bytes), or `otherwise` when it is none.
    std::int64_t integer_or(std::int64_t otherwise) const;
    /// Whether it is the pickled magic number of torch's form before version 1.6.
    bool is_legacy_magic() const;
    /// The object as a list of texts (storage keys).
    std::vector<std::string> texts() const;
    /// In a dict: the boolean under `key`, or `otherwise`.
    bool boolean_or(std::string_view key, bool otherwise) const;

    using Index = std::uint32_t;
    enum class Kind : std::uint8_t { mark, none, boolean, integer, real, text, long_integer, tuple, list, dict, global, storage, tensor };

    struct Node {
        Kind kind = Kind::none;
        std::uint32_t offset = 0;    // of the opcode, for messages
        std::int64_t number = 0;     // boolean, integer; global: its row
        std::string_view text;       // text, long_integer (its bytes), storage (its key)
        std::vector<Index> items;    // tuple, list; dict: key, value, ...; storage: type, size; tensor: what it was rebuilt from
    };

private:
    friend class PickleReader;
    explicit Pickle(std::string source) : source_(std::move(source)) {}

    const Node& root() const { return nodes_[root_]; }
    const Node* find(const Node& dict, std::string_view key) const;
    PickledTensor describe(std::string name, const Node& node) const;
    std::vector<std::int64_t> sizes(const Node& tensor, Index item, const char* what) const;
    [[noreturn]] void fail(const Node& node, const std::string& message) const;

    std::string source_;
    std::vector<Node> nodes_;
    Index root_ = 0;
};

}  // namespace mixwright::checkpoint
