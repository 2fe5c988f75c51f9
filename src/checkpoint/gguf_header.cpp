#include "checkpoint/gguf_header.h"

#include <fmt/format.h>
#include <ggml.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <unordered_set>

#include "checked.h"
#include "checkpoint/byte_reader.h"
#include "checkpoint/tensor_source.h"
#include "error.h"

namespace mixwright::checkpoint {
namespace {

using io::Json;

// Far above every published model, far below what would hurt.
constexpr std::uint64_t max_tensors = 1'000'000;
constexpr std::uint64_t max_keys = 100'000;
constexpr std::uint64_t max_name_bytes = 1024;
constexpr std::uint64_t max_string_bytes = 64u << 20;
constexpr std::uint64_t max_array_length = 4'000'000;   // the largest vocabulary we accept
constexpr std::uint64_t max_array_elements = 9'000'000; // of all arrays: tokens, scores and types, merges
constexpr int max_array_depth = 2;
constexpr std::uint32_t max_dims = 4;                   // ggml's own
constexpr std::uint32_t default_alignment = 32;
constexpr std::uint32_t max_alignment = 1u << 20;

enum class ValueType : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

// Smallest number of bytes an element can take: what is left of the file bounds an array before anything is allocated.
std::uint64_t least_bytes(ValueType type) {
    switch (type) {
        case ValueType::u8: case ValueType::i8: case ValueType::boolean: return 1;
        case ValueType::u16: case ValueType::i16: return 2;
        case ValueType::u32: case ValueType::i32: case ValueType::f32: return 4;
        case ValueType::string: case ValueType::u64: case ValueType::i64: case ValueType::f64: return 8;
        case ValueType::array: return 12;
    }
    return 1;
}

class HeaderParser {
public:
    HeaderParser(std::span<const std::byte> file, const std::string& source) : file_bytes_(file.size()), reader_(file, source) {}

    GgufHeader parse() {
        const std::string_view magic = reader_.text(4, "the magic");
        if (magic != "GGUF")
            reader_.fail_at(0, fmt::format("not a GGUF file (starts with \"{}\", expected \"GGUF\")", printable(magic)));
        read_version();
        const auto tensor_count = reader_.number<std::uint64_t>("the number of tensors");
        const auto key_count = reader_.number<std::uint64_t>("the number of metadata keys");
        if (tensor_count > max_tensors)
            reader_.fail_at(8, fmt::format("too many tensors (got {}, limit {})", tensor_count, max_tensors));
        if (key_count > max_keys)
            reader_.fail_at(16, fmt::format("too many metadata keys (got {}, limit {})", key_count, max_keys));
        for (std::uint64_t i = 0; i < key_count; ++i) read_key_value();
        const std::uint64_t alignment = read_alignment();
        for (std::uint64_t i = 0; i < tensor_count; ++i) read_tensor();
        place_tensors(alignment);
        return std::move(header_);
    }

private:
    void read_version() {
        header_.version = reader_.number<std::uint32_t>("the version");
        if (header_.version == 2 || header_.version == 3) return;
        const bool swapped = header_.version != 0 && (header_.version & 0xffff) == 0;
        const std::string what = swapped ? "a big-endian GGUF file" : fmt::format("GGUF version {}", header_.version);
        throw Error(ErrorCode::unsupported, fmt::format("{}: at byte 4: {} (versions 2 and 3, little-endian, are read)", reader_.source(), what),
                    "convert the model again with a current llama.cpp");
    }

    std::string read_string(const char* what, std::uint64_t limit) {
        const std::uint64_t start = reader_.offset();
        const auto length = reader_.number<std::uint64_t>(what);
        if (length > limit) reader_.fail_at(start, fmt::format("{} is too long (got {} bytes, limit {})", what, length, limit));
        return std::string(reader_.text(length, what));
    }

    std::string read_name(const char* what) {
        const std::uint64_t start = reader_.offset();
        std::string name = read_string(what, max_name_bytes);
        if (name.empty()) reader_.fail_at(start, fmt::format("{} is empty", what));
        if (name.find('\0') != std::string::npos) reader_.fail_at(start, fmt::format("{} holds a zero byte", what));
        return name;
    }

    ValueType read_type(const std::string& key) {
        const std::uint64_t start = reader_.offset();
        const auto type = reader_.number<std::uint32_t>("a value type");
        if (type > static_cast<std::uint32_t>(ValueType::f64))
            reader_.fail_at(start, fmt::format("key {} has an unknown value type (got {}, limit 12)", printable(key), type));
        return static_cast<ValueType>(type);
    }

