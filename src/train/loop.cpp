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
#include "train/bias_balance.h"
#include "train/forward.h"
#include "train/gradient_sums.h"

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

struct StepReport {
    double loss = 0, gradient_norm = 0;
    double stream = 0;                 // the part of the loss that is the teacher's streams'
    double auxiliary = 0;              // of the routers; see train/auxiliary.h
    std::vector<RouterLoad> loads;     // of all routers, over the micro-batches and ranks
    bool interrupted = false;          // some rank was asked to stop
    std::int64_t counted = 0;          // tokens whose prediction counts, over all ranks
    std::int64_t tokens = 0;           // all of them

    double largest_load() const {
        double largest = 0;
        for (const RouterLoad& load : loads) largest = std::max(largest, load.largest());
        return largest;
    }
};

// The loss of the text, or what the teacher makes of it; a sum over this batch that is a mean over the step. It has a gradient
// also when nothing counts here: every rank goes through every layer.
at::Tensor loss_of(const TrainedModel& model, const ForwardResult& out, const Batch& batch, const Teacher* teacher, StepReport& report) {
    const at::Tensor hidden = at_counted(out.hidden, batch.counted), &head = model.weights().lm_head;
    const ops::HeadForm form = model::head_form(model.decoder(), model.weights());
    const double scale = report.counted > 0 ? 1.0 / static_cast<double>(report.counted) : 0.0;
    if (teacher == nullptr) return ops::vocabulary_loss(hidden, head, batch.targets, scale, 1024, form);
    const Teacher::Lesson lesson = teacher->teach(batch.ids);
    const ops::DistillationWeights& weights = teacher->weights();
    at::Tensor loss = hidden.narrow(0, 0, 0).sum().to(at::kFloat);
    if (batch.targets.numel() > 0 && (weights.divergence > 0 || weights.cross_entropy > 0))
        loss = ops::distillation_loss(hidden, head, form, teacher->head(at_counted(lesson.hidden, batch.counted)), batch.targets, weights, scale);
    if (teacher->stream_weight() > 0) {
        const at::Tensor stream = stream_error(out.streams, lesson.streams) * (teacher->stream_weight() / static_cast<double>(report.tokens));
        report.stream += stream.item<double>();
        loss = loss + stream;
    }
    return loss;
}

void add_up(std::vector<RouterLoad>& sums, std::vector<RouterLoad> loads) {
    if (sums.empty()) {
        sums = std::move(loads);
        return;
    }
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i].counts += loads[i].counts;
}

bool interrupt_waits() {
    try {
        check_interrupted();
    } catch (const Error&) {
        return true;
    }
    return false;
}

// What the ranks must agree on before the update.
void agree(StepReport& report, const std::vector<Parameter>& parameters, const distributed::Ranks& ranks) {
    report.gradient_norm = gradient_norm(parameters);
    if (ranks.size() == 1) return;
    const std::vector<double> sums = ranks.sum({report.loss, report.auxiliary, report.stream, report.gradient_norm * report.gradient_norm, interrupt_waits() ? 1.0 : 0.0});
    report.loss = sums[0];
    report.auxiliary = sums[1];
    report.stream = sums[2];
    report.gradient_norm = std::sqrt(sums[3]);
    report.interrupted = sums[4] > 0;
    if (report.loads.empty()) return;
    std::vector<at::Tensor> counts;
    for (const RouterLoad& load : report.loads) counts.push_back(load.counts);
    const at::Tensor all = at::stack(counts);
    ranks.everyone().sum(all).wait();
    for (std::size_t i = 0; i < counts.size(); ++i) report.loads[i].counts = all[static_cast<std::int64_t>(i)];
}

