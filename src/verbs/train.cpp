// `train RECIPE OUT`: fine-tunes a model on text.
#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <cstdio>

#include "arch/fresh_model.h"
#include "arch/open_tokenizer.h"
#include "checkpoint/tensor_file.h"
#include "checkpoint/writer.h"
#include "data/conversations.h"
#include "data/packing.h"
#include "error.h"
#include "io/sha256.h"
#include "io/staged_directory.h"
#include "progress.h"
#include "surgery/chain_model.h"
#include "surgery/model_files.h"
#include "train/curve.h"
#include "train/loop.h"
#include "train/run_files.h"
#include "verbs/resource_use.h"
#include "verbs/verb_table.h"

namespace mixwright::verbs {
namespace {

using Clock = std::chrono::steady_clock;
using io::Json;
using namespace train;

data::PackedSequences read_sequences(const std::vector<std::filesystem::path>& paths, const data::ChatRenderer& render_chat,
                                     const tokenizer::Tokenizer& tokenizer, const TrainRecipe& recipe, const arch::ModelSpec& spec) {
    std::vector<data::Document> documents;
    for (const auto& path : paths)
        for (data::Document& document : data::read_documents(path, render_chat)) documents.push_back(std::move(document));
    std::optional<tokenizer::TokenId> end = tokenizer.eos_id();
    if (!end && !spec.eos_token_ids.empty()) end = static_cast<tokenizer::TokenId>(spec.eos_token_ids.front());
    data::PackedSequences sequences(data::tokenize(documents, tokenizer, end), static_cast<std::size_t>(recipe.seq_len));
    if (sequences.size() == 0)
        throw Error(ErrorCode::mismatch, fmt::format("{}: fewer than {} tokens, not one sequence of `seq_len`", io::shown(paths.front()), recipe.seq_len + 1),
                    "give more text, or a shorter seq_len");
    if (sequences.num_learnt() == 0)
        throw Error(ErrorCode::mismatch, fmt::format("{}: no token to learn: all of it is prompt", io::shown(paths.front())));
    return sequences;
}

// The new model of a recipe; what its config leaves out of the vocabulary is the tokenizer's.
arch::OpenModel new_model(const TrainRecipe& recipe, const tokenizer::Tokenizer& tokenizer) {
    Json config = *recipe.config;
    const auto vocab_size = static_cast<std::int64_t>(tokenizer.vocab_size());
    if (!config.contains("vocab_size")) config["vocab_size"] = vocab_size;
    if (!config.contains("bos_token_id") && tokenizer.bos_id()) config["bos_token_id"] = *tokenizer.bos_id();
    if (!config.contains("eos_token_id") && tokenizer.eos_id()) config["eos_token_id"] = *tokenizer.eos_id();
    if (!config.contains("dtype") && !config.contains("torch_dtype")) config["dtype"] = recipe.dtype;
    arch::OpenModel model = arch::fresh_model(config, recipe.source, recipe.seed);
    if (model.spec.vocab_size < vocab_size)
        throw Error(ErrorCode::recipe, fmt::format("{}: vocab_size {} is smaller than the tokenizer's {}", recipe.source, model.spec.vocab_size, vocab_size),
                    "leave vocab_size out to take the tokenizer's");
    // The files beside the weights are those of the tokenizer's model.
    model.checkpoint.path = checkpoint::resolve_model(recipe.tokenizer);
    if (model.checkpoint.path.extension() == ".gguf") model.checkpoint.format = checkpoint::Format::gguf;
    else if (!std::filesystem::is_directory(model.checkpoint.path)) model.checkpoint.path = model.checkpoint.path.parent_path();
    return model;
}

// The name a recipe would have for --dtype.
std::string training_dtype(const std::string& requested) {
    const auto dtype = dtype_from_name(requested);
    if (dtype != Dtype::bf16 && dtype != Dtype::f32)
        throw Error(ErrorCode::usage, fmt::format("--dtype: cannot train in \"{}\"", printable(requested)), "use bfloat16 or float32");
    return std::string(torch_name(*dtype));
}

class Train final : public Verb {
public:
    void declare(CLI::App& app) override {
        app.add_option("RECIPE", recipe_file_, "YAML file: model, data, what to train and how")->required();
        app.add_option("OUT", out_, "directory to write; it must not exist yet")->required();
        app.add_option("--out-shard-size", shard_size_, "largest file of weights: 5GB, 500MB, ...")->capture_default_str();
        app.add_flag("--resume", write_.resume, "go on where an interrupted run of the same recipe stopped");
        app.add_flag("--force", write_.force, "replace OUT when it exists");
    }

