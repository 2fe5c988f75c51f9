#include "arch/canonical.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <unordered_set>

#include "arch/gguf_config.h"
#include "arch/gguf_names.h"
#include "error.h"

namespace mixwright::arch {
namespace {

using checkpoint::TensorBytes;
using checkpoint::TensorInfo;
using checkpoint::TensorSource;
using checkpoint::shape_text;

// Where the values of a canonical tensor are: a matrix of `rows` x `cols` inside `disk`, starting at element `offset`.
// Transposed: the stored matrix is [cols, rows] with rows `stride` elements apart.
struct Piece {
    TensorInfo info;             // canonical name, dtype and shape
    const TensorInfo* disk = nullptr;
    std::int64_t offset = 0;
    bool transposed = false;
    std::int64_t stride = 0;
};

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
        TensorBytes stored = source_->bytes(*p.disk);
        if (p.transposed) return transpose(p, stored.bytes);
        stored.bytes = stored.bytes.subspan(byte_offset(p), info.num_bytes());
        return stored;
    }

    void read(const TensorInfo& info, std::uint64_t offset, std::span<std::byte> out) const override {
        const Piece& p = piece(info);
        if (p.transposed) return TensorSource::read(info, offset, out);
        source_->read(*p.disk, byte_offset(p) + offset, out);
    }

private:
    static std::size_t byte_offset(const Piece& p) { return static_cast<std::size_t>(p.offset) * dtype_bytes(p.info.dtype); }

    const Piece& piece(const TensorInfo& info) const {
        return *std::ranges::lower_bound(pieces_, info.name, {}, [](const Piece& p) -> const std::string& { return p.info.name; });
    }

    // stored [cols, stride] -> [rows, cols]
    static TensorBytes transpose(const Piece& p, std::span<const std::byte> stored) {
        const auto rows = static_cast<std::size_t>(p.info.shape[0]), cols = static_cast<std::size_t>(p.info.shape[1]);
        const std::size_t size = dtype_bytes(p.info.dtype), stride = static_cast<std::size_t>(p.stride);
        auto buffer = std::make_shared<std::vector<std::byte>>(p.info.num_bytes());
        const std::byte* first = stored.data() + byte_offset(p);
        constexpr std::size_t tile = 32;  // keeps both sides of the transpose in cache
        for (std::size_t r0 = 0; r0 < rows; r0 += tile)
            for (std::size_t c = 0; c < cols; ++c)
                for (std::size_t r = r0; r < std::min(rows, r0 + tile); ++r)
                    std::memcpy(buffer->data() + (r * cols + c) * size, first + (c * stride + r) * size, size);
        return {{buffer->data(), buffer->size()}, buffer, false};
    }

    std::shared_ptr<const TensorSource> source_;
    std::vector<Piece> pieces_;
    std::vector<TensorInfo> infos_;
};

// ---- finding the pieces -----------------------------------------------------------------------------------------

enum class MlpPart { gate, up, down };

class PieceFinder {
public:
    PieceFinder(const TensorSource& source, const ModelSpec& spec, std::string model_name)
        : source_(source), spec_(spec), model_name_(std::move(model_name)) {}

    std::vector<Piece> find_all() {
        std::vector<Piece> pieces;
        for (const TensorSlot& slot : tensor_slots(spec_)) {
            if (auto piece = find(slot)) {
                used_.insert(piece->disk->name);
                pieces.push_back(std::move(*piece));
            }
        }
        if (num_problems_ > 0)
            throw Error(ErrorCode::mismatch,
                        fmt::format("{}: {} tensors do not fit its config.json:{}{}", model_name_, num_problems_, problems_,
                                    num_problems_ > max_listed ? "\n    ..." : ""),
                        "the download may be incomplete, or config.json may belong to another model");
        return pieces;
    }

    std::vector<std::string> unused() const {
        std::vector<std::string> names;
        for (const TensorInfo& info : source_.tensors()) {
            const bool buffer = info.name.ends_with("rotary_emb.inv_freq") || info.name.ends_with("attn.masked_bias");
            const bool tied_head = spec_.tied_embeddings && info.name == "lm_head.weight";
            if (!buffer && !tied_head && !used_.contains(info.name)) names.push_back(info.name);
        }
        return names;
    }

private:
    static constexpr int max_listed = 12;

    void problem(std::string text) {
        if (num_problems_++ < max_listed) problems_ += "\n    " + std::move(text);
    }

