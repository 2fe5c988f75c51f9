// Writes GGUF files for tests: right by default, wrong in one place on request.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace mixwright::checkpoint::testing {

class GgufBuilder {
public:
    enum Type : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

    std::string magic = "GGUF";
    std::uint32_t version = 3;
    std::uint32_t alignment = 32;         // used for padding; written only by a key
    std::int64_t extra_tensors = 0;       // how much the counts in the header lie
    std::int64_t extra_keys = 0;

    template <class T>
    static std::string raw(T value) {
        static_assert(std::is_arithmetic_v<T> || std::is_enum_v<T>);
        std::string bytes(sizeof(T), '\0');
        std::memcpy(bytes.data(), &value, sizeof(T));
        return bytes;
    }
    static std::string text(const std::string& value) { return raw<std::uint64_t>(value.size()) + value; }

    GgufBuilder& key(const std::string& name, std::uint32_t type, const std::string& value) {
        keys_.push_back(text(name) + raw(type) + value);
        return *this;
    }
    GgufBuilder& raw_key(std::string bytes) {
        keys_.push_back(std::move(bytes));
        return *this;
    }
    GgufBuilder& integer(const std::string& name, std::uint32_t value) { return key(name, u32, raw(value)); }
    GgufBuilder& words(const std::string& name, const std::string& value) { return key(name, string, text(value)); }

    /// `ne` in ggml's order; `offset` within the data section, by default behind what is there.
    GgufBuilder& tensor(const std::string& name, const std::vector<std::uint64_t>& ne, std::uint32_t type, const std::string& data,
                        std::int64_t offset = -1) {
        while (data_.size() % alignment != 0) data_ += '\0';
        std::string entry = text(name) + raw(static_cast<std::uint32_t>(ne.size()));
        for (const std::uint64_t n : ne) entry += raw(n);
        tensors_.push_back(entry + raw(type) + raw(offset < 0 ? static_cast<std::uint64_t>(data_.size()) : static_cast<std::uint64_t>(offset)));
        data_ += data;
        return *this;
    }
    GgufBuilder& floats(const std::string& name, const std::vector<std::uint64_t>& ne, const std::vector<float>& values) {
        return tensor(name, ne, 0, std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)));
    }

    std::string bytes() const {
        std::string file = header();
        while (file.size() % alignment != 0) file += '\0';
        return file + data_;
    }
    std::string header() const {
        std::string file = magic + raw(version) + raw(tensors_.size() + static_cast<std::uint64_t>(extra_tensors)) +
                           raw(keys_.size() + static_cast<std::uint64_t>(extra_keys));
        for (const std::string& key : keys_) file += key;
        for (const std::string& tensor : tensors_) file += tensor;
        return file;
    }

private:
    std::vector<std::string> keys_, tensors_;
    std::string data_;
};

inline void write_file(const std::filesystem::path& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

}  // namespace mixwright::checkpoint::testing
