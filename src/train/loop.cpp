#include "train/loop.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "error.h"
#include "model/head.h"
#include "ops/vocabulary_loss.h"
#include "progress.h"
#include "train/forward.h"

namespace mixwright::train {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

struct Batch {
    at::Tensor ids;        // [B, L]
    at::Tensor counted;    // positions in [0, B L) whose prediction counts, or undefined: all
    at::Tensor targets;    // of the counted positions
};

Batch make_batch(const data::PackedSequences& sequences, std::span<const std::size_t> rows, at::Device device) {
    const auto length = static_cast<std::int64_t>(sequences.length());
    Batch batch{.ids = at::empty({static_cast<std::int64_t>(rows.size()), length}, at::kLong)};
    auto* ids = batch.ids.mutable_data_ptr<std::int64_t>();
    std::vector<std::int64_t> counted, targets;
    for (const std::size_t row : rows) {
        const auto inputs = sequences.inputs(row), wanted = sequences.targets(row);
        const auto learn = sequences.learn(row);
        for (std::size_t i = 0; i < inputs.size(); ++i) {
            if (learn[i] != 0) {
                counted.push_back(ids - batch.ids.const_data_ptr<std::int64_t>());
                targets.push_back(wanted[i]);
            }
            *ids++ = inputs[i];
        }
    }
    if (static_cast<std::int64_t>(counted.size()) < batch.ids.numel()) batch.counted = at::tensor(counted, at::kLong).to(device);
    batch.ids = batch.ids.to(device);
    batch.targets = at::tensor(targets, at::kLong).to(device);
    return batch;
}

// The stream [B, L, D] at the positions that count, [n, D].
at::Tensor at_counted(const at::Tensor& hidden_BLD, const at::Tensor& counted) {
    const at::Tensor hidden = hidden_BLD.flatten(0, 1);
    return counted.defined() ? hidden.index_select(0, counted) : hidden;
}

// The order of all sequences of all epochs, an epoch at a time.
class SequenceOrder {
public:
    SequenceOrder(std::size_t count, const TrainRecipe& recipe) : count_(count), recipe_(recipe) {}

    std::size_t operator[](std::uint64_t index) {
        const std::uint64_t epoch = index / count_;
        if (!recipe_.shuffle) return index % count_;
        if (order_.empty() || epoch != epoch_) order_ = data::shuffled_order(count_, recipe_.seed, epoch);
        epoch_ = epoch;
        return order_[index % count_];
    }

private:
    std::size_t count_;
    const TrainRecipe& recipe_;
    std::uint64_t epoch_ = 0;
    std::vector<std::uint32_t> order_;
};

// Gradients of several micro-batches, summed in f32 and put back where the optimiser looks for them.
class GradientSum {
public:
    explicit GradientSum(std::vector<Parameter>& parameters) : parameters_(parameters), sums_(parameters.size()) {}

