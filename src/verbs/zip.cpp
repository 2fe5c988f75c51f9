// `zip MOE OUT --data DATA`: a smaller MoE, its experts made narrower or fewer on calibration text.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <iterator>
#include <optional>

#include "arch/open_tokenizer.h"
#include "calibrate/domain_tokens.h"
#include "data/conversations.h"
#include "error.h"
#include "io/sha256.h"
#include "io/staged_directory.h"
#include "progress.h"
#include "surgery/model_files.h"
#include "surgery/zip_layers.h"
#include "surgery/zip_output.h"
#include "surgery/zip_card.h"
#include "verbs/heal.h"
#include "verbs/model_options.h"
#include "verbs/profiled_texts.h"
#include "verbs/resource_use.h"
#include "verbs/lessons.h"
#include "verbs/verb_table.h"

namespace mixwright::verbs {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

class Zip final : public Verb {
public:
    void declare(CLI::App& app) override {
        app.add_option("MOE", model_, "a mixture of experts: directory or org/name[@rev] in the hub cache")->required();
        app.add_option("OUT", out_, "the directory to make")->required();
        app.add_option("--data", data_, "calibration text: text file, .jsonl or folder (repeat for several)")->required();
        app.add_option("--tokens", tokens_, "calibrate on this many tokens")->check(CLI::Range(64, 1 << 28))->capture_default_str();
        app.add_option("--ctx", context_, "tokens of a sequence")->check(CLI::Range(8, 1 << 20))->capture_default_str();
        app.add_option("--keep", options_.keep, "share of the experts' bytes to keep")->check(CLI::Range(0.01, 1.0))->capture_default_str();
        app.add_option("--method", method_, "typed, neuron, heapr, reap, frequency, random, average, zipit, hc-smoe, mergemoe, ream")->capture_default_str();
        app.add_option("--group", group_, "what typed, average and zipit pair experts by")->check(CLI::IsMember({"coactivation", "similarity", "random"}))->capture_default_str();
        app.add_option("--group-size", options_.group_size, "experts made into one by average and zipit")->check(CLI::Range(2, 8))->capture_default_str();
        app.add_option("--alpha", options_.alpha, "zipit: what a merged feature's similarities are multiplied by")->capture_default_str();
        app.add_option("--beta", options_.beta, "zipit: share of the merges that may happen inside one expert")->check(CLI::Range(0.0, 1.0))->capture_default_str();
        app.add_option("--format", format_, "standard: the same architecture; zipped: experts of unequal widths that may share rows (typed, neuron)")->check(CLI::IsMember({"standard", "zipped"}))->capture_default_str();
        app.add_option("--budget", budget_, "uniform: every layer keeps the same share; loss: layers in which narrow experts cost the loss more keep more (--format zipped)")->check(CLI::IsMember({"uniform", "loss"}))->capture_default_str();
        app.add_option("--refit", refit_, "ls: least squares on the output of the whole block; none: the method as published")
            ->check(CLI::IsMember({"none", "ls"}))->capture_default_str();
        app.add_option("--sequential", sequential_, "a layer's statistics come from the zipped layers below (on) or the original ones (off)")
            ->check(CLI::IsMember({"on", "off"}))->capture_default_str();
        app.add_option("--heal", heal_, "then distil the routers from the original: so many steps, or a file with keys of a training recipe");
        app.add_option("--out-shard-size", shard_size_, "largest safetensors file: 5GB, 500MB, ...")->capture_default_str();
        app.add_flag("--card,!--no-card", card_, "write a model card, README.md (on by default)");
        app.add_flag("--force", write_.force, "replace OUT when it exists");
        app.add_flag("--resume", write_.resume, "go on where an interrupted run with the same options stopped");
        app.add_option("--report", report_, "a page that shows the routing and what was made: a .html file");
    }

