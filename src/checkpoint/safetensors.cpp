#include "checkpoint/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <tuple>
#include <utility>

#include "checked.h"
#include "error.h"
#include "io/json.h"

namespace mixwright::checkpoint {
namespace {

constexpr std::uint64_t max_json_bytes = 100'000'000;  // the format's own limit
constexpr std::size_t max_tensors = 1'000'000;         // a model of 1,000 layers and 256 experts has 770,000
constexpr std::size_t max_rank = 8;
constexpr std::size_t max_name_bytes = 1024;

// A state machine over the parser's events: it knows the one shape a header may have and builds no tree, so headers of
// tens of thousands of tensors cost little more than their bytes.
class HeaderHandler final : public nlohmann::json_sax<io::Json> {
public:
    HeaderHandler(SafetensorsHeader& header, std::string_view source) : header_(header), source_(source) {}

    bool start_object(std::size_t) override {
        switch (place_) {
            case Place::start: place_ = Place::top; return true;
            case Place::metadata: place_ = Place::metadata_keys; return true;
            case Place::tensor: place_ = Place::fields; return true;
            default: unexpected("an object");
        }
    }

    bool end_object() override {
        switch (place_) {
            case Place::fields:
                if (!dtype_) fail_tensor("has no dtype");
                if (!has_shape_) fail_tensor("has no shape");
                if (offsets_.size() != 2) fail_tensor("has no data_offsets");
                header_.entries.push_back({{name_, *dtype_, shape_}, offsets_[0], offsets_[1]});
                place_ = Place::top;
                return true;
            case Place::metadata_keys: place_ = Place::top; return true;
            case Place::top: place_ = Place::end; return true;
            default: unexpected("the end of an object");
        }
    }

    bool start_array(std::size_t) override {
        if (place_ == Place::shape) {
            place_ = Place::dims;
            has_shape_ = true;
        } else if (place_ == Place::data_offsets) {
            place_ = Place::offset_values;
        } else {
            unexpected("an array");
        }
        return true;
    }

    bool end_array() override {
        if (place_ == Place::offset_values && offsets_.size() != 2)
            fail_tensor(fmt::format("data_offsets has {} values, expected 2", offsets_.size()));
        place_ = Place::fields;
        return true;
    }

    bool key(string_t& name) override {
        switch (place_) {
            case Place::top: return top_key(name);
            case Place::metadata_keys:
                metadata_key_ = name;
                if (header_.metadata.contains(name)) fail(fmt::format("__metadata__: key {} occurs twice", printable(name)));
                place_ = Place::metadata_value;
                return true;
            case Place::fields: return field_key(name);
            default: unexpected("a key");
        }
    }

    bool string(string_t& value) override {
        if (place_ == Place::metadata_value) {
            header_.metadata.emplace(metadata_key_, value);
            place_ = Place::metadata_keys;
        } else if (place_ == Place::dtype) {
            dtype_ = dtype_from_safetensors(value);
            if (!dtype_)
                throw Error(ErrorCode::unsupported, fmt::format("{}: tensor {}: unknown dtype {}", source_, printable(name_), printable(value)),
                            "the known ones are F64, F32, F16, BF16, F8_E4M3, F8_E5M2, I64 to I8, U64 to U8, BOOL");
            place_ = Place::fields;
        } else {
            unexpected("a string");
        }
        return true;
    }

    bool number_unsigned(number_unsigned_t value) override {
        if (place_ == Place::dims) {
            if (shape_.size() == max_rank) fail_tensor(fmt::format("has more than {} dimensions", max_rank));
            if (!std::in_range<std::int64_t>(value)) fail_tensor(fmt::format("dimension {} is out of range", value));
            shape_.push_back(static_cast<std::int64_t>(value));
        } else if (place_ == Place::offset_values) {
            if (offsets_.size() == 2) fail_tensor("data_offsets has more than 2 values");
            offsets_.push_back(value);
        } else {
            unexpected("a number");
        }
        return true;
    }