    void take() {
        for (std::size_t i = 0; i < parameters_.size(); ++i) {
            at::Tensor& gradient = parameters_[i].working.mutable_grad();
            if (!gradient.defined()) continue;
            if (sums_[i].defined())
                sums_[i] += gradient;
            else
                sums_[i] = gradient.to(at::kFloat);
            gradient.reset();
        }
    }
    void put_back() {
        for (std::size_t i = 0; i < parameters_.size(); ++i)
            if (sums_[i].defined()) parameters_[i].working.mutable_grad() = sums_[i].to(parameters_[i].working.scalar_type());
    }

private:
    std::vector<Parameter>& parameters_;
    std::vector<at::Tensor> sums_;
};

struct StepReport {
    double loss = 0, gradient_norm = 0;
    double stream = 0;                        // the part of the loss that is the teacher's streams'
    double auxiliary = 0, largest_load = 0;   // of the routers; see train/auxiliary.h
    std::int64_t counted = 0;                 // tokens whose prediction counts, over all ranks
    std::int64_t tokens = 0;                  // all of them
};

// The loss of the text, or what the teacher makes of it; a sum over this batch that is a mean over the step.
at::Tensor loss_of(const TrainedModel& model, const ForwardResult& out, const Batch& batch, const Teacher* teacher, StepReport& report) {
    const at::Tensor hidden = at_counted(out.hidden, batch.counted), &head = model.weights().lm_head;
    const ops::HeadForm form = model::head_form(model.decoder(), model.weights());
    const double scale = 1.0 / static_cast<double>(report.counted);
    if (teacher == nullptr) return ops::vocabulary_loss(hidden, head, batch.targets, scale, 1024, form);
    const Teacher::Lesson lesson = teacher->teach(batch.ids);
    const ops::DistillationWeights& weights = teacher->weights();
    at::Tensor loss = at::zeros({}, hidden.options().dtype(at::kFloat));
    if (weights.divergence > 0 || weights.cross_entropy > 0)
        loss = ops::distillation_loss(hidden, head, form, teacher->head(at_counted(lesson.hidden, batch.counted)), batch.targets, weights, scale);
    if (teacher->stream_weight() > 0) {
        const at::Tensor stream = stream_error(out.streams, lesson.streams) * (teacher->stream_weight() / static_cast<double>(report.tokens));
        report.stream += stream.item<double>();
        loss = loss + stream;
    }
    return loss;
}

// Forward and backward over the micro-batches of one step; gradients are left in the parameters.
StepReport accumulate(TrainedModel& model, const std::vector<Batch>& batches, const ForwardOptions& options, const Ranks& ranks, const Teacher* teacher) {
    StepReport report;
    for (const Batch& batch : batches) {
        report.counted += batch.targets.numel();
        report.tokens += batch.ids.numel();
    }
    const std::vector<double> counts = ranks.sum({static_cast<double>(report.counted), static_cast<double>(report.tokens)});
    report.counted = static_cast<std::int64_t>(counts[0]);
    report.tokens = static_cast<std::int64_t>(counts[1]);
    for (Parameter& p : model.parameters()) p.working.mutable_grad().reset();
    GradientSum sum(model.parameters());
    for (const Batch& batch : batches) {
        if (batch.targets.numel() == 0) continue;
        const ForwardResult out = forward(model.decoder(), model.weights(), batch.ids, options);
        at::Tensor loss = loss_of(model, out, batch, teacher, report);
        report.loss += loss.item<double>();
        report.largest_load = std::max(report.largest_load, out.largest_load);
        if (out.auxiliary.defined()) {
            const at::Tensor share = out.auxiliary / static_cast<double>(static_cast<std::int64_t>(batches.size()) * ranks.size());
            report.auxiliary += share.item<double>();
            loss = loss + share;
        }
        loss.backward();
        if (batches.size() > 1) sum.take();
    }
    if (batches.size() > 1) sum.put_back();
    ranks.sum_gradients(model.parameters());
    const std::vector<double> sums = ranks.sum({report.loss, report.auxiliary, report.stream});
    report.loss = sums[0];
    report.auxiliary = sums[1];
    report.stream = sums[2];
    report.gradient_norm = gradient_norm(model.parameters());
    return report;
}

void check_finite(const StepReport& report, std::int64_t step) {
    if (std::isfinite(report.loss + report.auxiliary) && std::isfinite(report.gradient_norm)) return;
    const bool loss = !std::isfinite(report.loss + report.auxiliary);
    throw Error(ErrorCode::failed, fmt::format("step {}: the {} is {}", step + 1, loss ? "loss" : "norm of the gradient", loss ? report.loss + report.auxiliary : report.gradient_norm),
                "lower `lr`, lengthen `warmup` or lower `clip`; look at the data of this step");
}

// Whether the last `patience` evaluations all failed to improve on the best one before them.
bool has_stalled(const std::vector<double>& losses, std::int64_t patience) {
    if (patience == 0 || static_cast<std::int64_t>(losses.size()) <= patience) return false;
    return losses.end() - std::ranges::min_element(losses) > patience;
}

}  // namespace

double mean_loss(const model::Decoder& decoder, const model::ModelWeights& weights, const data::PackedSequences& sequences,
                 std::int64_t batch_size, std::int64_t max_tokens) {
    const at::NoGradGuard guard;
    const std::size_t length = sequences.length();
    const std::size_t count = std::min(sequences.size(), std::max<std::size_t>(static_cast<std::size_t>(max_tokens) / length, 1));
    double sum = 0;
    std::int64_t counted = 0;
    Progress progress("evaluating", count * length, "tokens");
    for (std::size_t begin = 0; begin < count; begin += static_cast<std::size_t>(batch_size)) {
        std::vector<std::size_t> rows;
        for (std::size_t i = begin; i < std::min(count, begin + static_cast<std::size_t>(batch_size)); ++i) rows.push_back(i);
        const Batch batch = make_batch(sequences, rows, weights.embedding.device());
        const at::Tensor hidden = at_counted(forward(decoder, weights, batch.ids, {}).hidden, batch.counted);
        sum += model::token_losses(decoder, weights, hidden, batch.targets).sum(at::kDouble).item<double>();
        counted += batch.targets.numel();
        progress.advance(rows.size() * length);
    }
    return counted > 0 ? sum / static_cast<double>(counted) : 0;
}

std::int64_t total_steps(const TrainRecipe& recipe, std::size_t num_sequences) {
    if (recipe.steps) return *recipe.steps;
    const double per_step = static_cast<double>(recipe.batch_size * recipe.grad_accumulation);
    return std::max<std::int64_t>(static_cast<std::int64_t>(std::ceil(recipe.epochs * static_cast<double>(num_sequences) / per_step - 1e-9)), 1);
}

