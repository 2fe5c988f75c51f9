#include "checkpoint/tensor_bytes.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

#include "checkpoint/convert.h"
#include "error.h"

namespace mixwright::checkpoint {
namespace {

constexpr std::size_t block_elements = 64 << 10;  // converted at once: fits the second-level cache

// Ranges of one source tensor: straight out of its file where it lies there, else out of the whole, decoded once.
class PieceReader {
public:
    explicit PieceReader(const Piece& piece) : piece_(piece) {
        TensorBytes bytes = piece.source->bytes(piece.tensor);
        if (bytes.bytes.size() != piece.tensor.num_bytes())
            throw Error(ErrorCode::internal, fmt::format("{}: tensor {}: {} bytes, its shape takes {}", piece.source->where(piece.tensor),
                                                         printable(piece.tensor.name), bytes.bytes.size(), piece.tensor.num_bytes()));
        if (!bytes.mapped) decoded_ = std::move(bytes);
    }
    PieceReader(const PieceReader&) = delete;
    PieceReader& operator=(const PieceReader&) = delete;
    ~PieceReader() { piece_.source->drop(piece_.tensor); }

    void read(std::uint64_t offset, std::span<std::byte> out) const {
        if (out.empty()) return;
        if (decoded_.owner != nullptr || !decoded_.bytes.empty())
            std::memcpy(out.data(), decoded_.bytes.data() + offset, out.size());
        else
            piece_.source->read(piece_.tensor, offset, out);
    }

private:
    const Piece& piece_;
    TensorBytes decoded_;
};

std::uint64_t mix(std::uint64_t x) {  // the finaliser of SplitMix64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    return x ^ (x >> 31);
}

std::uint64_t name_hash(std::string_view name) {  // FNV-1a
    std::uint64_t hash = 0xCBF29CE484222325;
    for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3;
    return hash;
}

// The normal deviate of one element: a function of stream and element alone, so that chunks and restarts do not matter.
float normal(std::uint64_t stream, std::uint64_t element) {
    const std::uint64_t bits = mix(stream + 0x9E3779B97F4A7C15 * (element + 1));
    const double radius_uniform = (static_cast<double>(bits >> 32) + 1) * 0x1p-32, angle_uniform = static_cast<double>(bits & 0xFFFFFFFF) * 0x1p-32;
    return static_cast<float>(std::sqrt(-2 * std::log(radius_uniform)) * std::cos(2 * std::numbers::pi * angle_uniform));
}

class TensorSender {
public:
    TensorSender(const OutputTensor& tensor, ShardStream& stream, const std::function<void(std::uint64_t)>& advanced)
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
            transfer(tensor_.info.num_bytes(), std::get<Generated>(tensor_.content).fill);
        }
    }

private:
    // Has `fill(offset, out)` fill the stream with `bytes` bytes. Tensors begin at multiples of their element size and
    // buffers at larger ones, so `out` always holds whole elements.
    template <class Fill>
    void transfer(std::uint64_t bytes, Fill fill) {
        for (std::uint64_t offset = 0; offset < bytes;) {
            const std::span<std::byte> space = stream_.space();
            const auto size = static_cast<std::size_t>(std::min<std::uint64_t>(space.size(), bytes - offset));
            fill(offset, space.first(size));
            stream_.advance(size);
            advanced_(size);
            offset += size;
        }
    }

    void send(const Piece& piece) {
        const PieceReader reader(piece);
        const Dtype from = piece.tensor.dtype, to = tensor_.info.dtype;
        const bool computed = piece.scale != 1.0 || piece.noise != 0.0;
        const std::uint64_t bytes = static_cast<std::uint64_t>(piece.tensor.numel()) * dtype_bytes(to);
        transfer(bytes, [&](std::uint64_t offset, std::span<std::byte> out) {
            if (from == to && !computed) return reader.read(offset, out);
            for (std::size_t done = 0; done < out.size();) {
                const std::size_t size = std::min(block_elements * dtype_bytes(to), out.size() - done);
                block(piece, reader, (offset + done) / dtype_bytes(to), out.subspan(done, size), computed);
                done += size;
            }
        });
        sent_elements_ += static_cast<std::uint64_t>(piece.tensor.numel());
    }

    void block(const Piece& piece, const PieceReader& reader, std::uint64_t first, std::span<std::byte> out, bool computed) {
        const std::size_t from_bytes = dtype_bytes(piece.tensor.dtype), count = out.size() / dtype_bytes(tensor_.info.dtype);
        raw_.resize(count * from_bytes);
        reader.read(first * from_bytes, raw_);
        if (!computed) return convert(raw_, piece.tensor.dtype, out, tensor_.info.dtype);
        values_.resize(count);
        to_float(raw_, piece.tensor.dtype, values_);
        const auto scale = static_cast<float>(piece.scale), noise = static_cast<float>(piece.noise);
        for (float& value : values_) value *= scale;
        if (noise != 0) {
            const std::uint64_t stream = mix(piece.seed ^ mix(name_hash(tensor_.info.name)));
            for (std::size_t i = 0; i < count; ++i) values_[i] += noise * normal(stream, sent_elements_ + first + i);
        }
        from_float(values_, out, tensor_.info.dtype);
    }

    const OutputTensor& tensor_;
    ShardStream& stream_;
    const std::function<void(std::uint64_t)>& advanced_;
    std::uint64_t sent_elements_ = 0;  // of pieces that are through
    std::vector<std::byte> raw_;
    std::vector<float> values_;
};

}  // namespace

void send_tensor(const OutputTensor& tensor, ShardStream& stream, const std::function<void(std::uint64_t)>& advanced) {
    TensorSender(tensor, stream, advanced).send();
}

}  // namespace mixwright::checkpoint
