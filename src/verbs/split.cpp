// `split`: dense models out of a mixture of experts.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <map>

#include "arch/open_tokenizer.h"
#include "error.h"
#include "io/file.h"
#include "io/staged_directory.h"
#include "progress.h"
#include "split/recovery.h"
#include "split/split_plan.h"
#include "split/splitter.h"
#include "verbs/heal.h"
#include "verbs/model_options.h"
#include "verbs/resource_use.h"
#include "verbs/lessons.h"
#include "verbs/verb_table.h"

namespace mixwright::verbs {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

class Split final : public Verb {
public:
    void declare(CLI::App& app) override {
        app.add_option("MOE", moe_, "directory, .gguf file or org/name in the hub cache")->required();
        app.add_option("OUT", out_, "directory to write; of several models, one directory each inside it")->required();
        app.add_option("--expert", expert_, "expert of every layer, from 0; or `shared`");
        app.add_option("--experts-per-layer", experts_file_, "JSON list with an expert, or a list of them, for every MoE layer");
        app.add_flag("--all", options_.all, "a model for every expert (slice) or for every path of tokens (routed)");
        app.add_option("--method", method_, "slice, mean, slerp, concat, routed or fit (default: fit with --data and no experts named, else slice)");
        app.add_option("--data", data_, "text the model is to be good at: file, .jsonl or folder (repeat for several domains)");
        app.add_option("--students", students_, "fitted models: as many as there are --data, one for each; else one for each kind of text the experts tell apart")->check(CLI::Range(1, 256));
        app.add_option("--width", options_.width, "neurons of each layer, for concat and fit (default: those active for a token)")->check(CLI::Range(1, 1 << 24));
        app.add_option("--tokens", tokens_, "to learn from, in all (default 16384)")->check(CLI::Range(64, 1 << 26));
        app.add_option("--heal", heal_, "distil what was made from the mixture: so many steps, or a file with keys of a training recipe");
        app.add_option("--ctx", context_, "tokens of a sequence (default 512)")->check(CLI::Range(8, 1 << 20));
        app.add_option("--shared", shared_, "concat (the default) puts the shared expert beside the others, drop leaves it out")->check(CLI::IsMember({"concat", "drop"}));
        app.add_flag("--align", options_.align, "of mean: permute each expert's neurons to those of the first before");
        app.add_flag("--report,!--no-report", report_, "compare perplexity, speed and samples, on text kept apart (on by default with --data)");
        app.add_option("--out-shard-size", shard_size_, "largest file of weights: 5GB, 500MB, ... (default 5GB)");
        app.add_flag("--resume", write_.resume, "go on where an interrupted run with the same options stopped");
        app.add_flag("--force", write_.force, "replace OUT when it exists");
    }