// Forward and backward over the micro-batches of one step; gradients are left in the parameters, each with its owner.
StepReport accumulate(TrainedModel& model, const std::vector<Batch>& batches, const ForwardOptions& options, GradientSums& gradients, const distributed::Ranks& ranks,
                      const Teacher* teacher) {
    StepReport report;
    for (const Batch& batch : batches) {
        report.counted += batch.targets.numel();
        report.tokens += batch.ids.numel();
    }
    const std::vector<double> counts = ranks.sum({static_cast<double>(report.counted), static_cast<double>(report.tokens)});
    report.counted = static_cast<std::int64_t>(counts[0]);
    report.tokens = static_cast<std::int64_t>(counts[1]);
    gradients.start();
    for (const Batch& batch : batches) {
        ForwardResult out = forward(model.decoder(), model.weights(), batch.ids, options);
        at::Tensor loss = loss_of(model, out, batch, teacher, report);
        report.loss += loss.item<double>();
        add_up(report.loads, std::move(out.loads));
        if (out.auxiliary.defined()) {
            const at::Tensor share = out.auxiliary / static_cast<double>(static_cast<std::int64_t>(batches.size()) * ranks.size());
            report.auxiliary += share.item<double>();
            loss = loss + share;
        }
        gradients.backward(loss, &batch == &batches.back());
    }
    gradients.finish();
    agree(report, model.parameters(), ranks);
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
                 std::int64_t batch_size, std::int64_t max_tokens, const distributed::Ranks& ranks) {
    const at::NoGradGuard guard;
    const std::size_t length = sequences.length();
    const std::size_t count = std::min(sequences.size(), std::max<std::size_t>(static_cast<std::size_t>(max_tokens) / length, 1));
    double sum = 0;
    std::int64_t counted = 0;
    Progress progress("evaluating", count * length, "tokens");
    for (std::size_t begin = 0; begin < count; begin += static_cast<std::size_t>(batch_size)) {
        // Every rank runs the model, also one whose share of a batch is empty: experts may be divided among them.
        const std::size_t end = std::min(count, begin + static_cast<std::size_t>(batch_size)), step = static_cast<std::size_t>(ranks.size());
        std::vector<std::size_t> rows;
        for (std::size_t i = begin + static_cast<std::size_t>(ranks.rank()); i < end; i += step) rows.push_back(i);
        const bool counts = !rows.empty();
        if (!counts) rows.push_back(begin);
        const Batch batch = make_batch(sequences, rows, weights.embedding.device());
        const at::Tensor hidden = at_counted(forward(decoder, weights, batch.ids, {}).hidden, batch.counted);
        if (counts) {
            sum += model::token_losses(decoder, weights, hidden, batch.targets).sum(at::kDouble).item<double>();
            counted += batch.targets.numel();
        }
        progress.advance((end - begin) * length);
    }
    const std::vector<double> sums = ranks.sum({sum, static_cast<double>(counted)});
    return sums[1] > 0 ? sums[0] / sums[1] : 0;
}

std::int64_t total_steps(const TrainRecipe& recipe, std::size_t num_sequences) {
    if (recipe.steps) return *recipe.steps;
    const double per_step = static_cast<double>(recipe.batch_size * recipe.grad_accumulation);
    return std::max<std::int64_t>(static_cast<std::int64_t>(std::ceil(recipe.epochs * static_cast<double>(num_sequences) / per_step - 1e-9)), 1);
}

TrainResult train(TrainedModel& model, const TrainRecipe& recipe, const data::PackedSequences& sequences,
                  const data::PackedSequences& eval_sequences, std::int64_t total_steps, const TrainHooks& hooks, const distributed::Ranks& ranks,
                  const Teacher* teacher) {
    if (recipe.batch_size % ranks.size() != 0)
        throw Error(ErrorCode::recipe, fmt::format("{}: batch_size {} does not divide among {} ranks", recipe.source, recipe.batch_size, ranks.size()),
                    "batch_size is that of all ranks together");
    const auto share = static_cast<std::uint64_t>(recipe.batch_size / ranks.size()), first_row = share * static_cast<std::uint64_t>(ranks.rank());
    const Schedule schedule = recipe.schedule(total_steps);
    const AdamWOptions adamw{recipe.beta1, recipe.beta2, recipe.eps, recipe.weight_decay};
    const ForwardOptions options{recipe.auxiliary, recipe.checkpointing, teacher != nullptr && teacher->stream_weight() > 0, &ranks.everyone()};
    GradientSums gradients(model.parameters(), model.buckets(), ranks);
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
        const double loss = mean_loss(model.decoder(), model.weights(), eval_sequences, recipe.batch_size, recipe.eval_tokens, ranks);
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
            const StepReport report = accumulate(model, batches, options, gradients, ranks, teacher);
            check_finite(report, steps_done);
            const double lr = schedule.at(steps_done);
            const double scale = recipe.clip > 0 && report.gradient_norm > recipe.clip ? recipe.clip / (report.gradient_norm + 1e-6) : 1.0;
            adamw_step(model.parameters(), adamw, lr, steps_done + 1, scale);
            gradients.hand_out_weights();
            if (recipe.balance_bias > 0) balance_biases(model, report.loads, recipe.balance_bias);

            const double seconds = seconds_since(start);
            if (steps_done == hooks.first_step) result.first_loss = report.loss;
            result.last_loss = report.loss;
            result.seconds += seconds;
            result.tokens += static_cast<std::int64_t>(step_tokens);
            result.steps = ++steps_done;
            io::Json line{{"step", steps_done}, {"loss", report.loss}, {"lr", lr}, {"gradient_norm", report.gradient_norm}, {"tokens", step_tokens}, {"seconds", seconds}};
            if (options.keep_streams) line["stream_loss"] = report.stream;
            if (recipe.auxiliary.any()) line["auxiliary_loss"] = report.auxiliary;
            if (!report.loads.empty()) line["largest_load"] = report.largest_load();
            log(line);
            progress.note(fmt::format("step {}/{}, loss {:.4f}", steps_done, total_steps, report.loss));
            // Several ranks stop together, at the step that all of them heard of.
            if (report.interrupted) throw Error(ErrorCode::interrupted, "interrupted", "run the same command with --resume to go on");
            std::optional<InterruptHold> hold;
            if (ranks.size() > 1) hold.emplace();
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
    } catch (const distributed::RankLost&) {
        throw;
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