    bool null() override { unexpected("null"); }
    bool boolean(bool) override { unexpected("a boolean"); }
    bool number_integer(number_integer_t) override { unexpected("a negative number"); }
    bool number_float(number_float_t, const string_t&) override { unexpected("a number that is not whole"); }
    bool binary(binary_t&) override { unexpected("binary data"); }

    bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& e) override {
        throw Error(ErrorCode::malformed,
                    fmt::format("{}: header byte {}: not valid JSON: {}", source_, position, printable(e.what(), 300)),
                    "the file may be truncated or a download may have been cut off");
    }

private:
    enum class Place {
        start, top, metadata, metadata_keys, metadata_value, tensor, fields, dtype, shape, dims, data_offsets, offset_values, end
    };

    [[noreturn]] void fail(const std::string& what) const { throw Error(ErrorCode::malformed, fmt::format("{}: {}", source_, what)); }
    [[noreturn]] void fail_tensor(const std::string& what) const { fail(fmt::format("tensor {}: {}", printable(name_), what)); }

    [[noreturn]] void unexpected(const char* got) const {
        switch (place_) {
            case Place::start: fail(fmt::format("the header is not an object (got {})", got));
            case Place::metadata: fail(fmt::format("__metadata__ is not an object (got {})", got));
            case Place::metadata_value: fail(fmt::format("__metadata__: the value of {} is not a string (got {})", printable(metadata_key_), got));
            case Place::tensor: fail_tensor(fmt::format("is not an object (got {})", got));
            case Place::dtype: fail_tensor(fmt::format("dtype is not a string (got {})", got));
            case Place::shape: fail_tensor(fmt::format("shape is not an array (got {})", got));
            case Place::dims: fail_tensor(fmt::format("shape holds {}, expected whole numbers", got));
            case Place::data_offsets: fail_tensor(fmt::format("data_offsets is not an array (got {})", got));
            case Place::offset_values: fail_tensor(fmt::format("data_offsets holds {}, expected whole numbers", got));
            default: fail(fmt::format("{} where none may stand", got));
        }
    }

    bool top_key(const std::string& name) {
        if (name == "__metadata__") {
            if (has_metadata_) fail("__metadata__ occurs twice");
            has_metadata_ = true;
            place_ = Place::metadata;
            return true;
        }
        if (name.size() > max_name_bytes) fail(fmt::format("a tensor name is {} bytes long (limit {})", name.size(), max_name_bytes));
        if (header_.entries.size() == max_tensors) fail(fmt::format("more than {} tensors", max_tensors));
        name_ = name;
        dtype_.reset();
        has_shape_ = false;
        shape_.clear();
        offsets_.clear();
        seen_ = {};
        place_ = Place::tensor;
        return true;
    }

    bool field_key(const std::string& field) {
        struct Field {
            std::string_view name;
            Place place;
        };
        static constexpr Field fields[] = {{"dtype", Place::dtype}, {"shape", Place::shape}, {"data_offsets", Place::data_offsets}};
        for (std::size_t i = 0; i < std::size(fields); ++i)
            if (fields[i].name == field) {
                if (std::exchange(seen_[i], true)) fail_tensor(fmt::format("{} occurs twice", field));
                place_ = fields[i].place;
                return true;
            }
        fail_tensor(fmt::format("unknown key {}", printable(field)));
    }