    std::optional<Piece> find(const TensorSlot& slot) {
        if (const TensorInfo* disk = source_.find(slot.name)) {
            if (disk->shape == slot.shape) return Piece{{slot.name, disk->dtype, slot.shape}, disk};
            problem(fmt::format("{}: {} (got {}, expected {})", source_.where(*disk), printable(slot.name),
                                shape_text(disk->shape), shape_text(slot.shape)));
            return std::nullopt;
        }
        if (slot.role == TensorRole::router && slot.name == layer_tensor(slot.layer, spec_.architecture->moe->router))
            if (const TensorInfo* disk = source_.find(layer_tensor(slot.layer, "mlp.gate.weight")); disk && disk->shape == slot.shape)
                return Piece{{slot.name, disk->dtype, slot.shape}, disk};
        if (slot.role == TensorRole::expert)
            if (auto piece = find_fused(slot)) return piece;
        problem(fmt::format("{} {} is missing", printable(slot.name), shape_text(slot.shape)));
        return std::nullopt;
    }

    // transformers 5 keeps all experts of a layer in one tensor: gate_up_proj [E, 2F, D] (gate rows first) and down_proj
    // [E, D, F]; some checkpoints hold the transposes [E, D, 2F] and [E, F, D].
    std::optional<Piece> find_fused(const TensorSlot& slot) const {
        const MlpNames names = expert_names(*spec_.architecture, slot.layer, slot.expert);
        const MlpPart part = slot.name == names.gate ? MlpPart::gate : slot.name == names.up ? MlpPart::up : MlpPart::down;
        const std::int64_t hidden = spec_.hidden_size, width = spec_.expert_width;
        const std::int64_t out = part == MlpPart::down ? hidden : 2 * width, in = part == MlpPart::down ? width : hidden;

        const TensorInfo* disk = nullptr;
        for (const std::string_view prefix : {std::string_view("mlp.experts"), spec_.architecture->moe->experts})
            if (disk == nullptr)
                disk = source_.find(layer_tensor(slot.layer, fmt::format("{}.{}", prefix, part == MlpPart::down ? "down_proj" : "gate_up_proj")));
        if (disk == nullptr || disk->shape.size() != 3 || disk->shape[0] != spec_.num_experts) return std::nullopt;

        Piece piece{{slot.name, disk->dtype, slot.shape}, disk};
        piece.offset = slot.expert * out * in;
        const bool second_half = part == MlpPart::up;
        if (disk->shape[1] == out && disk->shape[2] == in) {
            if (second_half) piece.offset += width * hidden;
        } else if (disk->shape[1] == in && disk->shape[2] == out) {
            piece.transposed = true;
            piece.stride = out;
            if (second_half) piece.offset += width;
        } else {
            return std::nullopt;
        }
        return piece;
    }

    const TensorSource& source_;
    const ModelSpec& spec_;
    std::string model_name_;
    std::unordered_set<std::string> used_;
    std::string problems_;
    int num_problems_ = 0;
};

// From here on nothing has to know that the model came out of a GGUF.
void as_hugging_face(checkpoint::Checkpoint& checkpoint, std::string_view file) {
    checkpoint.config = config_from_gguf(checkpoint.config, *checkpoint.tensors, file);
    checkpoint.tensors = hf_view_of_gguf(checkpoint.tensors, architecture_of(checkpoint.config, file), checkpoint.config);
}

}  // namespace

OpenModel open_model(checkpoint::Checkpoint checkpoint) {
    OpenModel model;
    model.checkpoint = std::move(checkpoint);
    const bool gguf = model.checkpoint.format == checkpoint::Format::gguf;
    const std::string config_file = (gguf ? model.checkpoint.path : model.checkpoint.path / "config.json").string();
    if (gguf) as_hugging_face(model.checkpoint, config_file);
    model.spec = parse_config(model.checkpoint.config, config_file);
    PieceFinder finder(*model.checkpoint.tensors, model.spec, printable(model.checkpoint.name, 1000));
    auto pieces = finder.find_all();
    model.unused = finder.unused();
    model.tensors = std::make_shared<CanonicalTensors>(model.checkpoint.tensors, std::move(pieces));
    return model;
}

OpenModel open_model(std::string_view model) { return open_model(checkpoint::open_checkpoint(model)); }

}  // namespace mixwright::arch