    void run(const CommonOptions& common) override {
        const auto start = Clock::now();
        write_.shard_bytes = checkpoint::parse_byte_size(shard_size_);
        const arch::OpenModel moe = arch::open_model(moe_);
        read_options(moe);
        checkpoint::check_output(out_, {moe.checkpoint.path}, 0, write_);
        const model::Placement placement = placement_for(common, moe);
        const std::int64_t context = std::min(context_, moe.spec.max_positions);
        const std::vector<PartedText> texts = read_parted_texts(moe_, data_, moe.spec, {.tokens = tokens_, .heal_tokens = heal_tokens(heal_settings(moe.spec, placement)), .context = context});
        options_.data_identity = identity_of(texts);
        std::vector<model::StreamedBatch> all;
        for (const PartedText& text : texts) all.insert(all.end(), text.learn.fit.begin(), text.learn.fit.end());

        // A fit measures what it needs itself, on its way through the layers.
        const bool measured = !all.empty() && options_.method != split::Method::fit;
        const std::vector<split::LayerRouting> routing = measured ? split::measure_routing_flow(moe, all, placement) : split::uniform_routing(moe);
        const bool each = students_ > 1 && students_ == static_cast<std::int64_t>(texts.size());
        Lessons lessons = students_ > 1 && !each ? lessons_by_kind(moe, texts, students_, context, placement) : lessons_by_text(texts, each);
        const std::vector<split::DenseModel> models = split::plan_dense_models(moe, options_, routing, measured, std::move(lessons.fit), placement);

        std::vector<split::SplitPlan> plans;
        std::uint64_t bytes = 0;
        for (const split::DenseModel& model : models) {
            plans.push_back(split::plan_split(moe, model.mlps, model.width, out_of(model).filename().string(), model.about));
            bytes += checkpoint::plan_layout(plans.back().output, write_.shard_bytes).bytes;
        }
        checkpoint::check_output(out_, {moe.checkpoint.path}, heal_.empty() ? bytes : 2 * bytes, write_);
        tell_plan(moe, models, plans, bytes);
        if (!models[0].name.empty()) fs::create_directories(io::output_path(out_));

        for (std::size_t i = 0; i < models.size(); ++i) write(models[i], plans[i]);
        const std::uint64_t peak_rss = peak_rss_bytes();  // of the split itself: what follows holds whole models
        std::optional<SplitReport> report;
        if (report_ && !texts.empty()) {
            report.emplace(lessons.judge, arch::open_tokenizer(moe_), context, common);
            report->judge("mixture", moe);
        }
        for (std::size_t i = 0; i < models.size(); ++i) finish(common, i, models[i], plans[i], lessons, placement, report ? &*report : nullptr);
        if (report) file_report(models, *report);
        const double seconds = seconds_since(start);
        if (common.json)
            print_json(models, plans, report ? &*report : nullptr, bytes, seconds, peak_rss);
        else
            print_text(models, report ? &*report : nullptr, bytes, seconds, peak_rss);
    }

private:
    // What the command line says, against what the model is.
    void read_options(const arch::OpenModel& moe) {
        if (!moe.spec.is_moe())
            throw Error(ErrorCode::mismatch, fmt::format("{}: a {} model has no experts to split", moe.checkpoint.name, moe.spec.architecture->model_type));
        const int chosen = !expert_.empty() + !experts_file_.empty() + options_.all;
        if (chosen > 1) throw Error(ErrorCode::usage, "--expert, --experts-per-layer and --all exclude each other");
        options_.method = split::parse_method(!method_.empty() ? method_ : data_.empty() || chosen > 0 ? "slice" : "fit");
        if (split::needs_data(options_.method) && data_.empty())
            throw Error(ErrorCode::usage, fmt::format("--method {} needs --data", split::method_name(options_.method)), "text like that which the model is for; some tens of thousands of tokens");
        // A mixture of dense models keeps their recipe: its experts are whole models without the shared one.
        const bool of_dense_models = fs::exists(moe.checkpoint.path / "mergekit_moe_config.yml");
        options_.shared = shared_.empty() ? (of_dense_models && options_.method == split::Method::slice ? split::Shared::drop : split::Shared::concat)
                          : shared_ == "drop" ? split::Shared::drop : split::Shared::concat;
        if (!experts_file_.empty()) {
            if (options_.method != split::Method::slice && !method_.empty())
                throw Error(ErrorCode::usage, fmt::format("--experts-per-layer goes with --method slice, not {}", method_));
            options_.method = split::Method::slice;
            options_.experts_per_layer = split::read_experts_per_layer(experts_file_, moe.spec);
        }
        if (options_.all && options_.method != split::Method::slice && options_.method != split::Method::routed)
            throw Error(ErrorCode::usage, fmt::format("--all goes with --method slice or routed, not {}", method_));
        if (!expert_.empty() && options_.method != split::Method::slice)
            throw Error(ErrorCode::usage, fmt::format("--expert goes with --method slice, not {}", split::method_name(options_.method)));
        if (options_.method == split::Method::slice && chosen == 0)
            throw Error(ErrorCode::usage, "which expert? --expert N, --experts-per-layer FILE or --all",
                        "or --data FILE: a dense model fitted to what the mixture does with that text");
        if (options_.width > 0 && options_.method != split::Method::concat && options_.method != split::Method::fit)
            throw Error(ErrorCode::usage, fmt::format("--width goes with --method concat and fit: {} is as wide as an expert", split::method_name(options_.method)));
        if (students_ > 1 && options_.method != split::Method::fit)
            throw Error(ErrorCode::usage, fmt::format("--students goes with --method fit, not {}", split::method_name(options_.method)));
        if (!heal_.empty() && data_.empty()) throw Error(ErrorCode::usage, "--heal needs --data", "the text on which the mixture is to be imitated");
        if (expert_ == "shared") {
            options_.shared_only = true;
        } else if (!expert_.empty()) {
            std::int64_t number = -1;
            const auto [end, error] = std::from_chars(expert_.data(), expert_.data() + expert_.size(), number);
            if (error != std::errc() || end != expert_.data() + expert_.size())
                throw Error(ErrorCode::usage, fmt::format("--expert {}: not a number", printable(expert_)), "an expert from 0 on, or `shared`");
            split::check_expert(number, moe.spec);
            options_.expert = number;
        }
    }

