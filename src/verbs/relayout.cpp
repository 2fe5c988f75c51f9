// `relayout MODEL OUT --layout per-expert|fused`: the same weights with each expert's matrices on their own, as converters
// and older loaders expect them, or all experts of a layer stacked, as transformers 5 holds them in memory.
#include <fmt/format.h>

#include <set>

#include "arch/canonical.h"
#include "checkpoint/shard_index.h"
#include "checkpoint/writer.h"
#include "error.h"
#include "io/file.h"
#include "progress.h"
#include "verbs/resource_use.h"
#include "verbs/verb_table.h"

namespace mixwright::verbs {
namespace {

namespace fs = std::filesystem;
using checkpoint::OutputTensor;
using checkpoint::Pieces;

constexpr std::size_t max_config_bytes = 4u << 20;

bool is_weight_file(const fs::path& path) {
    static const std::set<std::string> extensions{".safetensors", ".bin", ".gguf", ".pt", ".pth", ".h5", ".msgpack", ".onnx"};
    return extensions.contains(path.extension().string()) || path.filename().string().ends_with(".index.json");
}

// Tokenizer, generation settings, model card: all that is neither weights nor config.json is taken over as it is.
std::vector<checkpoint::OutputFile> companions(const fs::path& directory) {
    std::set<fs::path> paths;
    for (const auto& entry : fs::directory_iterator(directory)) {
        const std::string name = entry.path().filename().string();
        if (entry.is_regular_file() && checkpoint::is_plain_file_name(name) && name != "config.json" && !is_weight_file(entry.path()))
            paths.insert(entry.path());
    }
    std::vector<checkpoint::OutputFile> files;
    for (const fs::path& path : paths) files.push_back({path.filename().string(), path});
    return files;
}

// All experts of a layer: gate_up_proj [E, 2F, D], gate rows first, and down_proj [E, D, F].
std::pair<OutputTensor, OutputTensor> stacked_experts(const arch::OpenModel& model, std::int64_t layer) {
    const arch::ModelSpec& spec = model.spec;
    Pieces gate_up, down;
    for (std::int64_t expert = 0; expert < spec.num_experts; ++expert) {
        const arch::MlpNames names = arch::expert_names(*spec.architecture, layer, expert);
        gate_up.push_back({model.tensors, model.tensors->at(names.gate)});
        gate_up.push_back({model.tensors, model.tensors->at(names.up)});
        down.push_back({model.tensors, model.tensors->at(names.down)});
    }
    const auto stack = [&](const char* name, Pieces pieces, std::int64_t rows, std::int64_t columns) {
        const Dtype dtype = pieces.front().tensor.dtype;
        for (const checkpoint::Piece& piece : pieces)
            if (piece.tensor.dtype != dtype)
                throw Error(ErrorCode::unsupported, fmt::format("{}: {} is {}, other experts of the layer are {}: they cannot share a tensor", model.checkpoint.name,
                                                                printable(piece.tensor.name), torch_name(piece.tensor.dtype), torch_name(dtype)));
        return OutputTensor{{arch::layer_tensor(layer, fmt::format("mlp.experts.{}", name)), dtype, {spec.num_experts, rows, columns}}, std::move(pieces)};
    };
    return {stack("gate_up_proj", std::move(gate_up), 2 * spec.expert_width, spec.hidden_size),
            stack("down_proj", std::move(down), spec.hidden_size, spec.expert_width)};
}

std::vector<OutputTensor> laid_out(const arch::OpenModel& model, bool fused) {
    std::vector<OutputTensor> tensors;
    std::int64_t stacked_layer = -1;
    for (const arch::TensorSlot& slot : arch::tensor_slots(model.spec)) {
        if (fused && slot.role == arch::TensorRole::expert) {
            if (slot.layer == stacked_layer) continue;
            stacked_layer = slot.layer;
            auto [gate_up, down] = stacked_experts(model, slot.layer);
            tensors.push_back(std::move(gate_up));
            tensors.push_back(std::move(down));
            continue;
        }
        // In the fused layout transformers knows every router by one name.
        const std::string name = fused && slot.role == arch::TensorRole::router ? arch::layer_tensor(slot.layer, "mlp.gate.weight") : slot.name;
        tensors.push_back(copy_tensor(name, model.tensors, model.tensors->at(slot.name)));
    }
    for (const std::string& name : model.unused) {
        warn(fmt::format("{} is not known to {}; it is copied as it is", printable(name), model.spec.architecture->model_type));
        tensors.push_back(copy_tensor(name, model.checkpoint.tensors, model.checkpoint.tensors->at(name)));
    }
    return tensors;
}

class Relayout final : public Verb {
public:
    void declare(CLI::App& app) override {
        app.add_option("MODEL", model_, "a MoE: directory or org/name[@rev] in the hub cache")->required();
        app.add_option("OUT", out_, "the directory to make")->required();
        app.add_option("--layout", layout_, "per-expert or fused")->required()->check(CLI::IsMember({"per-expert", "fused"}));
        app.add_option("--out-shard-size", shard_size_, "largest safetensors file: 5GB, 500MB, ...")->capture_default_str();
        app.add_flag("--force", options_.force, "replace OUT when it exists");
        app.add_flag("--resume", options_.resume, "go on with an interrupted run");
    }

    void run(const CommonOptions& common) override {
        const arch::OpenModel model = arch::open_model(model_);
        if (!model.spec.is_moe())
            throw Error(ErrorCode::unsupported, fmt::format("{}: {} is a dense architecture, it has no experts to lay out", model_, model.spec.architecture->model_type));
        if (model.spec.architecture->moe->zipped)
            throw Error(ErrorCode::unsupported, fmt::format("{}: experts that share rows have one layout only", model_),
                        "zip --format standard makes a model that every layout holds");
        if (model.checkpoint.format == checkpoint::Format::gguf)
            throw Error(ErrorCode::unsupported, fmt::format("{}: a GGUF is not laid out anew", model_), "mixwright import makes a Hugging Face directory of it");

        checkpoint::OutputPlan plan;
        plan.tensors = laid_out(model, layout_ == "fused");
        plan.files = companions(model.checkpoint.path);
        plan.config = io::read_file(model.checkpoint.path / "config.json", max_config_bytes);
        plan.inputs = {model.checkpoint.path};
        options_.shard_bytes = checkpoint::parse_byte_size(shard_size_);
        report(common, model.spec, checkpoint::write_model(plan, out_, options_));
    }

private:
    void report(const CommonOptions& common, const arch::ModelSpec& spec, const checkpoint::WriteResult& result) const {
        if (common.json)
            fmt::print("{}\n", io::Json{{"out", result.out.string()}, {"layout", layout_}, {"bytes", result.bytes}, {"parameters", spec.num_parameters()},
                                        {"active_parameters", spec.num_active_parameters()}, {"seconds", result.seconds},
                                        {"peak_rss_bytes", peak_rss_bytes()}}.dump());
        else if (!common.quiet)
            fmt::print("{}: {} layout, {:.1f} MB in {:.1f} s\n", result.out.string(), layout_, static_cast<double>(result.bytes) / 1e6, result.seconds);
    }

    std::string model_, out_, layout_, shard_size_ = "5GB";
    checkpoint::WriteOptions options_;
};

}  // namespace

std::unique_ptr<Verb> make_relayout() { return std::make_unique<Relayout>(); }

}  // namespace mixwright::verbs