    void run(const CommonOptions& common) override {
        const auto start = Clock::now();
        TrainRecipe recipe = read_train_recipe(recipe_file_);
        const Ranks ranks = Ranks::from_environment(recipe.expert_parallel);
        if (!ranks.leads()) set_progress_sink(nullptr);
        if (!common.dtype.empty()) recipe.dtype = training_dtype(common.dtype);
        if (common.seed != 0) recipe.seed = common.seed;
        write_.shard_bytes = checkpoint::parse_byte_size(shard_size_);
        const std::filesystem::path out = io::output_path(out_);

        const tokenizer::Tokenizer tokenizer = arch::open_tokenizer(recipe.tokenizer);
        arch::OpenModel files = recipe.config ? new_model(recipe, tokenizer) : arch::open_model(recipe.model);
        const std::vector<checkpoint::OutputFile> base_files = surgery::base_files(files);
        if (ranks.leads()) checkpoint::check_output(out, {files.checkpoint.path}, static_cast<std::uint64_t>(files.spec.num_parameters()) * 2, write_);
        const data::ChatRenderer render_chat = data::chat_renderer_of(recipe.tokenizer);
        data::PackedSequences sequences = read_sequences(recipe.data, render_chat, tokenizer, recipe, files.spec), eval_sequences;
        if (!recipe.eval_data.empty())
            eval_sequences = read_sequences(recipe.eval_data, render_chat, tokenizer, recipe, files.spec);
        else if (recipe.held_out > 0)
            eval_sequences = sequences.take_held_out(recipe.held_out);
        const std::int64_t steps = total_steps(recipe, sequences.size());

        // The first rank keeps the files; the others read its state.
        RunFiles run_files(out, identity(recipe, files, sequences), write_.resume, write_.force, ranks);
        TrainedModel model(std::move(files), recipe, model::compute_device(common.device), ranks);
        info(fmt::format("{}: {:.2f} M of {:.1f} M weights are trained ({}), {} steps of {} tokens, {} sequences of {} tokens an epoch",
                         recipe.config ? "new model" : recipe.model, static_cast<double>(model.num_trained()) / 1e6, static_cast<double>(model.files().spec.num_parameters()) / 1e6,
                         recipe.trained_parts(), steps, recipe.batch_size * recipe.grad_accumulation * recipe.seq_len, sequences.size(), recipe.seq_len));
        if (recipe.seq_len > model.files().spec.max_positions)
            warn(fmt::format("{}: seq_len {} is longer than the {} positions the model is made for", recipe.source, recipe.seq_len, model.files().spec.max_positions));
        TrainHooks hooks;
        if (write_.resume) {
            RunFiles::Restored restored = run_files.restore(model.parameters());
            hooks.first_step = restored.steps_done;
            hooks.eval_losses = std::move(restored.eval_losses);
        }
        if (ranks.leads()) {
            hooks.log = [&](const Json& line) { run_files.log(line); };
        }
        hooks.save = [&](std::int64_t done) { run_files.save(model.parameters(), done); };
        ranks.sum({0.0});  // nobody writes before all have read
        const TrainResult result = train::train(model, recipe, sequences, eval_sequences, steps, hooks, ranks);
        model.gather_masters();
        if (!ranks.leads()) return;

        const std::uint64_t bytes = recipe.adapter ? write_adapter(model, recipe, result, run_files, out) : write_merged(model, recipe, result, run_files, out, base_files);
        run_files.remove();
        report(common, model, result, bytes, std::chrono::duration<double>(Clock::now() - start).count());
    }

private:
    // What must agree for a resumed run to end in the same bytes.
    static std::string identity(const TrainRecipe& recipe, const arch::OpenModel& files, const data::PackedSequences& sequences) {
        io::Sha256 hash;
        hash.update(fmt::format("{}\n{}\n{}\n{}\n{}\n", recipe.text, recipe.dtype, recipe.seed, files.checkpoint.config.dump(), sequences.size()));
        for (std::size_t i = 0; i < sequences.size(); ++i) hash.update(std::as_bytes(sequences.inputs(i)));
        if (recipe.config) return hash.hex();  // new weights follow from config and seed
        Progress progress("reading the weights", files.tensors->tensors().size(), "tensors");
        for (const checkpoint::TensorInfo& info : files.tensors->tensors()) {
            hash.update(info.name);
            hash.update(files.tensors->bytes(info).bytes);
            files.tensors->drop(info);
            progress.advance();
        }
        return hash.hex();
    }