    SafetensorsHeader& header_;
    std::string_view source_;
    Place place_ = Place::start;
    bool has_metadata_ = false, has_shape_ = false;
    std::array<bool, 3> seen_{};
    std::string name_, metadata_key_;
    std::optional<Dtype> dtype_;
    std::vector<std::int64_t> shape_;
    std::vector<std::uint64_t> offsets_;
};

// Tensors must lie end to end from the start of the data to the end of the file.
void check_placement(SafetensorsHeader& header, std::uint64_t data_bytes, std::string_view source) {
    std::ranges::sort(header.entries, [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
        return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
    });
    std::uint64_t expected = 0;
    for (const SafetensorsEntry& entry : header.entries) {
        const auto fail = [&](const std::string& what) {
            throw Error(ErrorCode::malformed, fmt::format("{}: tensor {}: {}", source, printable(entry.info.name), what));
        };
        if (entry.begin != expected)
            fail(fmt::format("{} (data begins at byte {}, the tensor before it ends at {})",
                             entry.begin < expected ? "overlaps the tensor before it" : "leaves a hole before it", entry.begin, expected));
        if (entry.end < entry.begin) fail(fmt::format("ends before it begins (data_offsets {} and {})", entry.begin, entry.end));
        if (entry.end > data_bytes)
            fail(fmt::format("ends at byte {} of the data, which has {}", entry.end, data_bytes));
        std::uint64_t bytes = 0;
        try {
            bytes = entry.info.num_bytes();
        } catch (const Error& e) {
            fail(fmt::format("shape {}: {}", shape_text(entry.info.shape), e.message()));
        }
        if (bytes != entry.end - entry.begin)
            fail(fmt::format("shape {} of {} takes {} bytes, its data_offsets span {}", shape_text(entry.info.shape),
                             safetensors_name(entry.info.dtype), bytes, entry.end - entry.begin));
        expected = entry.end;
    }
    if (expected != data_bytes)
        throw Error(ErrorCode::malformed,
                    fmt::format("{}: {} bytes behind the last tensor (the data has {}, the tensors take {})", source,
                                data_bytes - expected, data_bytes, expected));
}

}  // namespace

std::uint64_t safetensors_json_bytes(std::span<const std::byte> prefix, std::uint64_t file_bytes, std::string_view source) {
    if (file_bytes < safetensors_prefix_bytes || prefix.size() < safetensors_prefix_bytes)
        throw Error(ErrorCode::malformed, fmt::format("{}: too short to be a safetensors file ({} bytes)", source, file_bytes),
                    "a Git LFS pointer or a cut-off download looks like this");
    std::uint64_t json_bytes = 0;
    for (std::size_t i = 0; i < safetensors_prefix_bytes; ++i) json_bytes |= std::to_integer<std::uint64_t>(prefix[i]) << (8 * i);
    if (json_bytes > max_json_bytes)
        throw Error(ErrorCode::malformed, fmt::format("{}: the header claims {} bytes (limit {})", source, json_bytes, max_json_bytes),
                    "this is not a safetensors file");
    if (json_bytes > file_bytes - safetensors_prefix_bytes)
        throw Error(ErrorCode::malformed, fmt::format("{}: the header claims {} bytes, the file has {}", source, json_bytes,
                                                      file_bytes - safetensors_prefix_bytes),
                    "the file may be truncated or a download may have been cut off");
    return json_bytes;
}

SafetensorsHeader parse_safetensors_json(std::string_view json, std::uint64_t file_bytes, std::string_view source) {
    // The parser takes a null byte for the end of its input, and skips a byte order mark.
    if (!json.starts_with('{'))
        throw Error(ErrorCode::malformed, fmt::format("{}: the header does not begin with an opening brace", source));
    if (const std::size_t null = json.find('\0'); null != std::string_view::npos)
        throw Error(ErrorCode::malformed, fmt::format("{}: header byte {}: not valid JSON: a null byte", source, null));

    const std::uint64_t data_begin = checked_add<std::uint64_t>(safetensors_prefix_bytes, json.size(), "header size");
    if (data_begin > file_bytes)
        throw Error(ErrorCode::malformed, fmt::format("{}: the header is longer than the file", source));

    SafetensorsHeader header;
    HeaderHandler handler(header, source);
    io::Json::sax_parse(json.begin(), json.end(), &handler);
    check_placement(header, file_bytes - data_begin, source);
    for (SafetensorsEntry& entry : header.entries) {
        entry.begin += data_begin;
        entry.end += data_begin;
    }
    auto& entries = header.entries;
    std::ranges::sort(entries, {}, [](const SafetensorsEntry& e) -> const std::string& { return e.info.name; });
    const auto twice = std::ranges::adjacent_find(entries, {}, [](const SafetensorsEntry& e) -> const std::string& { return e.info.name; });
    if (twice != entries.end())
        throw Error(ErrorCode::malformed, fmt::format("{}: tensor {} occurs twice", source, printable(twice->info.name)));
    return header;
}

}  // namespace mixwright::checkpoint