    void run(const CommonOptions& common) override {
        using namespace surgery;
        const auto start = Clock::now();
        options_.method = zip_method(method_);
        options_.format = format_ == "zipped" ? ZipFormat::zipped : ZipFormat::standard;
        options_.budget = budget_ == "loss" ? ZipBudget::loss : ZipBudget::uniform;
        options_.grouping = group_ == "random" ? ZipGrouping::random : group_ == "similarity" ? ZipGrouping::similarity : ZipGrouping::coactivation;
        options_.refit = refit_ == "ls";
        options_.sequential = sequential_ == "on";
        options_.seed = common.seed;
        if (!report_.empty()) check_page(report_);
        write_.shard_bytes = checkpoint::parse_byte_size(shard_size_);

        const arch::OpenModel model = arch::open_model(model_);
        ZipPlan plan = plan_zip(model, options_);
        checkpoint::check_output(out_, {model.checkpoint.path}, 0, write_);
        const model::Placement placement = placement_for(common, model, "float32");
        std::optional<Healing> healing;
        if (!heal_.empty()) healing = plan_healing(model, placement);
        const calibrate::DomainTokens text = read_text(model);
        info(fmt::format("{} tokens to fit to, {} held out; experts' bytes to keep: {:.1f} %", text.num_fit, text.num_held_out,
                         100 * (options_.format == ZipFormat::zipped ? options_.keep : kept_expert_bytes(model.spec, plan.spec))));

        const fs::path workplace = fs::path(out_).lexically_normal().string() + ".layers";
        if (!write_.resume) fs::remove_all(workplace);
        const std::vector<ZippedLayer> layers = zip_layers(model, text, plan, options_, placement, workplace, identity(model, common));
        warn_of_starved(model.spec, layers);

        checkpoint::OutputPlan output = zip_output(model, plan, options_, layers, workplace);
        std::ranges::move(base_files(model), std::back_inserter(output.files));
        if (card_) output.files.push_back({"README.md", zip_card(model, plan, options_, layers, text, fs::path(out_).lexically_normal().filename().string())});
        info(fmt::format("experts' bytes kept: {:.2f} %; the model will have {} bytes", 100 * kept_expert_bytes(model.spec, plan.spec),
                         checkpoint::plan_layout(output, write_.shard_bytes).bytes));
        const Made made = healing ? write_and_heal(*healing, output, common) : write(output);
        fs::remove_all(workplace);
        if (!report_.empty()) write_report(model, plan, layers, placement);
        report(common, model.spec, plan.spec, layers, made, std::chrono::duration<double>(Clock::now() - start).count());
    }

private:
    struct Made {
        fs::path out;
        std::uint64_t bytes = 0;
        std::optional<train::TrainResult> healed;
    };

    // Reads recipe and text, so that what is wrong with them is said before the work.
    Healing plan_healing(const arch::OpenModel& model, const model::Placement& placement) const {
        Healing healing{.settings = {.heal = heal_, .teacher = model_, .data = data_, .trainable = "router", .context = std::min(context_, model.spec.max_positions),
                                     .hidden_size = model.spec.hidden_size, .dtype = placement.dtype == at::kFloat ? "float32" : "bfloat16"},
                        .out = io::output_path(out_), .write = write_};
        checkpoint::check_output(unhealed_path(healing.out), {model.checkpoint.path}, 0, unhealed_write());
        const Lessons lessons = lessons_by_text(read_parted_texts(model_, data_, model.spec, {.tokens = tokens_, .heal_tokens = heal_tokens(healing.settings), .context = healing.settings.context}), false);
        healing.text = lessons.heal.front();
        healing.judge = lessons.judged();
        return healing;
    }

    // An interrupted run may have left a model there that another choice of layers made; the weights to write are at hand.
    checkpoint::WriteOptions unhealed_write() const {
        checkpoint::WriteOptions write = write_;
        write.force |= write.resume;
        return write;
    }

    Made write(const checkpoint::OutputPlan& output) const {
        const checkpoint::WriteResult written = checkpoint::write_model(output, out_, write_);
        return {written.out, written.bytes, std::nullopt};
    }

    Made write_and_heal(Healing& healing, const checkpoint::OutputPlan& output, const CommonOptions& common) const {
        const fs::path unhealed = unhealed_path(healing.out);
        checkpoint::write_model(output, unhealed, unhealed_write());
        for (const checkpoint::OutputFile& file : output.files) {
            if (file.name == "README.md") healing.card = std::get<std::string>(file.content);
            if (file.name == "zip_report.json") healing.files.push_back(file);
        }
        const TrainingOutcome outcome = heal(healing, common);
        fs::remove_all(unhealed);
        return {healing.out, outcome.bytes, outcome.result};
    }

    void write_report(const arch::OpenModel& model, const surgery::ZipPlan& plan, const std::vector<surgery::ZippedLayer>& layers, const model::Placement& placement) const {
        const std::int64_t tokens = std::max<std::int64_t>(64, tokens_ / std::ssize(data_));
        const calibrate::Profile profile = calibrate::profile_model(model, profiled_texts(model_, model, data_, tokens, context_), placement);
        write_page(report_, calibrate::profile_page(profile, last_name(out_), surgery::zip_report_json(model.spec, plan, options_, layers)));
    }

