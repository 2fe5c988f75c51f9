// `import MODEL.gguf OUT`: a GGUF as a Hugging Face directory that transformers loads.
#include <fmt/format.h>

#include <cinttypes>
#include <cstdio>
#include <map>

#include "arch/canonical.h"
#include "arch/published_layout.h"
#include "arch/render_config.h"
#include "checkpoint/gguf.h"
#include "checkpoint/writer.h"
#include "error.h"
#include "progress.h"
#include "tokenizer/gguf_vocab.h"
#include "verbs/verb_table.h"

namespace mixwright::verbs {
namespace {

using io::Json;

std::string text_of(const Json& json) { return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"; }

std::string text_or(const Json& metadata, const std::string& key, const std::string& otherwise) {
    const auto it = metadata.find(key);
    return it != metadata.end() && it->is_string() ? it->get<std::string>() : otherwise;
}

Json generation_config(const arch::ModelSpec& spec, const Json& metadata) {
    Json result{{"_from_model_config", true}};
    if (spec.bos_token_id) result["bos_token_id"] = *spec.bos_token_id;
    if (spec.pad_token_id) result["pad_token_id"] = *spec.pad_token_id;
    // Chat models end a turn with a token of its own; GGUF names it beside the end of the text.
    Json ends = spec.eos_token_ids;
    for (const char* key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"})
        if (const auto it = metadata.find(key); it != metadata.end() && it->is_number_integer() && *it >= 0 && *it < spec.vocab_size &&
                                                std::find(ends.begin(), ends.end(), *it) == ends.end())
            ends.push_back(*it);
    if (!ends.empty()) result["eos_token_id"] = ends.size() == 1 ? ends[0] : ends;
    return result;
}

// "license: apache-2.0" and so on; values are quoted, they come out of the file.
std::string model_card(const Json& metadata, const arch::ModelSpec& spec, const std::string& file, std::string_view dtype) {
    std::string front = "---\n";
    const auto line = [&](const char* name, const Json& value) { front += fmt::format("{}: {}\n", name, value.dump(-1, ' ', false, Json::error_handler_t::replace)); };
    if (const std::string license = text_or(metadata, "general.license", ""); !license.empty()) line("license", license);
    if (const auto languages = metadata.find("general.languages"); languages != metadata.end() && languages->is_array()) line("language", *languages);
    constexpr std::string_view hub = "https://huggingface.co/";
    if (std::string url = text_or(metadata, "general.base_model.0.repo_url", ""); url.starts_with(hub)) line("base_model", url.substr(hub.size()));
    line("library_name", "transformers");
    line("pipeline_tag", "text-generation");
    line("tags", Json{"mixwright"});
    front += "---\n\n";
    return front + fmt::format("# {}\n\nMade by `mixwright import` from the GGUF file `{}` ({} architecture, {} parameters). Quantised weights were decoded and "
                               "rounded to {}: this is the quantised model in another form, not the model it was quantised from.\n",
                               printable(text_or(metadata, "general.name", file)), printable(file), spec.architecture->model_type, spec.num_parameters(), dtype);
}

class Import final : public Verb {
public:
    void declare(CLI::App& app) override {
        app.add_option("MODEL", model_, "a .gguf file (of a split model, any part)")->required();
        app.add_option("OUT", out_, "the directory to make")->required();
        app.add_option("--out-shard-size", shard_size_, "largest safetensors file: 5GB, 500MB, ...")->capture_default_str();
        app.add_flag("--force", force_, "replace OUT when it exists");
    }

    void run(const CommonOptions& common) override {
        const arch::OpenModel model = open();
        const Dtype dtype = output_dtype(common, model.spec);
        for (const std::string& name : model.unused) check_unused(name, model);

        const auto plan = make_plan(model, dtype);
        checkpoint::WriteOptions options;
        options.shard_bytes = checkpoint::parse_byte_size(shard_size_);
        options.force = force_;
        const checkpoint::WriteResult result = checkpoint::write_model(plan, out_, options);
        if (common.json) {
            fmt::print("{}\n", Json{{"out", result.out.string()}, {"bytes", result.bytes}, {"parameters", model.spec.num_parameters()},
                                    {"active_parameters", model.spec.num_active_parameters()}, {"seconds", result.seconds}}.dump());
        } else if (!common.quiet) {
            fmt::print("{}: {} with {:.1f} M parameters in {}, {:.1f} MB, in {:.1f} s\n", result.out.string(), model.spec.architecture->model_type,
                       static_cast<double>(model.spec.num_parameters()) / 1e6, torch_name(dtype), static_cast<double>(result.bytes) / 1e6, result.seconds);
        }
    }

private:
    arch::OpenModel open() {
        const std::filesystem::path path = checkpoint::resolve_model(model_);
        if (path.extension() != ".gguf")
            throw Error(ErrorCode::usage, fmt::format("{}: not a .gguf file", printable(path.string(), 1000)), "a Hugging Face directory needs no import");
        checkpoint::GgufModel gguf = checkpoint::open_gguf(path);
        metadata_ = std::move(gguf.metadata);
        return arch::open_model(checkpoint::Checkpoint{model_, path, checkpoint::Format::gguf, checkpoint::without_vocabulary(metadata_), gguf.tensors});
    }

    // Blocks behind the last layer only predict tokens further ahead; without any other tensor it would be another model.
    static void check_unused(const std::string& name, const arch::OpenModel& model) {
        const std::string what = fmt::format("{}: {} has no tensor {}", model.checkpoint.path.string(), model.spec.architecture->model_type, printable(name));
        std::int64_t block = 0;
        if (std::sscanf(name.c_str(), "blk.%" SCNd64 ".", &block) != 1 || block < model.spec.num_layers)
            throw Error(ErrorCode::unsupported, what, "this is a variant of the architecture that cannot be said in its config.json");
        warn(what + ": it is left out");
    }

    static Dtype output_dtype(const CommonOptions& common, const arch::ModelSpec& spec) {
        if (common.dtype.empty()) return spec.dtype.value_or(Dtype::bf16);
        const auto dtype = dtype_from_name(common.dtype);
        if (dtype != Dtype::bf16 && dtype != Dtype::f16 && dtype != Dtype::f32)
            throw Error(ErrorCode::usage, fmt::format("--dtype {}: expected bfloat16, float16 or float32", printable(common.dtype)));
        return *dtype;
    }

    checkpoint::OutputPlan make_plan(const arch::OpenModel& model, Dtype dtype) const {
        checkpoint::OutputPlan plan;
        for (const arch::TensorSlot& slot : arch::tensor_slots(model.spec))
            plan.tensors.push_back(checkpoint::copy_tensor(slot.name, model.tensors, model.tensors->at(slot.name), dtype));
        plan.tensors = arch::published(model.spec, std::move(plan.tensors));
        arch::ModelSpec spec = model.spec;
        spec.dtype = dtype;
        plan.config = text_of(arch::render_config(spec));
        plan.files.push_back({"generation_config.json", text_of(generation_config(spec, metadata_))});
        plan.files.push_back({"README.md", model_card(metadata_, spec, model.checkpoint.path.filename().string(), torch_name(dtype))});
        add_tokenizer(plan, model.checkpoint.path.string());
        if (const std::string chat = text_or(metadata_, "tokenizer.chat_template", ""); !chat.empty()) plan.files.push_back({"chat_template.jinja", chat});
        plan.inputs.push_back(model.checkpoint.path);
        return plan;
    }

    // A model without a tokenizer is still a model: one that cannot be expressed is reported and left out.
    void add_tokenizer(checkpoint::OutputPlan& plan, const std::string& source) const {
        if (!metadata_.contains("tokenizer.ggml.tokens")) return warn(fmt::format("{}: there is no tokenizer in the file", printable(source, 1000)));
        try {
            const tokenizer::GgufVocab vocab = tokenizer::gguf_vocab_from_metadata(metadata_, source);
            plan.files.push_back({"tokenizer.json", text_of(tokenizer::to_tokenizer_json(vocab, source))});
            plan.files.push_back({"tokenizer_config.json", text_of(tokenizer::to_tokenizer_config(vocab, source))});
        } catch (const Error& e) {
            if (e.code() != ErrorCode::unsupported) throw;
            warn(fmt::format("the tokenizer is left out: {}", e.what()));
        }
    }

    std::string model_, out_, shard_size_ = "5GB";
    bool force_ = false;
    Json metadata_;
};

}  // namespace

std::unique_ptr<Verb> make_import() { return std::make_unique<Import>(); }

}  // namespace mixwright::verbs