    static std::string card(const TrainedModel& model, const TrainRecipe& recipe, const TrainResult& result, const std::string& name) {
        const std::string base = std::filesystem::path(model.files().checkpoint.name).lexically_normal().filename().string();
        std::string card = "---\n";
        if (!recipe.config) card += fmt::format("base_model: {}\nbase_model_relation: {}\n", Json(base).dump(), recipe.adapter ? "adapter" : "finetune");
        card += fmt::format("library_name: {}\npipeline_tag: text-generation\ntags:\n- mixwright\n---\n\n# {}\n\n", recipe.adapter ? "peft" : "transformers", name);
        card += fmt::format("{} by `mixwright train` ({}, {:.2f} M weights) for {} steps of {} tokens.\n\n| | |\n|---|---|\n",
                            recipe.config ? "Trained from scratch" : base + " trained", recipe.trained_parts(),
                            static_cast<double>(model.num_trained()) / 1e6, result.steps, recipe.batch_size * recipe.grad_accumulation * recipe.seq_len);
        card += fmt::format("| training loss, first step | {:.4f} |\n| training loss, last step | {:.4f} |\n", result.first_loss, result.last_loss);
        if (result.eval_before) card += fmt::format("| evaluation loss before | {:.4f} (perplexity {:.3f}) |\n", *result.eval_before, std::exp(*result.eval_before));
        if (result.eval_after) card += fmt::format("| evaluation loss after | {:.4f} (perplexity {:.3f}) |\n", *result.eval_after, std::exp(*result.eval_after));
        return card + "\nThe recipe is in `train_recipe.yml`, the loss of every step in `train_metrics.jsonl` and drawn in `train_curve.html`.\n";
    }

    std::uint64_t write_merged(const TrainedModel& model, const TrainRecipe& recipe, const TrainResult& result, const RunFiles& run_files,
                               const std::filesystem::path& out, const std::vector<checkpoint::OutputFile>& base_files) const {
        checkpoint::OutputPlan plan{.tensors = model.output_tensors(), .files = base_files};
        plan.files.push_back({"train_recipe.yml", recipe.text});
        plan.files.push_back({"train_metrics.jsonl", run_files.metrics()});
        plan.files.push_back({"train_curve.html", curve_page(run_files.metrics(), out.filename().string())});
        plan.files.push_back({"README.md", card(model, recipe, result, out.filename().string())});
        Json config = model.files().checkpoint.config;
        config.erase("auto_map");  // names code to run; only chains need some, and that is ours
        surgery::add_remote_code(model.files().spec, plan, config);
        plan.config = config.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
        plan.inputs = {model.files().checkpoint.path};
        checkpoint::WriteOptions options = write_;
        options.resume = false;  // the weights are here: nothing of an earlier attempt is worth keeping
        return checkpoint::write_model(plan, out, options).bytes;
    }

    std::uint64_t write_adapter(const TrainedModel& model, const TrainRecipe& recipe, const TrainResult& result, const RunFiles& run_files,
                                const std::filesystem::path& out) const {
        io::StagedDirectory::discard(out);
        io::StagedDirectory staged(out);
        const auto write = [&](const char* name, const std::string& text) { staged.write(name, std::as_bytes(std::span(text))); };
        const std::filesystem::path weights = staged.path() / "adapter_model.safetensors";
        checkpoint::write_tensor_file(weights, model.adapter_tensors());
        const std::uint64_t bytes = std::filesystem::file_size(weights);
        write("train_recipe.yml", recipe.text);
        write("train_metrics.jsonl", run_files.metrics());
        write("train_curve.html", curve_page(run_files.metrics(), out.filename().string()));
        write("README.md", card(model, recipe, result, out.filename().string()));
        write("adapter_config.json", model.adapter_config());
        staged.commit(write_.force);
        return bytes;
    }

    void report(const CommonOptions& common, const TrainedModel& model, const TrainResult& result, std::uint64_t bytes, double seconds) const {
        if (common.json) {
            Json json{{"out", out_},
                      {"bytes", bytes},
                      {"parameters", model.files().spec.num_parameters()},
                      {"active_parameters", model.files().spec.num_active_parameters()},
                      {"seconds", seconds},
                      {"peak_rss_bytes", peak_rss_bytes()},
                      {"trained_parameters", model.num_trained()},
                      {"steps", result.steps},
                      {"tokens", result.tokens},
                      {"tokens_per_second", result.tokens_per_second()},
                      {"first_loss", result.first_loss},
                      {"last_loss", result.last_loss}};
            if (result.eval_before) json["eval_loss_before"] = *result.eval_before;
            if (result.eval_after) json["eval_loss_after"] = *result.eval_after;
            fmt::print("{}\n", json.dump());
            return;
        }
        std::string losses = fmt::format("loss {:.4f} -> {:.4f}", result.first_loss, result.last_loss);
        if (result.eval_before && result.eval_after)
            losses += fmt::format(", held-out perplexity {:.3f} -> {:.3f}", std::exp(*result.eval_before), std::exp(*result.eval_after));
        fmt::print("{}: {} steps, {}, {:.0f} tokens/s, {:.1f} s, peak memory {:.0f} MB\n", out_, result.steps, losses, result.tokens_per_second(), seconds,
                   static_cast<double>(peak_rss_bytes()) / 1e6);
    }

    std::string recipe_file_, out_, shard_size_ = "5GB";
    checkpoint::WriteOptions write_;
};

}  // namespace

std::unique_ptr<Verb> make_train() { return std::make_unique<Train>(); }

}  // namespace mixwright::verbs