    HealSettings heal_settings(const arch::ModelSpec& moe, const model::Placement& placement) const {
        return {.heal = heal_, .teacher = moe_, .data = data_, .context = std::min(context_, moe.max_positions), .hidden_size = moe.hidden_size,
                .dtype = placement.dtype == at::kFloat ? "float32" : "bfloat16"};
    }

    fs::path out_of(const split::DenseModel& model) const {
        const fs::path out = fs::path(out_).lexically_normal();
        if (!model.name.empty()) return out / model.name;
        return out.has_filename() ? out : out.parent_path();
    }

    void tell_plan(const arch::OpenModel& moe, const std::vector<split::DenseModel>& models, const std::vector<split::SplitPlan>& plans, std::uint64_t bytes) const {
        const arch::ModelSpec& spec = plans[0].twin.spec;
        info(fmt::format("{}: {} of {} experts, {} active -> {} {} model{} of {:.1f} M parameters, MLPs of {}; {:.1f} MB", moe.checkpoint.name,
                         moe.spec.architecture->model_type, moe.spec.num_experts, moe.spec.top_k, models.size(), spec.architecture->model_type,
                         models.size() == 1 ? "" : "s", static_cast<double>(spec.num_parameters()) / 1e6, models[0].width, static_cast<double>(bytes) / 1e6));
        if (!plans[0].twin.note.empty()) info(plans[0].twin.note);
    }

    // Writes a model, or the student that is to be healed to it.
    void write(const split::DenseModel& model, const split::SplitPlan& plan) const {
        const fs::path out = out_of(model), target = heal_.empty() ? out : unhealed_path(out);
        if (const std::string text = split::recovery_text(model.recovery); !text.empty()) info(fmt::format("{}: {}", out.string(), text));
        for (const fs::path& there : {out, target})
            if (write_.resume && fs::exists(there / "config.json")) return info(fmt::format("{}: is there already", there.string()));
        checkpoint::write_model(plan.output, target, write_);
        if (model.student == nullptr) return;
        for (const split::StudentLayer& layer : model.student->report())
            info(fmt::format("layer {}: output error {:.1f} % (held out {:.1f} %), {} neurons of the shared expert", layer.layer, 100 * layer.error,
                             100 * layer.held_out_error, layer.from_shared));
    }

    // Heals model `i`, where that was asked for, and judges it.
    void finish(const CommonOptions& common, std::size_t i, const split::DenseModel& model, const split::SplitPlan& plan, const Lessons& lessons,
                const model::Placement& placement, SplitReport* report) {
        const fs::path out = out_of(model), unhealed = unhealed_path(out);
        const std::string name = model.name.empty() ? std::string(split::method_name(options_.method)) : model.name;
        if (!heal_.empty() && !(write_.resume && fs::exists(out / "config.json"))) {
            if (report != nullptr) report->judge(name, arch::open_model(unhealed.string()));
            const Healing healing{.settings = heal_settings(plan.twin.spec, placement), .out = out, .text = lessons.heal.at(std::min(i, lessons.heal.size() - 1)),
                                  .judge = lessons.judged(), .card = readme(plan), .write = write_};
            healed_.emplace(i, heal(healing, common).result);
        }
        if (!heal_.empty()) fs::remove_all(unhealed);
        if (report != nullptr) report->judge(heal_.empty() ? name : name + ", healed", arch::open_model(out.string()));
    }

