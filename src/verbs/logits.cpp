// `logits`: the logits for given token ids, for comparisons with other implementations.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include "checkpoint/tensor_file.h"
#include "error.h"
#include "model/layer_stream.h"
#include "progress.h"
#include "verbs/model_options.h"
#include "verbs/verb_table.h"

namespace mixwright::verbs {
namespace {

constexpr std::size_t ids_file_limit = 256u << 20;

// [[int]], every row of one length -> int64 [B, L]
at::Tensor read_ids(const std::string& file) {
    const io::Json json = io::read_json(file, {.bytes = ids_file_limit, .depth = 3});
    const char* form = "expected a list of lists of token ids, all of one length: [[1, 2, 3], [4, 5, 6]]";
    if (!json.is_array() || json.empty() || !json[0].is_array() || json[0].empty())
        throw Error(ErrorCode::malformed, fmt::format("{}: {}", file, form));
    const auto length = static_cast<std::int64_t>(json[0].size());
    at::Tensor ids = at::empty({static_cast<std::int64_t>(json.size()), length}, at::kLong);
    auto* out = ids.mutable_data_ptr<std::int64_t>();
    for (std::size_t row = 0; row < json.size(); ++row) {
        if (!json[row].is_array() || static_cast<std::int64_t>(json[row].size()) != length)
            throw Error(ErrorCode::malformed, fmt::format("{}: row {}: {}", file, row, form));
        for (const io::Json& id : json[row]) {
            if (!id.is_number_integer()) throw Error(ErrorCode::malformed, fmt::format("{}: row {}: {}", file, row, form));
            *out++ = id.get<std::int64_t>();
        }
    }
    return ids;
}

class Logits final : public Verb {
public:
    void declare(CLI::App& app) override {
        app.add_option("MODEL", model_, "directory, .gguf file or org/name in the hub cache")->required();
        app.add_option("--ids", ids_, "JSON file: [[int]], rows of one length")->required();
        app.add_option("-o,--output", output_, "safetensors file; tensor \"logits\" [B, L, V] in f32")->required();
        declare_quantization(app, options_);
        declare_streaming(app, options_);
        app.add_flag("--cache", cached_, "one token at a time through the KV cache (slow; to check the cache)")->excludes("--stream-layers");
        app.add_flag("--together", together_, "all rows in one call, each as far as it is and with a cache of its own (to check batches)")
            ->excludes("--stream-layers")
            ->excludes("--cache");
    }

    void run(const CommonOptions& common) override {
        const at::Tensor ids = read_ids(ids_);
        arch::OpenModel files = arch::open_model(model_);
        const model::Placement placement = placement_for(common, files, "float32");
        const c10::InferenceMode guard;
        at::Tensor logits;
        if (options_.stream_layers) {
            const model::LayerStream stream(files, placement);
            logits = stream.decoder().logits(stream.outer(), stream.run({{ids, {}}}).front());
        } else {
            const model::Model model = load_model(common, std::move(files), options_, "float32");
            logits = cached_ ? run_cached(model, ids) : together_ ? run_together(model, ids) : run_whole(model, ids);
        }
        logits = logits.to(at::kCPU, at::kFloat).contiguous();

        const auto* data = static_cast<const std::byte*>(logits.const_data_ptr());
        checkpoint::OutputTensor tensor{{"logits", Dtype::f32, logits.sizes().vec()}, checkpoint::OwnedBytes(data, data + logits.nbytes())};
        checkpoint::write_tensor_file(output_, {std::move(tensor)});
        if (common.json)
            fmt::print("{}\n", io::Json{{"out", output_}, {"shape", logits.sizes().vec()}, {"bytes", logits.nbytes()}}.dump());
        else
            info(fmt::format("wrote logits [{}, {}, {}] to {}", logits.size(0), logits.size(1), logits.size(2), output_));
    }

private:
    static at::Tensor run_whole(const model::Model& model, const at::Tensor& ids) {
        const at::Tensor input = ids.to(model.placement.device);
        return model.decoder.logits(model.weights, model.decoder.run(model.weights, input, model.decoder.step(ids.size(1), model.placement.device)));
    }

    static at::Tensor run_cached(const model::Model& model, const at::Tensor& ids) {
        model::KvCache cache(model.decoder.spec(), ids.size(1));
        std::vector<at::Tensor> columns;
        Progress progress("running tokens", static_cast<std::uint64_t>(ids.size(1)), "tokens");
        for (std::int64_t position = 0; position < ids.size(1); ++position) {
            const model::Step step = model.decoder.step(1, model.placement.device, &cache);
            const at::Tensor hidden = model.decoder.run(model.weights, ids.narrow(1, position, 1).to(model.placement.device), step);
            columns.push_back(model.decoder.logits(model.weights, hidden));
            progress.advance();
        }
        return at::cat(columns, 1);
    }

    // Row r goes in by pieces of r + 1 tokens, so that no two rows are at the same place.
    static at::Tensor run_together(const model::Model& model, const at::Tensor& ids) {
        const std::int64_t rows = ids.size(0), length = ids.size(1);
        std::vector<model::KvCache> caches(static_cast<std::size_t>(rows), model::KvCache(model.decoder.spec(), length));
        std::vector<std::vector<at::Tensor>> columns(static_cast<std::size_t>(rows));
        for (;;) {
            std::vector<model::Segment> segments;
            std::vector<std::int64_t> row_of;
            std::vector<at::Tensor> input;
            std::int64_t total = 0;
            for (std::int64_t row = 0; row < rows; ++row) {
                model::KvCache& cache = caches[static_cast<std::size_t>(row)];
                const std::int64_t count = std::min(row + 1, length - cache.length());
                if (count == 0) continue;
                input.push_back(ids[row].narrow(0, cache.length(), count));
                segments.push_back({total, count, &cache});
                row_of.push_back(row);
                total += count;
            }
            if (total == 0) break;
            const at::Device device = model.placement.device;
            const at::Tensor hidden = model.decoder.run(model.weights, at::cat(input).unsqueeze(0).to(device), model.decoder.step(segments, device));
            const at::Tensor logits = model.decoder.logits(model.weights, hidden).squeeze(0);
            for (std::size_t i = 0; i < segments.size(); ++i)
                columns[static_cast<std::size_t>(row_of[i])].push_back(logits.narrow(0, segments[i].first, segments[i].length));
        }
        std::vector<at::Tensor> all;
        for (const auto& row : columns) all.push_back(at::cat(row));
        return at::stack(all);
    }

    std::string model_, ids_, output_;
    ModelOptions options_;
    bool cached_ = false, together_ = false;
};

}  // namespace

std::unique_ptr<Verb> make_logits() { return std::make_unique<Logits>(); }

}  // namespace mixwright::verbs
