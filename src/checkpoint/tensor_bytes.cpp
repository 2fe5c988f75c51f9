#include "checkpoint/tensor_bytes.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

#include "checkpoint/convert.h"
#include "checkpoint/normal_noise.h"
#include "error.h"

namespace mixwright::checkpoint {
namespace {

constexpr std::size_t block_elements = 64 << 10;  // converted at once: fits the second-level cache

bool is_computed(const Piece& piece, Dtype to) { return piece.scale != 1.0 || piece.noise != 0.0 || piece.tensor.dtype != to; }

// One source tensor: mapped, or decoded as a whole.
class PieceBytes {
public:
    PieceBytes(const Piece& piece, Dtype to) : piece_(piece), bytes_(piece.source->bytes(piece.tensor)) {
        if (bytes_.bytes.size() != piece.tensor.num_bytes())
            throw Error(ErrorCode::internal, fmt::format("{}: tensor {}: {} bytes, its shape takes {}", piece.source->where(piece.tensor),
                                                         printable(piece.tensor.name), bytes_.bytes.size(), piece.tensor.num_bytes()));
        copied_ = bytes_.mapped && !is_computed(piece, to);
    }
    PieceBytes(const PieceBytes&) = delete;
    PieceBytes& operator=(const PieceBytes&) = delete;
    ~PieceBytes() { piece_.source->drop(piece_.tensor); }

    /// Whether the bytes stand in a file as they will in the output: checked against it, not hashed.
    bool copied() const { return copied_; }

    /// Mapped bytes are read from their file: should it have shrunk, that is an error and not a signal.
    void read(std::uint64_t offset, std::span<std::byte> out) const {
        if (bytes_.mapped)
            piece_.source->read(piece_.tensor, offset, out);
        else if (!out.empty())
            std::memcpy(out.data(), bytes_.bytes.data() + offset, out.size());
    }

private:
    const Piece& piece_;
    TensorBytes bytes_;
    bool copied_ = false;
};

class TensorSender {
public:
    TensorSender(const OutputTensor& tensor, ShardStream& stream, const Advanced& advanced)
        : tensor_(tensor), stream_(stream), advanced_(advanced) {}

    void send() {
        if (const auto* pieces = std::get_if<Pieces>(&tensor_.content)) {
            for (const Piece& piece : *pieces) send(piece);
        } else if (const auto* owned = std::get_if<OwnedBytes>(&tensor_.content)) {
            if (owned->size() != tensor_.info.num_bytes())
                throw Error(ErrorCode::internal, fmt::format("planned tensor {} has no bytes", printable(tensor_.info.name)));
            stream_.append(*owned);
            advanced_(owned->size());
        } else {
            transfer(tensor_.info.num_bytes(), ShardStream::Hash::yes, std::get<Generated>(tensor_.content).fill);
        }
    }

private:
    // Has `fill(offset, out)` fill the stream with `bytes` bytes. Tensors begin at multiples of their element size and
    // buffers at larger ones, so `out` always holds whole elements.
    template <class Fill>
    void transfer(std::uint64_t bytes, ShardStream::Hash hash, Fill fill) {
        for (std::uint64_t offset = 0; offset < bytes;) {
            const std::span<std::byte> space = stream_.space();
            const auto size = static_cast<std::size_t>(std::min<std::uint64_t>(space.size(), bytes - offset));
            fill(offset, space.first(size));
            stream_.advance(size, hash);
            advanced_(size);
            offset += size;
        }
    }

    void send(const Piece& piece) {
        const Dtype to = tensor_.info.dtype;
        const PieceBytes source(piece, to);
        const bool computed = is_computed(piece, to);
        const std::uint64_t bytes = static_cast<std::uint64_t>(piece.tensor.numel()) * dtype_bytes(to);
        transfer(bytes, source.copied() ? ShardStream::Hash::no : ShardStream::Hash::yes, [&](std::uint64_t offset, std::span<std::byte> out) {
            if (!computed) return source.read(offset, out);
            for (std::size_t done = 0; done < out.size();) {
                const std::size_t size = std::min(block_elements * dtype_bytes(to), out.size() - done);
                block(piece, source, (offset + done) / dtype_bytes(to), out.subspan(done, size));
                done += size;
            }
        });
        sent_elements_ += static_cast<std::uint64_t>(piece.tensor.numel());
    }

    void block(const Piece& piece, const PieceBytes& source, std::uint64_t first, std::span<std::byte> out) {
        const std::size_t from_bytes = dtype_bytes(piece.tensor.dtype), count = out.size() / dtype_bytes(tensor_.info.dtype);
        raw_.resize(count * from_bytes);
        source.read(first * from_bytes, raw_);
        if (piece.scale == 1.0 && piece.noise == 0.0) return convert(raw_, piece.tensor.dtype, out, tensor_.info.dtype);
        values_.resize(count);
        to_float(raw_, piece.tensor.dtype, values_);
        const auto scale = static_cast<float>(piece.scale), noise = static_cast<float>(piece.noise);
        for (float& value : values_) value *= scale;
        if (noise != 0) {
            const std::uint64_t stream = noise_stream(tensor_.info.name, piece.seed);
            for (std::size_t i = 0; i < count; ++i) values_[i] += noise * normal(stream, sent_elements_ + first + i);
        }
        from_float(values_, out, tensor_.info.dtype);
    }

    const OutputTensor& tensor_;
    ShardStream& stream_;
    const Advanced& advanced_;
    std::uint64_t sent_elements_ = 0;  // of pieces that are through
    std::vector<std::byte> raw_;
    std::vector<float> values_;
};

}  // namespace

void send_tensor(const OutputTensor& tensor, ShardStream& stream, const Advanced& advanced) { TensorSender(tensor, stream, advanced).send(); }

bool check_tensor(const OutputTensor& tensor, const io::File& file, std::uint64_t offset, io::Sha256& hash, const Advanced& advanced) {
    std::vector<std::byte> found(1u << 20), expected(found.size());
    const auto check = [&](std::uint64_t bytes, const PieceBytes* source) {
        for (std::uint64_t done = 0; done < bytes;) {
            const auto size = static_cast<std::size_t>(std::min<std::uint64_t>(found.size(), bytes - done));
            file.read_at(offset, std::span(found).first(size));
            if (source == nullptr) {
                hash.update(std::span(found).first(size));
            } else {
                source->read(done, std::span(expected).first(size));
                if (!std::equal(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(size), expected.begin())) return false;
            }
            offset += size;
            done += size;
            advanced(size);
        }
        return true;
    };
    const auto* pieces = std::get_if<Pieces>(&tensor.content);
    if (pieces == nullptr) return check(tensor.info.num_bytes(), nullptr);
    for (const Piece& piece : *pieces) {
        const PieceBytes source(piece, tensor.info.dtype);
        const std::uint64_t bytes = static_cast<std::uint64_t>(piece.tensor.numel()) * dtype_bytes(tensor.info.dtype);
        if (!check(bytes, source.copied() ? &source : nullptr)) return false;
    }
    return true;
}

}  // namespace mixwright::checkpoint