    static std::string readme(const split::SplitPlan& plan) {
        for (const checkpoint::OutputFile& file : plan.output.files)
            if (file.name == "README.md") return std::get<std::string>(file.content);
        return {};
    }

    // The report stands in each model's card; that of several models also beside them.
    void file_report(const std::vector<split::DenseModel>& models, const SplitReport& report) const {
        constexpr std::string_view heading = "\n## Report\n\n";
        constexpr std::size_t limit = 4u << 20;
        for (const split::DenseModel& model : models) {
            const std::string path = (out_of(model) / "README.md").string();
            std::string card = io::read_file(path, limit);
            card.resize(std::min(card.size(), card.find(heading)));
            replace_text_file(path, fmt::format("{}{}{}", card, heading, report.markdown()));
        }
        if (models[0].name.empty()) return;
        const fs::path folder = fs::path(out_);
        replace_text_file((folder / "README.md").string(), fmt::format("# Dense models of {}\n\n{}", fs::path(moe_).lexically_normal().filename().string(), report.markdown()));
        replace_text_file((folder / "report.json").string(), report.json().dump(2, ' ', false, io::Json::error_handler_t::replace) + "\n");
    }

    void print_json(const std::vector<split::DenseModel>& models, const std::vector<split::SplitPlan>& plans, const SplitReport* report, std::uint64_t bytes, double seconds,
                    std::uint64_t peak_rss) const {
        std::int64_t parameters = 0;
        for (const split::SplitPlan& plan : plans) parameters += plan.twin.spec.num_parameters();
        io::Json result{{"out", out_}, {"bytes", bytes}, {"parameters", parameters}, {"active_parameters", parameters}, {"seconds", seconds},
                        {"peak_rss_bytes", peak_rss}, {"method", split::method_name(options_.method)}, {"models", io::Json::array()}};
        for (std::size_t i = 0; i < models.size(); ++i) {
            io::Json one{{"out", out_of(models[i]).string()}, {"architecture", plans[i].twin.spec.architecture->model_type}, {"width", models[i].width},
                         {"parameters", plans[i].twin.spec.num_parameters()}};
            for (const double error : models[i].recovery) one["recovery_error"].push_back(std::isfinite(error) ? io::Json(error) : io::Json());
            if (models[i].student != nullptr)
                for (const split::StudentLayer& layer : models[i].student->report())
                    one["layers"].push_back({{"layer", layer.layer}, {"lambda", layer.lambda}, {"error", layer.error}, {"held_out_error", layer.held_out_error}});
            if (const auto healed = healed_.find(i); healed != healed_.end()) one["heal"] = heal_json(healed->second);
            result["models"].push_back(std::move(one));
        }
        if (report != nullptr) result["report"] = report->json();
        fmt::print("{}\n", result.dump(-1, ' ', false, io::Json::error_handler_t::replace));
    }

    void print_text(const std::vector<split::DenseModel>& models, const SplitReport* report, std::uint64_t bytes, double seconds,
                    std::uint64_t peak_rss) const {
        if (report != nullptr) fmt::print("{}\n", report->markdown());
        fmt::print("{}: {} model{}, {:.1f} MB in {:.1f} s, peak memory {:.0f} MB\n", out_, models.size(), models.size() == 1 ? "" : "s",
                   static_cast<double>(bytes) / 1e6, seconds, static_cast<double>(peak_rss) / 1e6);
        const std::string first = out_of(models[0]).string();
        fmt::print("\nnext:\n  mixwright generate {0} -p \"...\"\n  mixwright eval {0} --task ppl:FILE\n", first);
    }

    std::string moe_, out_, expert_, experts_file_, method_, shared_, heal_, shard_size_ = "5GB";
    std::vector<std::string> data_;
    std::int64_t tokens_ = 16384, context_ = 512, students_ = 1;
    bool report_ = true;
    split::SplitOptions options_;
    checkpoint::WriteOptions write_;
    std::map<std::size_t, train::TrainResult> healed_;   // by the number of the model
};

}  // namespace

std::unique_ptr<Verb> make_split() { return std::make_unique<Split>(); }

}  // namespace mixwright::verbs
