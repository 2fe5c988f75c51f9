// mixwright build: a mixture of experts from dense models.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <iterator>
#include <optional>

#include "checkpoint/writer.h"
#include "error.h"
#include "progress.h"
#include "surgery/gates.h"
#include "surgery/model_files.h"
#include "surgery/moe_plan.h"
#include "surgery/plan_report.h"
#include "surgery/preflight.h"
#include "surgery/recipe.h"
#include "surgery/routing_report.h"
#include "surgery/self_test.h"
#include "surgery/verify_finite.h"
#include "verbs/model_options.h"
#include "verbs/resource_use.h"
#include "verbs/verb_table.h"

namespace mixwright::verbs {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

class Build final : public Verb {
public:
    void declare(CLI::App& app) override {
        app.add_option("RECIPE", recipe_, "mergekit-moe's YAML, or ours")->required();
        app.add_option("OUT", out_, "directory to write; it must not exist yet");
        app.add_flag("--dry-run", dry_run_, "show the plan, to the byte, and write nothing");
        app.add_option("--layout", layout_, "per-expert (loads everywhere) or fused (transformers 5 in memory)")
            ->check(CLI::IsMember({"per-expert", "fused"}));
        app.add_option("--out-shard-size", shard_size_, "largest file of weights: 5GB, 500MB, ... (default 5GB)");
        app.add_flag("--resume", write_.resume, "go on where an interrupted run of the same recipe stopped");
        app.add_flag("--force", write_.force, "replace OUT when it exists");
        app.add_flag("--card,!--no-card", card_, "write a model card, README.md (on by default)");
        app.add_flag("--self-test", self_test_, "first check that with the base as every expert the logits are the base's");
        app.add_flag("--verify", verify_, "first read every weight and refuse NaN and infinity");
        app.add_flag("--routing,!--no-routing", routing_, "try each expert's prompts or data on the result (on by default)");
        app.add_flag("--allow-mismatch", allow_mismatch_, "experts may have another vocabulary than the base");
        app.add_flag("--i-understand-this-is-not-useful-without-training", allow_identical_, "all experts may be the same model");
        // Of a later release; refused by name, so that nobody takes them for done.
        app.add_option("--gguf", gguf_)->group("");
        app.add_option("--eval", eval_)->group("");
    }

    void run(const CommonOptions& common) override {
        using namespace surgery;
        const auto start = Clock::now();
        refuse_later_options();
        if (out_.empty() && !dry_run_) throw Error(ErrorCode::usage, "OUT is missing", "mixwright build RECIPE OUT, or --dry-run");
        write_.shard_bytes = checkpoint::parse_byte_size(shard_size_);
        const ExpertLayout layout = layout_ == "fused" ? ExpertLayout::fused : ExpertLayout::per_expert;

        const BuildRecipe recipe = read_build_recipe(recipe_, allow_identical_);
        const SourceModels sources = open_sources(recipe);
        const MoeTarget& target = choose_target(recipe, sources.specs());
        std::vector<Difference> differences = compare_configs(sources);
        std::ranges::move(compare_vocabularies(sources), std::back_inserter(differences));
        check_agreement(differences, recipe.source, allow_mismatch_);
        MoePlan plan = plan_moe(recipe, sources, target, layout, {}, common.seed);
        add_files(recipe, sources, plan);
        const checkpoint::OutputLayout planned = checkpoint::plan_layout(plan.output, write_.shard_bytes);
        if (!out_.empty()) checkpoint::check_output(out_, plan.output.inputs, planned.bytes, write_);
        if (dry_run_) return show_plan(common, plan_table(recipe, sources, plan, planned), plan_json(recipe, sources, plan, planned));
        info(plan_table(recipe, sources, plan, planned));

        if (verify_) verify_finite(plan.output);
        if (self_test_) {
            const SelfTest test = run_self_test(recipe, sources, target, layout, model::compute_device(common.device));
            info(fmt::format("self-test passed: with the base as every expert the logits differ by {:.1e} at most (largest {:.1f})",
                             test.max_difference, test.max_logit));
        }
        // Prompts are short and their directions subtle: f32. Ridge averages over thousands of tokens: the model's own dtype.
        const char* const dtype = recipe.gate_mode == GateMode::ridge ? "" : "float32";
        const GateOptions options{.placement = placement_for(common, sources.base->open, dtype), .seed = common.seed};
        const Gates gates = make_gates(recipe, sources, plan.spec, options);
        plan = plan_moe(recipe, sources, target, layout, gates.layers, common.seed);
        add_files(recipe, sources, plan);
        // The rows of ridge gates sum to zero by construction; their accuracy says more.
        if (recipe.gate_mode != GateMode::ridge) warn_of_degenerate_gates(gates.layers, plan.spec);
        const checkpoint::WriteResult written = checkpoint::write_model(plan.output, out_, write_);
        const std::optional<RoutingReport> routing = try_routing(common, gates);

        const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
        if (common.json) {
            io::Json result{{"out", out_},
                                  {"bytes", written.bytes},
                                  {"parameters", plan.spec.num_parameters()},
                                  {"active_parameters", plan.spec.num_active_parameters()},
                                  {"seconds", seconds},
                                  {"peak_rss_bytes", peak_rss_bytes()}};
            if (!gates.report.is_null()) result["ridge"] = gates.report;
            if (routing) result["routing"] = routing->json();
            fmt::print("{}\n", result.dump());
        } else {
            if (!gates.report.is_null())
                fmt::print("ridge gates: {:.1f} % of {} held-out tokens go to their own expert first, mean over layers\n\n",
                           100 * gates.report["accuracy"].get<double>(), gates.report["held_out_tokens"].get<std::int64_t>());
            if (routing) fmt::print("{}\n", routing->text(common.verbosity > 0));
            fmt::print("{}: {:.1f} M parameters, {:.1f} M active, {:.1f} MB in {:.1f} s, peak memory {:.0f} MB\n", out_,
                       static_cast<double>(plan.spec.num_parameters()) / 1e6,
                       static_cast<double>(plan.spec.num_active_parameters()) / 1e6, static_cast<double>(written.bytes) / 1e6, seconds,
                       static_cast<double>(peak_rss_bytes()) / 1e6);
            print_next_commands();
        }
    }

private:
    void refuse_later_options() const {
        if (!gguf_.empty())
            throw Error(ErrorCode::unsupported, "--gguf comes with the release that brings `mixwright export`",
                        "until then convert OUT with llama.cpp's convert_hf_to_gguf.py: the per-expert layout is what it reads");
        if (!eval_.empty())
            throw Error(ErrorCode::unsupported, "--eval comes with the release that brings `mixwright eval`",
                        "until then evaluate OUT with lm-evaluation-harness");
    }

