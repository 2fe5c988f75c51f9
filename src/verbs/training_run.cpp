#include "verbs/training_run.h"

#include <fmt/format.h>

#include <cmath>

#include "arch/fresh_model.h"
#include "arch/open_tokenizer.h"
#include "checkpoint/tensor_file.h"
#include "data/conversations.h"
#include "error.h"
#include "io/sha256.h"
#include "io/staged_directory.h"
#include "progress.h"
#include "surgery/model_files.h"
#include "surgery/remote_code.h"
#include "train/curve.h"
#include "train/run_files.h"

namespace mixwright::verbs {
namespace {

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

TrainingData read_data(const TrainRecipe& recipe, const tokenizer::Tokenizer& tokenizer, const arch::ModelSpec& spec) {
    const data::ChatRenderer render_chat = data::chat_renderer_of(recipe.tokenizer);
    TrainingData data{.learn = read_sequences(recipe.data, render_chat, tokenizer, recipe, spec)};
    if (!recipe.eval_data.empty())
        data.judge = read_sequences(recipe.eval_data, render_chat, tokenizer, recipe, spec);
    else if (recipe.held_out > 0)
        data.judge = data.learn.take_held_out(recipe.held_out);
    return data;
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

void hash_model(io::Sha256& hash, const arch::OpenModel& model) {
    hash.update(model.checkpoint.config.dump());
    Progress progress("reading the weights", model.tensors->tensors().size(), "tensors");
    for (const checkpoint::TensorInfo& info : model.tensors->tensors()) {
        hash.update(info.name);
        hash.update(model.tensors->bytes(info).bytes);
        model.tensors->drop(info);
        progress.advance();
    }
}

// What must agree for a resumed run to end in the same bytes.
std::string identity(const TrainRecipe& recipe, const arch::OpenModel& files, const arch::OpenModel* teacher, const data::PackedSequences& sequences) {
    io::Sha256 hash;
    hash.update(fmt::format("{}\n{}\n{}\n{}\n{}\n", recipe.text, recipe.dtype, recipe.seed, files.checkpoint.config.dump(), sequences.size()));
    for (std::size_t i = 0; i < sequences.size(); ++i) hash.update(std::as_bytes(sequences.inputs(i)));
    if (!recipe.config) hash_model(hash, files);  // new weights follow from config and seed
    if (teacher != nullptr) hash_model(hash, *teacher);
    return hash.hex();
}

std::string default_card(const TrainRecipe& recipe, const TrainingOutcome& outcome, const std::string& name) {
    std::string card = "---\n";
    if (!recipe.config) card += fmt::format("base_model: {}\nbase_model_relation: {}\n", Json(outcome.base).dump(), recipe.adapter ? "adapter" : "finetune");
    card += fmt::format("library_name: {}\npipeline_tag: text-generation\ntags:\n- mixwright\n---\n\n# {}\n\n", recipe.adapter ? "peft" : "transformers", name);
    card += fmt::format("{} by `mixwright train` ({}, {:.2f} M weights) for {} steps of {} tokens{}.\n\n", recipe.config ? "Trained from scratch" : outcome.base + " trained",
                        recipe.trained_parts(), static_cast<double>(outcome.trained_parameters) / 1e6, outcome.result.steps,
                        recipe.batch_size * recipe.grad_accumulation * recipe.seq_len,
                        recipe.teacher.empty() ? "" : fmt::format(", distilled from {}", std::filesystem::path(recipe.teacher).lexically_normal().filename().string()));
    return card + loss_table(outcome.result) + "\nThe recipe is in `train_recipe.yml`, the loss of every step in `train_metrics.jsonl` and drawn in `train_curve.html`.\n";
}

// The files that tell of the run.
std::vector<checkpoint::OutputFile> run_records(const TrainRecipe& recipe, const RunFiles& run_files, std::string card, const std::string& name) {
    std::vector<checkpoint::OutputFile> records{{"train_recipe.yml", recipe.text},
                                                {"train_metrics.jsonl", run_files.metrics()},
                                                {"train_curve.html", curve_page(run_files.metrics(), name)}};
    if (!card.empty()) records.push_back({"README.md", std::move(card)});
    return records;
}

std::uint64_t write_merged(const TrainedModel& model, const TrainingSettings& settings, std::vector<checkpoint::OutputFile> base_files,
                           std::vector<checkpoint::OutputFile> records) {
    checkpoint::OutputPlan plan{.tensors = model.output_tensors(), .files = std::move(base_files)};
    for (checkpoint::OutputFile& record : records) plan.files.push_back(std::move(record));
    Json config = model.files().checkpoint.config;
    config.erase("auto_map");  // names code to run; only chained and zipped models need some, and that is ours
    surgery::add_remote_code(model.files().spec, plan, config);
    plan.config = config.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
    plan.inputs = {model.files().checkpoint.path};
    checkpoint::WriteOptions options = settings.write;
    options.resume = false;  // the weights are here: nothing of an earlier attempt is worth keeping
    return checkpoint::write_model(plan, settings.out, options).bytes;
}

std::uint64_t write_adapter(const TrainedModel& model, const TrainingSettings& settings, const std::vector<checkpoint::OutputFile>& records) {
    io::StagedDirectory::discard(settings.out);
    io::StagedDirectory staged(settings.out);
    const auto write = [&](const std::string& name, const std::string& text) { staged.write(name, std::as_bytes(std::span(text))); };
    const std::filesystem::path weights = staged.path() / "adapter_model.safetensors";
    checkpoint::write_tensor_file(weights, model.adapter_tensors());
    const std::uint64_t bytes = std::filesystem::file_size(weights);
    for (const checkpoint::OutputFile& record : records) write(record.name, std::get<std::string>(record.content));
    write("adapter_config.json", model.adapter_config());
    staged.commit(settings.write.force);
    return bytes;
}

}  // namespace

std::string loss_table(const TrainResult& result) {
    std::string table = fmt::format("| | |\n|---|---|\n| training loss, first step | {:.4f} |\n| training loss, last step | {:.4f} |\n", result.first_loss, result.last_loss);
    if (result.eval_before) table += fmt::format("| evaluation loss before | {:.4f} (perplexity {:.3f}) |\n", *result.eval_before, std::exp(*result.eval_before));
    if (result.eval_after) table += fmt::format("| evaluation loss after | {:.4f} (perplexity {:.3f}) |\n", *result.eval_after, std::exp(*result.eval_after));
    return table;
}

TrainingOutcome run_training(const TrainRecipe& recipe, const TrainingSettings& settings, const std::string& device, const distributed::Ranks& ranks) {
    const std::filesystem::path& out = settings.out;
    const tokenizer::Tokenizer tokenizer = arch::open_tokenizer(recipe.tokenizer);
    arch::OpenModel files = recipe.config ? new_model(recipe, tokenizer) : arch::open_model(recipe.model);
    std::vector<checkpoint::OutputFile> base_files = surgery::base_files(files);
    base_files.insert(base_files.end(), settings.files.begin(), settings.files.end());
    if (ranks.leads()) checkpoint::check_output(out, {files.checkpoint.path}, static_cast<std::uint64_t>(files.spec.num_parameters()) * 2, settings.write);
    std::optional<arch::OpenModel> teacher_files;
    if (!recipe.teacher.empty()) {
        check_same_tokens(recipe.tokenizer, recipe.teacher);
        teacher_files = arch::open_model(recipe.teacher);
    }
    const TrainingData data = settings.data ? *settings.data : read_data(recipe, tokenizer, files.spec);
    const std::int64_t steps = total_steps(recipe, data.learn.size());

    // The first rank keeps the files; the others read its state.
    RunFiles run_files(out, identity(recipe, files, teacher_files ? &*teacher_files : nullptr, data.learn), settings.write.resume, settings.write.force, ranks);
    TrainedModel model(std::move(files), recipe, model::compute_device(device), ranks);
    std::optional<Teacher> teacher;
    if (teacher_files) teacher.emplace(std::move(*teacher_files), recipe, model.files().spec, model.weights().embedding.device());
    const arch::ModelSpec& spec = model.files().spec;
    info(fmt::format("{}: {:.2f} M of {:.1f} M weights are trained ({}){}, {} steps of {} tokens, {} sequences of {} tokens an epoch",
                     recipe.config ? "new model" : recipe.model, static_cast<double>(model.num_trained()) / 1e6, static_cast<double>(spec.num_parameters()) / 1e6,
                     recipe.trained_parts(), teacher ? fmt::format(" by {}", recipe.teacher) : "", steps, recipe.batch_size * recipe.grad_accumulation * recipe.seq_len,
                     data.learn.size(), recipe.seq_len));
    if (recipe.seq_len > spec.max_positions)
        warn(fmt::format("{}: seq_len {} is longer than the {} positions the model is made for", recipe.source, recipe.seq_len, spec.max_positions));
    TrainHooks hooks;
    if (settings.write.resume) {
        RunFiles::Restored restored = run_files.restore(model.parameters());
        hooks.first_step = restored.steps_done;
        hooks.eval_losses = std::move(restored.eval_losses);
    }
    if (ranks.leads()) hooks.log = [&](const Json& line) { run_files.log(line); };
    hooks.save = [&](std::int64_t done) { run_files.save(model.parameters(), done); };
    ranks.sum({0.0});  // nobody writes before all have read
    TrainingOutcome outcome{.result = train::train(model, recipe, data.learn, data.judge, steps, hooks, ranks, teacher ? &*teacher : nullptr),
                            .parameters = spec.num_parameters(),
                            .active_parameters = spec.num_active_parameters(),
                            .trained_parameters = model.num_trained()};
    model.gather_masters();
    if (!recipe.config) outcome.base = std::filesystem::path(model.files().checkpoint.name).lexically_normal().filename().string();
    if (!ranks.leads()) return outcome;

    const std::string name = out.filename().string();
    const auto records = run_records(recipe, run_files, settings.card ? settings.card(outcome) : default_card(recipe, outcome, name), name);
    outcome.bytes = recipe.adapter ? write_adapter(model, settings, records) : write_merged(model, settings, std::move(base_files), records);
    run_files.remove();
    return outcome;
}

}  // namespace mixwright::verbs