    void read_key_value() {
        const std::uint64_t start = reader_.offset();
        std::string key = read_name("a metadata key");
        if (header_.metadata.contains(key)) reader_.fail_at(start, fmt::format("key {} occurs twice", printable(key)));
        const ValueType type = read_type(key);
        Json value = read_value(type, key, 0);
        header_.metadata.emplace(std::move(key), std::move(value));
    }

    Json read_value(ValueType type, const std::string& key, int depth) {
        switch (type) {
            case ValueType::u8: return reader_.number<std::uint8_t>("a value");
            case ValueType::i8: return reader_.number<std::int8_t>("a value");
            case ValueType::u16: return reader_.number<std::uint16_t>("a value");
            case ValueType::i16: return reader_.number<std::int16_t>("a value");
            case ValueType::u32: return reader_.number<std::uint32_t>("a value");
            case ValueType::i32: return reader_.number<std::int32_t>("a value");
            case ValueType::f32: return static_cast<double>(reader_.number<float>("a value"));
            case ValueType::u64: return reader_.number<std::uint64_t>("a value");
            case ValueType::i64: return reader_.number<std::int64_t>("a value");
            case ValueType::f64: return reader_.number<double>("a value");
            case ValueType::boolean: return read_boolean(key);
            case ValueType::string: return read_string("a string value", max_string_bytes);
            case ValueType::array: return read_array(key, depth);
        }
        reader_.fail("unknown value type");
    }

    Json read_boolean(const std::string& key) {
        const std::uint64_t start = reader_.offset();
        const auto value = reader_.number<std::uint8_t>("a boolean");
        if (value > 1) reader_.fail_at(start, fmt::format("key {} holds a boolean that is neither 0 nor 1 (got {})", printable(key), value));
        return value == 1;
    }

    Json read_array(const std::string& key, int depth) {
        const std::uint64_t start = reader_.offset();
        if (depth == max_array_depth) reader_.fail(fmt::format("key {}: arrays nested deeper than {}", printable(key), max_array_depth));
        const ValueType type = read_type(key);
        const auto length = reader_.number<std::uint64_t>("an array length");
        if (length > max_array_length)
            reader_.fail_at(start, fmt::format("key {}: the array is too long (got {}, limit {})", printable(key), length, max_array_length));
        array_elements_ += length;
        if (array_elements_ > max_array_elements)
            reader_.fail_at(start, fmt::format("key {}: the arrays hold too many elements (limit {})", printable(key), max_array_elements));
        if (length * least_bytes(type) > reader_.remaining())  // cannot overflow: both are small by now
            reader_.fail_at(start, fmt::format("key {}: an array of {} elements runs past the end of the file", printable(key), length),
                            "the file is truncated, or a download was cut off");
        Json::array_t values;
        values.reserve(length);
        for (std::uint64_t i = 0; i < length; ++i) values.push_back(read_value(type, key, depth + 1));
        return values;
    }

    std::uint64_t read_alignment() {
        const auto it = header_.metadata.find("general.alignment");
        if (it == header_.metadata.end()) return default_alignment;
        const bool fits = it->is_number_unsigned() && it->get<std::uint64_t>() >= 8 && it->get<std::uint64_t>() <= max_alignment &&
                          std::has_single_bit(it->get<std::uint64_t>());
        if (!fits)
            reader_.fail(fmt::format("general.alignment is not a power of two from 8 to {} (got {})", max_alignment,
                                     printable(it->dump(-1, ' ', true, Json::error_handler_t::replace), 40)));
        return it->get<std::uint64_t>();
    }