    calibrate::DomainTokens read_text(const arch::OpenModel& model) const {
        const data::ChatRenderer render_chat = data::chat_renderer_of(model_);
        const calibrate::DomainSettings settings{.tokens = tokens_, .context = std::min(context_, model.spec.max_positions), .held_out = 0.1};
        return calibrate::read_domain(arch::open_tokenizer(model_), render_chat, {data_.begin(), data_.end()}, {}, settings, model.spec.vocab_size, "--data");
    }

    // Everything the result depends on, but for the bytes of the weights.
    std::string identity(const arch::OpenModel& model, const CommonOptions& common) const {
        io::Json json{{"model", model.checkpoint.path.string()}, {"config", model.checkpoint.config}, {"data", data_}, {"tokens", tokens_}, {"ctx", context_},
                      {"keep", options_.keep}, {"method", method_}, {"format", format_}, {"budget", budget_}, {"group", group_}, {"group_size", options_.group_size}, {"alpha", options_.alpha}, {"beta", options_.beta}, {"refit", refit_},
                      {"sequential", sequential_}, {"seed", common.seed}, {"dtype", common.dtype}};
        for (const std::string& path : data_) {
            std::error_code error;
            json["sizes"].push_back(fs::file_size(path, error));
            json["times"].push_back(fs::last_write_time(path, error).time_since_epoch().count());
        }
        return io::sha256(json.dump(-1, ' ', false, io::Json::error_handler_t::replace));
    }

    static void warn_of_starved(const arch::ModelSpec& spec, const std::vector<surgery::ZippedLayer>& layers) {
        std::int64_t starved = 0, silent = 0, total = 0;
        for (const auto& layer : layers) {
            starved += layer.starved;
            silent += std::ranges::count(layer.tokens, 0);
            total += spec.num_experts;
        }
        if (starved > 0)
            warn(fmt::format("{} of {} experts saw fewer tokens than they have neurons ({} of them none at all): their maps stay near the original's; "
                             "more text would help (--tokens)", starved, total, silent));
    }

    void report(const CommonOptions& common, const arch::ModelSpec& from, const arch::ModelSpec& to, const std::vector<surgery::ZippedLayer>& layers,
                const Made& made, double seconds) const {
        if (common.json) {
            io::Json by_layer = io::Json::array();
            for (const auto& layer : layers) by_layer.push_back(layer.json());
            io::Json result{{"out", made.out.string()}, {"bytes", made.bytes}, {"parameters", to.num_parameters()},
                            {"active_parameters", to.num_active_parameters()}, {"seconds", seconds}, {"peak_rss_bytes", peak_rss_bytes()},
                            {"method", method_}, {"format", format_}, {"budget", budget_}, {"kept_expert_bytes", surgery::kept_expert_bytes(from, to)},
                            {"speed_bound", surgery::speed_bound(from, to, layers, true)}, {"speed_bound_apart", surgery::speed_bound(from, to, layers, false)},
                            {"layers", by_layer}};
            if (made.healed) result["heal"] = heal_json(*made.healed);
            fmt::print("{}\n", result.dump());
            return;
        }
        if (common.quiet) return;
        fmt::print("{}", surgery::zip_table(from, to, layers));
        fmt::print("{}: {:.1f} M parameters ({:.1f} M before), {:.1f} M active ({:.1f} M), {:.1f} MB in {:.1f} s, peak memory {:.0f} MB\n", made.out.string(),
                   static_cast<double>(to.num_parameters()) / 1e6, static_cast<double>(from.num_parameters()) / 1e6,
                   static_cast<double>(to.num_active_parameters()) / 1e6, static_cast<double>(from.num_active_parameters()) / 1e6,
                   static_cast<double>(made.bytes) / 1e6, seconds, static_cast<double>(peak_rss_bytes()) / 1e6);
        if (made.healed) fmt::print("healed: {} steps, loss {:.4f} -> {:.4f}\n", made.healed->steps, made.healed->first_loss, made.healed->last_loss);
        fmt::print("\nnext:\n  mixwright eval {0} --task ppl:FILE\n  mixwright generate {0} -p \"...\"\n", made.out.string());
    }

    std::string model_, out_, heal_, method_ = "neuron", group_ = "coactivation", format_ = "standard", budget_ = "uniform", refit_ = "ls", sequential_ = "on", shard_size_ = "5GB", report_;
    std::vector<std::string> data_;
    std::int64_t tokens_ = 32768, context_ = 512;
    bool card_ = true;
    surgery::ZipOptions options_;
    checkpoint::WriteOptions write_;
};

}  // namespace

std::unique_ptr<Verb> make_zip() { return std::make_unique<Zip>(); }

}  // namespace mixwright::verbs
