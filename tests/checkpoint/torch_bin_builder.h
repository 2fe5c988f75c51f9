// Writes pickles, zip archives and torch.save's files for tests, byte by byte: right by default, wrong where a test wants.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace mixwright::checkpoint::testing {

template <class T>
std::string le(T value) {
    std::string bytes(sizeof(T), '\0');
    std::memcpy(bytes.data(), &value, sizeof(T));
    return bytes;
}

// ---- opcodes ----

inline std::string pk_text(const std::string& text) { return "X" + le(static_cast<std::uint32_t>(text.size())) + text; }
inline std::string pk_int(std::int32_t value) { return "J" + le(value); }
inline std::string pk_global(const std::string& module, const std::string& name) { return "c" + module + "\n" + name + "\n"; }
inline std::string pk_tuple(const std::vector<std::string>& items) {
    std::string result = "(";
    for (const std::string& item : items) result += item;
    return result + "t";
}
inline std::string pk_sizes(const std::vector<std::int32_t>& sizes) {
    std::vector<std::string> items;
    for (const std::int32_t size : sizes) items.push_back(pk_int(size));
    return pk_tuple(items);
}

struct PkTensor {
    std::string storage_type = "FloatStorage", key = "0";
    std::int32_t storage_size = 6, offset = 0;
    std::vector<std::int32_t> shape{2, 3}, strides{3, 1};

    std::string storage() const {
        return pk_tuple({pk_text("storage"), pk_global("torch", storage_type), pk_text(key), pk_text("cpu"), pk_int(storage_size)}) + "Q";
    }
    std::string bytes() const {
        return pk_global("torch._utils", "_rebuild_tensor_v2") +
               pk_tuple({storage(), pk_int(offset), pk_sizes(shape), pk_sizes(strides), "\x89", pk_global("collections", "OrderedDict") + ")R"}) + "R";
    }
};

/// A pickle of {name: value, ...}; values are opcodes.
inline std::string pk_dict(const std::vector<std::pair<std::string, std::string>>& items) {
    std::string result = "\x80\x02}(";
    for (const auto& [name, value] : items) result += pk_text(name) + value;
    return result + "u.";
}

// ---- zip ----

struct ZipPart {
    std::string name, data;
    std::uint16_t method = 0, flags = 0;
    std::string local_name = {};        // another name in the local header
    std::int64_t size_lie = 0;          // added to both sizes in the directory
    std::int64_t offset_lie = 0;        // added to the offset in the directory
    bool zip64 = false;                 // sizes and offset in the extra field
};

struct ZipBuilder {
    std::vector<ZipPart> parts;
    int count_lie = 0;
    bool zip64 = false;

    std::string bytes() const {
        std::string file, directory;
        for (const ZipPart& part : parts) {
            const std::uint64_t offset = file.size() + static_cast<std::uint64_t>(part.offset_lie);
            const std::uint64_t size = part.data.size() + static_cast<std::uint64_t>(part.size_lie);
            const std::string& local_name = part.local_name.empty() ? part.name : part.local_name;
            file += "PK\3\4" + le<std::uint16_t>(20) + le(part.flags) + le(part.method) + le<std::uint32_t>(0) + le<std::uint32_t>(0) +
                    le(static_cast<std::uint32_t>(part.data.size())) + le(static_cast<std::uint32_t>(part.data.size())) +
                    le(static_cast<std::uint16_t>(local_name.size()));
            // Padding in the extra field, as torch.save writes it, so that the data are aligned.
            const std::size_t padding = (64 - (file.size() + 2 + local_name.size() + 4) % 64) % 64;
            file += le(static_cast<std::uint16_t>(padding + 4)) + local_name + "FB" + le(static_cast<std::uint16_t>(padding)) + std::string(padding, 'Z') + part.data;
            const std::string extra = part.zip64 ? le<std::uint16_t>(1) + le<std::uint16_t>(24) + le(size) + le(size) + le(offset) : "";
            const auto shown = [&](std::uint64_t value) { return le(part.zip64 ? 0xffffffffu : static_cast<std::uint32_t>(value)); };
            directory += "PK\1\2" + le<std::uint32_t>(0) + le(part.flags) + le(part.method) + le<std::uint32_t>(0) + le<std::uint32_t>(0) + shown(size) +
                         shown(size) + le(static_cast<std::uint16_t>(part.name.size())) + le(static_cast<std::uint16_t>(extra.size())) + le<std::uint16_t>(0) +
                         le<std::uint64_t>(0) + shown(offset) + part.name + extra;
        }
        const std::uint64_t start = file.size(), count = parts.size() + static_cast<std::uint64_t>(count_lie);
        file += directory;
        if (zip64) {
            const std::uint64_t end64 = file.size();
            file += "PK\6\6" + le<std::uint64_t>(44) + le<std::uint32_t>(0) + le<std::uint32_t>(0) + le<std::uint32_t>(0) + le(count) + le(count) +
                    le(static_cast<std::uint64_t>(directory.size())) + le(start);
            file += "PK\6\7" + le<std::uint32_t>(0) + le(end64) + le<std::uint32_t>(1);
        }
        const auto short_count = static_cast<std::uint16_t>(zip64 ? 0xffff : count);
        return file + "PK\5\6" + le<std::uint32_t>(0) + le(short_count) + le(short_count) + le(static_cast<std::uint32_t>(directory.size())) +
               le(zip64 ? 0xffffffffu : static_cast<std::uint32_t>(start)) + le<std::uint16_t>(0);
    }
};

inline std::string floats(const std::vector<float>& values) { return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)}; }

inline const std::vector<float> six_values{0, 1, 2, 3, 4, 5};

inline ZipBuilder torch_zip(const std::string& pickle, const std::string& storage = floats(six_values)) {
    return {.parts = {{.name = "archive/data.pkl", .data = pickle}, {.name = "archive/byteorder", .data = "little"}, {.name = "archive/data/0", .data = storage}}};
}

}  // namespace mixwright::checkpoint::testing
