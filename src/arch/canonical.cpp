#include "arch/canonical.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "arch/gguf_config.h"
#include "arch/gguf_names.h"
#include "arch/mxfp4.h"
#include "arch/stored_pieces.h"
#include "error.h"

namespace mixwright::arch {
namespace {

using checkpoint::TensorBytes;
using checkpoint::TensorInfo;
using checkpoint::TensorSource;

class CanonicalTensors final : public TensorSource {
public:
    CanonicalTensors(std::shared_ptr<const TensorSource> source, std::vector<Piece> pieces)
        : source_(std::move(source)), pieces_(std::move(pieces)) {
        std::ranges::sort(pieces_, {}, [](const Piece& p) -> const std::string& { return p.info.name; });
        for (const Piece& piece : pieces_) infos_.push_back(piece.info);
    }

    const std::vector<TensorInfo>& tensors() const override { return infos_; }
    std::string where(const TensorInfo& info) const override { return source_->where(*piece(info).disk); }
    // Dropping a whole stack for one slice costs its neighbours a page fault, no more.
    void drop(const TensorInfo& info) const override { source_->drop(*piece(info).disk); }

    TensorBytes bytes(const TensorInfo& info) const override {
        const Piece& p = piece(info);
        if (!p.contiguous()) return gather(p);
        if (info.num_bytes() == p.disk->num_bytes()) return source_->bytes(*p.disk);
        return source_->slice(*p.disk, byte_offset(p), info.num_bytes());
    }

    void read(const TensorInfo& info, std::uint64_t offset, std::span<std::byte> out) const override {
        const Piece& p = piece(info);
        if (!p.contiguous()) return TensorSource::read(info, offset, out);
        source_->read(*p.disk, byte_offset(p) + offset, out);
    }

private:
    static std::size_t byte_offset(const Piece& p) { return static_cast<std::size_t>(p.offset) * dtype_bytes(p.info.dtype); }

    const Piece& piece(const TensorInfo& info) const {
        return *std::ranges::lower_bound(pieces_, info.name, {}, [](const Piece& p) -> const std::string& { return p.info.name; });
    }

    // Values that lie apart, brought together in row-major order.
    TensorBytes gather(const Piece& p) const {
        const auto rows = static_cast<std::size_t>(p.rows()), columns = static_cast<std::size_t>(p.columns());
        const auto row_stride = static_cast<std::size_t>(p.row_stride), column_stride = static_cast<std::size_t>(p.column_stride);
        const std::size_t size = dtype_bytes(p.info.dtype), extent = (rows - 1) * row_stride + (columns - 1) * column_stride + 1;
        const TensorBytes stored = source_->slice(*p.disk, byte_offset(p), extent * size);
        auto buffer = std::make_shared<std::vector<std::byte>>(p.info.num_bytes());
        const std::byte* from = stored.bytes.data();
        std::byte* to = buffer->data();
        if (column_stride == 1) {
            for (std::size_t r = 0; r < rows; ++r) std::memcpy(to + r * columns * size, from + r * row_stride * size, columns * size);
        } else {
            constexpr std::size_t tile = 32;  // keeps both sides of the transpose in cache
            for (std::size_t r0 = 0; r0 < rows; r0 += tile)
                for (std::size_t c = 0; c < columns; ++c)
                    for (std::size_t r = r0; r < std::min(rows, r0 + tile); ++r)
                        std::memcpy(to + (r * columns + c) * size, from + (r * row_stride + c * column_stride) * size, size);
        }
        return {{buffer->data(), buffer->size()}, buffer, false};
    }

    std::shared_ptr<const TensorSource> source_;
    std::vector<Piece> pieces_;
    std::vector<TensorInfo> infos_;
};

// From here on nothing has to know that the model came out of a GGUF.
void as_hugging_face(checkpoint::Checkpoint& checkpoint, std::string_view file) {
    checkpoint.config = config_from_gguf(checkpoint.config, *checkpoint.tensors, file);
    checkpoint.tensors = hf_view_of_gguf(checkpoint.tensors, parse_config(checkpoint.config, file));
}

// Weights whose values only a quantisation scheme gives would be read as something else.
void check_quantization(const io::Json& config, std::string_view file) {
    const auto it = config.find("quantization_config");
    if (it == config.end() || !it->is_object()) return;
    const std::string method = it->contains("quant_method") && (*it)["quant_method"].is_string() ? (*it)["quant_method"].get<std::string>() : "";
    if (method != "mxfp4")
        throw Error(ErrorCode::unsupported, fmt::format("{}: quantization_config: \"{}\" is not read", file, printable(method)),
                    "take the model's unquantised release; MXFP4 and GGUF are read");
}

}  // namespace

OpenModel open_model(checkpoint::Checkpoint checkpoint) {
    OpenModel model;
    model.checkpoint = std::move(checkpoint);
    const bool gguf = model.checkpoint.format == checkpoint::Format::gguf;
    const std::string config_file = (gguf ? model.checkpoint.path : model.checkpoint.path / "config.json").string();
    if (gguf) as_hugging_face(model.checkpoint, config_file);
    model.spec = parse_config(model.checkpoint.config, config_file);
    check_quantization(model.checkpoint.config, config_file);
    const std::shared_ptr<const TensorSource> stored = decode_mxfp4(model.checkpoint.tensors);
    StoredPieces found = find_pieces(*stored, model.spec, printable(model.checkpoint.name, 1000));
    model.unused = std::move(found.unused);
    model.tensors = std::make_shared<CanonicalTensors>(stored, std::move(found.pieces));
    return model;
}

std::shared_ptr<const TensorSource> expert_tensors(const OpenModel& model, std::int64_t layer, std::int64_t expert) {
    const auto& zipped = model.spec.layers[static_cast<std::size_t>(layer)].zipped;
    if (!zipped) return model.tensors;
    const ExpertWindow window = zipped->windows[static_cast<std::size_t>(expert)];
    const MlpNames own = expert_names(*model.spec.architecture, layer, expert), group = expert_group_names(*model.spec.architecture, layer, window.group);
    const std::int64_t hidden = model.spec.hidden_size;
    std::vector<Piece> pieces;
    for (const auto& [name, rows] : {std::pair{own.gate, group.gate}, std::pair{own.up, group.up}}) {
        const TensorInfo& disk = model.tensors->at(rows);
        pieces.push_back({{name, disk.dtype, {window.width, hidden}}, &disk, window.first * hidden, hidden, 1});
    }
    const TensorInfo& down = model.tensors->at(own.down);
    pieces.push_back({down, &down, 0, window.width, 1});
    return std::make_shared<CanonicalTensors>(model.tensors, std::move(pieces));
}

OpenModel open_model(std::string_view model) { return open_model(checkpoint::open_checkpoint(model)); }

}  // namespace mixwright::arch
