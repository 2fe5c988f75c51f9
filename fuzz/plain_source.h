// Tensors that are names and shapes alone, for targets that look at how tensors are found: every byte is zero, and whoever
// reads past the end of one ends the program.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include "checkpoint/tensor_source.h"

namespace mixwright::fuzz {

class PlainSource final : public checkpoint::TensorSource {
public:
    /// Null when the tensors have more than `limit` bytes together, or two have one name.
    static std::shared_ptr<const PlainSource> make(std::vector<checkpoint::TensorInfo> infos, std::uint64_t limit = 1 << 20) {
        auto source = std::make_shared<PlainSource>();
        std::ranges::sort(infos, {}, &checkpoint::TensorInfo::name);
        std::uint64_t bytes = 0;
        for (std::size_t i = 0; i < infos.size(); ++i) {
            if (i > 0 && infos[i].name == infos[i - 1].name) return nullptr;
            if ((bytes += infos[i].num_bytes()) > limit) return nullptr;
        }
        source->infos_ = std::move(infos);
        return source;
    }

    const std::vector<checkpoint::TensorInfo>& tensors() const override { return infos_; }
    checkpoint::TensorBytes bytes(const checkpoint::TensorInfo& info) const override { return slice(info, 0, info.num_bytes()); }
    checkpoint::TensorBytes slice(const checkpoint::TensorInfo& info, std::uint64_t offset, std::uint64_t length) const override {
        const std::uint64_t size = at(info.name).num_bytes();
        if (offset > size || length > size - offset) std::abort();
        const auto zeros = std::make_shared<std::vector<std::byte>>(length);
        return {{zeros->data(), zeros->size()}, zeros, false};
    }
    std::string where(const checkpoint::TensorInfo&) const override { return "fuzz"; }

private:
    std::vector<checkpoint::TensorInfo> infos_;
};

/// Reads every tensor of `source`, whole and in its last byte.
inline void read_all(const checkpoint::TensorSource& source) {
    for (const checkpoint::TensorInfo& info : source.tensors()) {
        const std::uint64_t size = info.num_bytes();
        if (source.bytes(info).bytes.size() != size) std::abort();
        std::byte last{};
        if (size > 0) source.read(info, size - 1, {&last, 1});
    }
}

}  // namespace mixwright::fuzz