    void add_files(const surgery::BuildRecipe& recipe, const surgery::SourceModels& sources, surgery::MoePlan& plan) const {
        plan.output.files = surgery::base_files(sources.base->open);
        plan.output.files.push_back({"mergekit_moe_config.yml", recipe.text});
        if (card_) {
            const fs::path out = fs::path(out_).lexically_normal();
            const fs::path name = out.has_filename() ? out.filename() : out.parent_path().filename();
            plan.output.files.push_back({"README.md", surgery::model_card(recipe, sources, plan, name.string())});
        }
    }

    static void warn_of_degenerate_gates(const std::vector<surgery::LayerGates>& gates, const arch::ModelSpec& spec) {
        constexpr double threshold = 5;  // mergekit-moe's
        const auto layers = surgery::moe_layers(spec);
        const auto numbers = surgery::condition_numbers(gates, spec.hidden_size);
        std::vector<std::int64_t> degenerate;
        for (std::size_t i = 0; i < layers.size(); ++i)
            if (!(numbers[i] <= threshold)) degenerate.push_back(layers[i]);
        if (degenerate.empty()) return;
        warn(fmt::format("the routers of {} of {} layers are degenerate: some experts' rows nearly coincide (condition number up to {:.1f}); "
                         "make the prompts differ more, or use gate_mode: ridge with data",
                         degenerate.size(), layers.size(), *std::ranges::max_element(numbers)));
    }

    // In the model's own dtype: the weights are then used where they lie in their files.
    std::optional<surgery::RoutingReport> try_routing(const CommonOptions& common, const surgery::Gates& gates) const {
        if (!routing_ || gates.samples.empty()) return std::nullopt;
        const arch::OpenModel built = arch::open_model(out_);
        auto report = surgery::measure_routing(built, gates.samples, placement_for(common, built));
        const auto dead = report.dead();
        if (!dead.empty())
            warn(fmt::format("{} of {} experts were chosen by no token of any domain (the first: expert {} of layer {})", dead.size(),
                             report.chosen.size(0) * report.chosen.size(2), dead[0].second, dead[0].first));
        return report;
    }

    static void show_plan(const CommonOptions& common, const std::string& table, const io::Json& json) {
        if (common.json)
            fmt::print("{}\n", json.dump());
        else
            fmt::print("{}", table);
    }

    void print_next_commands() const {
        fmt::print("\nnext:\n  mixwright generate {0} -p \"...\"\n  mixwright inspect {0}\n", out_);
    }

    std::string recipe_, out_, layout_ = "per-expert", shard_size_ = "5GB", gguf_, eval_;
    bool dry_run_ = false, card_ = true, self_test_ = false, verify_ = false, routing_ = true;
    bool allow_mismatch_ = false, allow_identical_ = false;
    checkpoint::WriteOptions write_;
};

}  // namespace

std::unique_ptr<Verb> make_build() { return std::make_unique<Build>(); }

}  // namespace mixwright::verbs
