// A GGUF's tensors taken apart and put together: rows cut out of a tensor, the rows of q and k back in the order that rotates
// halves, norms less the one that llama.cpp's converter adds, latent keys and values in one matrix. It knows no names.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/tensor_source.h"

namespace mixwright::arch {

class GgufView final : public checkpoint::TensorSource {
public:
    enum class Form {
        as_stored,
        halves,        // rows of `heads` heads: ggml rotates neighbours (2j, 2j + 1), Hugging Face halves (j, j + d/2)
        minus_one,     // f32 values less one
        latent_heads,  // for each of `heads` heads the transpose of its keys [rank, nope], then its values [v, rank]
    };
    /// A tensor of the view, out of `stored` from byte `offset` on.
    struct Part {
        const checkpoint::TensorInfo* stored = nullptr;
        std::uint64_t offset = 0;
        Form form = Form::as_stored;
        std::int64_t heads = 0;
        const checkpoint::TensorInfo* values = nullptr;  // of latent_heads; `stored` are the keys
    };

    explicit GgufView(std::shared_ptr<const checkpoint::TensorSource> source) : source_(std::move(source)) {}

    /// Error(malformed) when there is a tensor of that name.
    void add(checkpoint::TensorInfo info, Part part);
    /// To be called once, after the last add().
    void finish();

    const std::vector<checkpoint::TensorInfo>& tensors() const override { return infos_; }
    checkpoint::TensorBytes bytes(const checkpoint::TensorInfo& info) const override;
    void read(const checkpoint::TensorInfo& info, std::uint64_t offset, std::span<std::byte> out) const override;
    void drop(const checkpoint::TensorInfo& info) const override;
    std::string where(const checkpoint::TensorInfo& info) const override { return source_->where(*part_of(info).stored); }

private:
    const Part& part_of(const checkpoint::TensorInfo& info) const;
    void read_rows(const checkpoint::TensorInfo& info, const Part& part, std::uint64_t offset, std::span<std::byte> out) const;
    void read_less_one(const Part& part, std::uint64_t offset, std::span<std::byte> out) const;
    void read_latent_heads(const checkpoint::TensorInfo& info, const Part& part, std::uint64_t offset, std::span<std::byte> out) const;

    std::shared_ptr<const checkpoint::TensorSource> source_;
    std::map<std::string, std::pair<checkpoint::TensorInfo, Part>> parts_;
    std::vector<checkpoint::TensorInfo> infos_;
};

}  // namespace mixwright::arch
