// `chain MODEL OUT`: a mixture of experts whose experts work on each other's output; or, with --config, a fresh one.
#include <fmt/format.h>

#include <chrono>

#include "arch/compute_cost.h"
#include "arch/fresh_model.h"
#include "arch/render_config.h"
#include "error.h"
#include "io/staged_directory.h"
#include "progress.h"
#include "surgery/chain_model.h"
#include "surgery/model_files.h"
#include "surgery/remote_code.h"
#include "verbs/resource_use.h"
#include "verbs/verb_table.h"

namespace mixwright::verbs {
namespace {

using Clock = std::chrono::steady_clock;
using io::Json;

class Chain final : public Verb {
public:
    void declare(CLI::App& app) override {
        app.add_option("PATHS", paths_, "MODEL OUT; with --config only OUT")->required()->expected(1, 2)->option_text("[MODEL] OUT");
        app.add_option("--iterations", request_.iterations, "times the experts of a layer run (default 2)")->check(CLI::Range(1, 64));
        app.add_option("--top-k", top_k_, "experts of a token in each iteration (default: the model's, divided by the iterations)")->check(CLI::Range(1, 4096));
        app.add_flag("--shared-gates", request_.shared_gates, "one router for all iterations, not one for each");
        app.add_option("--config", config_file_, "config.json of a fresh model, with random weights");
        app.add_option("--tokenizer", tokenizer_, "with --config: the model whose tokenizer it takes over");
        app.add_option("--out-shard-size", shard_size_, "largest file of weights: 5GB, 500MB, ...")->capture_default_str();
        app.add_flag("--force", write_.force, "replace OUT when it exists");
    }

    void run(const CommonOptions& common) override {
        const auto start = Clock::now();
        if (paths_.size() != (config_file_.empty() ? 2 : 1))
            throw Error(ErrorCode::usage, config_file_.empty() ? "chain needs MODEL and OUT" : "chain --config FILE needs OUT alone");
        if (top_k_ > 0) request_.top_k = top_k_;
        write_.shard_bytes = checkpoint::parse_byte_size(shard_size_);
        const std::filesystem::path out = io::output_path(paths_.back());

        checkpoint::OutputPlan plan;
        Json config;
        const arch::ModelSpec spec = config_file_.empty() ? from_model(common, plan, config) : fresh(common, plan, config);
        surgery::add_remote_code(spec, plan, config);
        plan.config = config.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
        const std::uint64_t bytes = checkpoint::write_model(plan, out, write_).bytes;
        report(common, spec, bytes, std::chrono::duration<double>(Clock::now() - start).count());
    }

private:
    arch::ModelSpec from_model(const CommonOptions& common, checkpoint::OutputPlan& plan, Json& config) const {
        const arch::OpenModel source = arch::open_model(paths_.front());
        arch::ModelSpec spec = surgery::chained_spec(source.spec, request_);
        plan.tensors = surgery::chained_tensors(source, spec);
        plan.files = surgery::base_files(source);
        plan.inputs = {source.checkpoint.path};
        config = arch::render_config(spec);
        if (!common.json && !common.quiet) {
            const auto before = arch::compute_cost(source.spec), after = arch::compute_cost(spec);
            info(fmt::format("{}: {} iterations of top {}, {:.1f} MFLOP a token (the source: top {}, {:.1f})", paths_.front(), request_.iterations, spec.top_k,
                             static_cast<double>(after.flops_per_token) / 1e6, source.spec.top_k, static_cast<double>(before.flops_per_token) / 1e6));
        }
        return spec;
    }

    arch::ModelSpec fresh(const CommonOptions& common, checkpoint::OutputPlan& plan, Json& config) const {
        const Json given = io::read_json(config_file_);
        if (!given.is_object()) throw Error(ErrorCode::malformed, fmt::format("{}: not an object", config_file_));
        arch::OpenModel model = arch::fresh_model(given, config_file_, common.seed);
        if (!tokenizer_.empty()) {
            model.checkpoint.path = checkpoint::resolve_model(tokenizer_);
            plan.files = surgery::base_files(model);
        }
        const Dtype dtype = model.spec.dtype.value_or(Dtype::f32);
        for (const arch::TensorSlot& slot : arch::tensor_slots(model.spec))
            plan.tensors.push_back(checkpoint::copy_tensor(slot.name, model.tensors, model.tensors->at(slot.name), dtype));
        config = model.checkpoint.config;
        return model.spec;
    }

    void report(const CommonOptions& common, const arch::ModelSpec& spec, std::uint64_t bytes, double seconds) const {
        const arch::ComputeCost cost = arch::compute_cost(spec);
        if (common.json) {
            fmt::print("{}\n", Json{{"out", paths_.back()},
                                    {"bytes", bytes},
                                    {"parameters", cost.parameters},
                                    {"active_parameters", cost.active_parameters},
                                    {"flops_per_token", cost.flops_per_token},
                                    {"seconds", seconds},
                                    {"peak_rss_bytes", peak_rss_bytes()}}
                                   .dump());
            return;
        }
        const auto millions = [](std::int64_t n) { return static_cast<double>(n) / 1e6; };
        fmt::print("{}: {}\n  parameters    {:>10.2f} M\n  active        {:>10.2f} M a token\n  compute       {:>10.2f} MFLOP a token, forward\n"
                   "  weights       {:>10.2f} MB; training in f32 takes {:.0f} MB and the activations\n",
                   paths_.back(), spec.architecture->model_type, millions(cost.parameters), millions(cost.active_parameters), millions(cost.flops_per_token),
                   static_cast<double>(bytes) / 1e6, 16 * millions(cost.parameters));
        std::int64_t most = 1;
        for (std::int64_t layer = 0; layer < spec.num_layers; ++layer) most = std::max(most, spec.iterations(layer));
        if (spec.is_moe() && most > 1)
            fmt::print("  compute of    a plain mixture with {} of {} experts a token{}\n", spec.top_k * most, spec.num_experts,
                       spec.shared_width > 0 ? fmt::format(" and a shared expert {} times as wide", most) : "");
    }

    std::vector<std::string> paths_;
    std::string config_file_, tokenizer_, shard_size_ = "5GB";
    surgery::ChainRequest request_;
    std::int64_t top_k_ = 0;
    checkpoint::WriteOptions write_;
};

}  // namespace

std::unique_ptr<Verb> make_chain() { return std::make_unique<Chain>(); }

}  // namespace mixwright::verbs