    void read_tensor() {
        const std::uint64_t start = reader_.offset();
        GgufTensor tensor;
        tensor.name = read_name("a tensor name");
        const std::string shown = printable(tensor.name);
        if (!names_.insert(tensor.name).second) reader_.fail_at(start, fmt::format("tensor {} occurs twice", shown));

        const std::uint64_t dims_at = reader_.offset();
        const auto dims = reader_.number<std::uint32_t>("a number of dimensions");
        if (dims > max_dims) reader_.fail_at(dims_at, fmt::format("tensor {} has too many dimensions (got {}, limit {})", shown, dims, max_dims));
        for (std::uint32_t i = 0; i < dims; ++i) {
            const std::uint64_t at = reader_.offset();
            const auto dim = reader_.number<std::uint64_t>("a dimension");
            if (dim == 0 || !std::in_range<std::int64_t>(dim))
                reader_.fail_at(at, fmt::format("tensor {} has an impossible dimension (got {})", shown, dim));
            tensor.shape.push_back(static_cast<std::int64_t>(dim));
        }
        std::ranges::reverse(tensor.shape);

        const std::uint64_t type_at = reader_.offset();
        const auto type = reader_.number<std::uint32_t>("a tensor type");
        // The removed types keep their numbers, with blocks of no size.
        if (type >= GGML_TYPE_COUNT || ggml_blck_size(static_cast<ggml_type>(type)) <= 0 || ggml_type_size(static_cast<ggml_type>(type)) == 0)
            throw Error(ErrorCode::unsupported, fmt::format("{}: at byte {}: tensor {} has a type we do not know (got {})", reader_.source(), type_at, shown, type),
                        "quantise the model again with a current llama.cpp");
        tensor.type = static_cast<int>(type);
        tensor.bytes = stored_bytes(tensor, shown, dims_at);
        tensor.offset = reader_.number<std::uint64_t>("a tensor offset");
        header_.tensors.push_back(std::move(tensor));
    }

    std::uint64_t stored_bytes(const GgufTensor& tensor, const std::string& shown, std::uint64_t dims_at) const {
        const auto type = static_cast<ggml_type>(tensor.type);
        const std::int64_t block = ggml_blck_size(type);
        const std::int64_t row = tensor.shape.empty() ? 1 : tensor.shape.back();
        if (row % block != 0)
            reader_.fail_at(dims_at, fmt::format("tensor {}: rows of {} values are not whole blocks of {} ({})", shown, row, block, ggml_type_name(type)));
        std::uint64_t bytes = ggml_type_size(type);
        bool fits = !__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(row / block), &bytes);
        for (std::size_t i = 0; i + 1 < tensor.shape.size(); ++i)
            fits = fits && !__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(tensor.shape[i]), &bytes);
        if (fits) return bytes;
        reader_.fail_at(dims_at, fmt::format("tensor {}: the size of {} overflows", shown, shape_text(tensor.shape)));
    }

    void place_tensors(std::uint64_t alignment) {
        const auto align = [&](std::uint64_t offset) { return checked_mul(checked_add(offset, alignment - 1, "alignment") / alignment, alignment, "alignment"); };
        header_.data_offset = align(reader_.offset());
        for (GgufTensor& tensor : header_.tensors) {
            const std::string shown = printable(tensor.name);
            if (tensor.offset % alignment != 0)
                reader_.fail(fmt::format("tensor {}: its offset is not a multiple of the alignment (got {}, alignment {})", shown, tensor.offset, alignment));
            std::uint64_t begin = 0, end = 0;
            if (__builtin_add_overflow(header_.data_offset, tensor.offset, &begin) || __builtin_add_overflow(begin, tensor.bytes, &end) || end > file_bytes_)
                reader_.fail(fmt::format("tensor {}: its data lies outside the file ({} bytes at {} after the header, the file has {})", shown,
                                         tensor.bytes, tensor.offset, file_bytes_), "the file is truncated, or a download was cut off");
            tensor.offset = begin;
        }
        reject_overlaps();
    }

    // Two tensors in the same bytes let a small file stand for a huge model.
    void reject_overlaps() const {
        std::vector<const GgufTensor*> order;
        order.reserve(header_.tensors.size());
        for (const GgufTensor& tensor : header_.tensors) order.push_back(&tensor);
        std::ranges::sort(order, {}, &GgufTensor::offset);
        for (std::size_t i = 1; i < order.size(); ++i)
            if (order[i - 1]->offset + order[i - 1]->bytes > order[i]->offset)
                reader_.fail(fmt::format("tensors {} and {} overlap", printable(order[i - 1]->name), printable(order[i]->name)));
    }

    std::uint64_t file_bytes_;
    ByteReader reader_;
    GgufHeader header_;
    std::unordered_set<std::string> names_;
    std::uint64_t array_elements_ = 0;
};

}  // namespace

GgufHeader parse_gguf_header(std::span<const std::byte> file, const std::string& source) { return HeaderParser(file, source).parse(); }

}  // namespace mixwright::checkpoint