TrainResult train(TrainedModel& model, const TrainRecipe& recipe, const data::PackedSequences& sequences,
                  const data::PackedSequences& eval_sequences, std::int64_t total_steps, const TrainHooks& hooks, const Ranks& ranks,
                  const Teacher* teacher) {
    if (recipe.batch_size % ranks.size() != 0)
        throw Error(ErrorCode::recipe, fmt::format("{}: batch_size {} does not divide among {} ranks", recipe.source, recipe.batch_size, ranks.size()),
                    "batch_size is that of all ranks together");
    const auto share = static_cast<std::uint64_t>(recipe.batch_size / ranks.size()), first_row = share * static_cast<std::uint64_t>(ranks.rank());
    const Schedule schedule = recipe.schedule(total_steps);
    const AdamWOptions adamw{recipe.beta1, recipe.beta2, recipe.eps, recipe.weight_decay};
    const ForwardOptions options{recipe.auxiliary, recipe.checkpointing, teacher != nullptr && teacher->stream_weight() > 0};
    const at::Device device = model.weights().embedding.device();
    const auto micro = static_cast<std::uint64_t>(recipe.batch_size), per_step = micro * static_cast<std::uint64_t>(recipe.grad_accumulation);
    const std::uint64_t step_tokens = per_step * sequences.length();
    SequenceOrder order(sequences.size(), recipe);
    TrainResult result;
    const auto log = [&](const io::Json& line) {
        if (hooks.log) hooks.log(line);
    };
    std::vector<double> eval_losses = hooks.eval_losses;
    const auto evaluate = [&](std::int64_t steps_done) -> std::optional<double> {
        if (eval_sequences.size() == 0) return std::nullopt;
        const double own = ranks.leads() ? mean_loss(model.decoder(), model.weights(), eval_sequences, recipe.batch_size, recipe.eval_tokens) : 0.0;
        const double loss = ranks.sum({own}).front();  // so that all agree on when to stop
        log({{"step", steps_done}, {"eval_loss", loss}});
        eval_losses.push_back(loss);
        return loss;
    };
    if (hooks.first_step == 0) result.eval_before = evaluate(0);
    else if (!eval_losses.empty()) result.eval_before = eval_losses.front();

    std::int64_t steps_done = hooks.first_step;
    const auto save = [&] {
        const InterruptHold hold;
        if (hooks.save) hooks.save(steps_done);
    };
    try {
        Progress progress("training", static_cast<std::uint64_t>(total_steps - hooks.first_step) * step_tokens, "tokens");
        while (steps_done < total_steps) {
            const auto start = Clock::now();
            std::vector<Batch> batches;
            for (std::uint64_t m = 0; m < per_step; m += micro) {
                std::vector<std::size_t> rows;
                for (std::uint64_t i = first_row; i < first_row + share; ++i) rows.push_back(order[static_cast<std::uint64_t>(steps_done) * per_step + m + i]);
                batches.push_back(make_batch(sequences, rows, device));
            }
            const StepReport report = accumulate(model, batches, options, ranks, teacher);
            check_finite(report, steps_done);
            const double lr = schedule.at(steps_done);
            const double scale = recipe.clip > 0 && report.gradient_norm > recipe.clip ? recipe.clip / (report.gradient_norm + 1e-6) : 1.0;
            adamw_step(model.parameters(), adamw, lr, steps_done + 1, scale);

            const double seconds = seconds_since(start);
            if (steps_done == hooks.first_step) result.first_loss = report.loss;
            result.last_loss = report.loss;
            result.seconds += seconds;
            result.tokens += static_cast<std::int64_t>(step_tokens);
            result.steps = ++steps_done;
            io::Json line{{"step", steps_done}, {"loss", report.loss}, {"lr", lr}, {"gradient_norm", report.gradient_norm}, {"tokens", step_tokens}, {"seconds", seconds}};
            if (options.keep_streams) line["stream_loss"] = report.stream;
            if (recipe.auxiliary.any()) line["auxiliary_loss"] = report.auxiliary;
            if (report.largest_load > 0) line["largest_load"] = report.largest_load;
            log(line);
            progress.note(fmt::format("step {}/{}, loss {:.4f}", steps_done, total_steps, report.loss));
            progress.advance(step_tokens);
            if (steps_done == total_steps) break;
            if (recipe.eval_every > 0 && steps_done % recipe.eval_every == 0) {
                if (const auto loss = evaluate(steps_done)) info(fmt::format("step {}: loss of the evaluation data {:.4f}", steps_done, *loss));
                if (has_stalled(eval_losses, recipe.patience)) {
                    info(fmt::format("step {}: no better evaluation for {} in a row, the run ends", steps_done, recipe.patience));
                    break;
                }
            }
            if (recipe.save_every > 0 && steps_done % recipe.save_every == 0) save();
        }
    } catch (const Error& error) {
        // The weights are those of the last good step: a step that fails does not touch them.
        if (error.code() == ErrorCode::interrupted || (error.code() == ErrorCode::failed && steps_done > hooks.first_step)) save();
        throw;
    }
    const bool known = recipe.eval_every > 0 && steps_done % recipe.eval_every == 0 && steps_done < total_steps && !eval_losses.empty();
    result.eval_after = known ? std::optional(eval_losses.back()) : evaluate(steps_done);
    return result;
}

}  // namespace mixwright::train
