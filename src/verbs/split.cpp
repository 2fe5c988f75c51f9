// `split`: dense models out of a mixture of experts.
#include <fmt/format.h>

#include <charconv>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <random>

#include "arch/open_tokenizer.h"
#include "calibrate/domain_tokens.h"
#include "data/conversations.h"
#include "data/packing.h"
#include "error.h"
#include "evaluate/perplexity.h"
#include "io/sha256.h"
#include "io/staged_directory.h"
#include "progress.h"
#include "split/recovery.h"
#include "split/split_plan.h"
#include "split/splitter.h"
#include "verbs/model_options.h"
#include "verbs/resource_use.h"
#include "verbs/verb_table.h"

namespace mixwright::verbs {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// A text: what a method learns from, and what is kept apart to judge the result by.
struct Domain {
    std::string name;
    calibrate::DomainTokens learn;
    data::TokenStream judge;
};

// One line of the closing table.
struct Judged {
    std::string name;
    std::int64_t parameters = 0, active_parameters = 0;
    std::vector<double> perplexity;  // by domain
    double tokens_per_second = 0;
};

class Split final : public Verb {
public:
    void declare(CLI::App& app) override {
        app.add_option("MOE", moe_, "directory, .gguf file or org/name in the hub cache")->required();
        app.add_option("OUT", out_, "directory to write; with --all, one directory a model inside it")->required();
        app.add_option("--expert", expert_, "expert of every layer, from 0; or `shared`");
        app.add_option("--experts-per-layer", experts_file_, "JSON list with an expert, or a list of them, for every MoE layer");
        app.add_flag("--all", options_.all, "a model for every expert (slice) or for every path of tokens (routed)");
        app.add_option("--method", method_, "slice, mean, slerp, concat, routed or fit (default: fit with --data and no experts named, else slice)");
        app.add_option("--data", data_, "text the model is to be good at: file, .jsonl or folder (repeat for several domains)");
        app.add_option("--width", options_.width, "neurons of each layer, for concat and fit (default: those active for a token)")->check(CLI::Range(1, 1 << 24));
        app.add_option("--tokens", tokens_, "to learn from, in all (default 16384)")->check(CLI::Range(64, 1 << 26));
        app.add_option("--ctx", context_, "tokens of a sequence (default 512)")->check(CLI::Range(8, 1 << 20));
        app.add_option("--shared", shared_, "concat (the default) puts the shared expert beside the others, drop leaves it out")->check(CLI::IsMember({"concat", "drop"}));
        app.add_flag("--align", options_.align, "of mean: permute each expert's neurons to those of the first before");
        app.add_flag("--report,!--no-report", report_, "compare perplexities on text kept apart (on by default with --data)");
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
        const std::vector<Domain> domains = read_domains(moe);
        std::vector<model::StreamedBatch> fit, held_out;
        for (const Domain& domain : domains) {
            fit.insert(fit.end(), domain.learn.fit.begin(), domain.learn.fit.end());
            held_out.insert(held_out.end(), domain.learn.held_out.begin(), domain.learn.held_out.end());
        }
        // A fit measures what it needs itself, on its way through the layers.
        const bool measured = !fit.empty() && options_.method != split::Method::fit;
        const std::vector<split::LayerRouting> routing = measured ? split::measure_routing_flow(moe, fit, placement) : split::uniform_routing(moe);
        const std::vector<split::DenseModel> models = split::plan_dense_models(moe, options_, routing, measured, fit, held_out, placement);

        std::vector<split::SplitPlan> plans;
        std::uint64_t bytes = 0;
        std::int64_t parameters = 0;
        for (const split::DenseModel& model : models) {
            plans.push_back(split::plan_split(moe, model.mlps, model.width, out_of(model).filename().string(), model.about));
            bytes += checkpoint::plan_layout(plans.back().output, write_.shard_bytes).bytes;
            parameters += plans.back().twin.spec.num_parameters();
        }
        checkpoint::check_output(out_, {moe.checkpoint.path}, bytes, write_);
        tell_plan(moe, models, plans, bytes);
        if (options_.all) fs::create_directories(io::output_path(out_));
        for (std::size_t i = 0; i < models.size(); ++i) write(models[i], plans[i]);

        const std::vector<Judged> judged = report_ && !domains.empty() ? judge(common, moe, models, domains) : std::vector<Judged>();
        if (common.json)
            print_json(models, plans, domains, judged, bytes, parameters, seconds_since(start));
        else
            print_text(models, domains, judged, bytes, seconds_since(start));
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
            throw Error(ErrorCode::usage, fmt::format("--method {} needs --data", method_), "text like that which the model is for; some tens of thousands of tokens");
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

    std::vector<Domain> read_domains(const arch::OpenModel& moe) {
        std::vector<Domain> domains;
        if (data_.empty()) return domains;
        const tokenizer::Tokenizer tokenizer = arch::open_tokenizer(moe_);
        const data::ChatRenderer render_chat = data::chat_renderer_of(moe_);
        const std::int64_t share = tokens_ / static_cast<std::int64_t>(data_.size());
        io::Sha256 hash;
        for (const std::string& file : data_) {
            const std::int64_t judged = std::min<std::int64_t>(judge_tokens, share / 2);
            std::vector<data::Document> documents = data::read_documents(file, render_chat);
            shuffle(documents);
            data::TokenStream text = data::tokenize(documents, tokenizer, tokenizer.eos_id(), static_cast<std::size_t>(share + judged));
            const auto total = static_cast<std::int64_t>(text.size());
            // A fifth of what there is, when there is less than was asked for.
            const std::int64_t kept = std::min(judged, total / 5);
            Domain domain{.name = fs::path(file).filename().string()};
            domain.judge.ids.assign(text.ids.end() - kept, text.ids.end());
            domain.judge.learn.assign(text.learn.end() - kept, text.learn.end());
            text.ids.resize(static_cast<std::size_t>(std::min(share, total - kept)));
            hash.update(std::as_bytes(std::span(text.ids)));
            if (total < share) info(fmt::format("{}: {} tokens of text, {} were asked for", file, total, share));
            domain.learn = calibrate::cut_domain(std::move(text.ids), {.tokens = share, .context = std::min(context_, moe.spec.max_positions)},
                                                 moe.spec.vocab_size, file);
            domains.push_back(std::move(domain));
        }
        options_.data_identity = hash.hex();
        return domains;
    }

    // Files often hold one kind of text after the other: what is taken has to be of all of them.
    static void shuffle(std::vector<data::Document>& documents) {
        std::mt19937_64 random(1);
        for (std::size_t i = documents.size(); i > 1; --i) std::swap(documents[i - 1], documents[random() % i]);
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

    void write(const split::DenseModel& model, const split::SplitPlan& plan) const {
        const fs::path out = out_of(model);
        if (const std::string text = split::recovery_text(model.recovery); !text.empty()) info(fmt::format("{}: {}", out.string(), text));
        if (write_.resume && fs::exists(out / "config.json")) return info(fmt::format("{}: is there already", out.string()));
        checkpoint::write_model(plan.output, out, write_);
        if (model.student == nullptr) return;
        for (const split::StudentLayer& layer : model.student->report())
            info(fmt::format("layer {}: output error {:.1f} % (held out {:.1f} %), {} neurons of the shared expert", layer.layer, 100 * layer.error,
                             100 * layer.held_out_error, layer.from_shared));
    }

    std::vector<Judged> judge(const CommonOptions& common, const arch::OpenModel& moe, const std::vector<split::DenseModel>& models, const std::vector<Domain>& domains) const {
        std::vector<Judged> lines;
        const auto add = [&](std::string name, const arch::OpenModel& model) {
            Judged line{.name = std::move(name), .parameters = model.spec.num_parameters(), .active_parameters = model.spec.num_active_parameters()};
            std::int64_t tokens = 0;
            const auto start = Clock::now();
            for (const Domain& domain : domains) {
                const auto result = evaluate::perplexity_streamed(model, placement_for(common, model), domain.judge, std::nullopt,
                                                                  {.context = std::min(context_, model.spec.max_positions)});
                line.perplexity.push_back(result.perplexity());
                tokens += result.tokens;
            }
            line.tokens_per_second = static_cast<double>(tokens) / seconds_since(start);
            lines.push_back(std::move(line));
        };
        add("mixture", moe);
        for (const split::DenseModel& model : models) add(model.name.empty() ? std::string(split::method_name(options_.method)) : model.name, arch::open_model(out_of(model).string()));
        return lines;
    }

    void print_json(const std::vector<split::DenseModel>& models, const std::vector<split::SplitPlan>& plans, const std::vector<Domain>& domains,
                    const std::vector<Judged>& judged, std::uint64_t bytes, std::int64_t parameters, double seconds) const {
        io::Json result{{"out", out_}, {"bytes", bytes}, {"parameters", parameters}, {"active_parameters", parameters}, {"seconds", seconds},
                        {"peak_rss_bytes", peak_rss_bytes()}, {"method", split::method_name(options_.method)}, {"models", io::Json::array()}};
        for (std::size_t i = 0; i < models.size(); ++i) {
            io::Json one{{"out", out_of(models[i]).string()}, {"architecture", plans[i].twin.spec.architecture->model_type}, {"width", models[i].width},
                         {"parameters", plans[i].twin.spec.num_parameters()}};
            for (const double error : models[i].recovery) one["recovery_error"].push_back(std::isfinite(error) ? io::Json(error) : io::Json());
            if (models[i].student != nullptr)
                for (const split::StudentLayer& layer : models[i].student->report())
                    one["layers"].push_back({{"layer", layer.layer}, {"lambda", layer.lambda}, {"error", layer.error}, {"held_out_error", layer.held_out_error}});
            result["models"].push_back(std::move(one));
        }
        for (const Judged& line : judged) {
            io::Json by_domain = io::Json::object();
            for (std::size_t d = 0; d < domains.size(); ++d) by_domain[domains[d].name] = line.perplexity[d];
            result["report"].push_back({{"model", line.name}, {"parameters", line.parameters}, {"active_parameters", line.active_parameters},
                                        {"ppl", by_domain}, {"tokens_per_second", line.tokens_per_second}});
        }
        fmt::print("{}\n", result.dump());
    }

    void print_text(const std::vector<split::DenseModel>& models, const std::vector<Domain>& domains, const std::vector<Judged>& judged, std::uint64_t bytes, double seconds) const {
        if (!judged.empty()) {
            fmt::print("| model | parameters | active |");
            for (const Domain& domain : domains) fmt::print(" {} |", printable(domain.name, 32));
            fmt::print(" tokens/s |\n|---|--:|--:|");
            for (std::size_t d = 0; d < domains.size(); ++d) fmt::print("--:|");
            fmt::print("--:|\n");
            for (const Judged& line : judged) {
                fmt::print("| {} | {:.1f} M | {:.1f} M |", line.name, static_cast<double>(line.parameters) / 1e6, static_cast<double>(line.active_parameters) / 1e6);
                for (const double ppl : line.perplexity) fmt::print(" {:.3f} |", ppl);
                fmt::print(" {:.0f} |\n", line.tokens_per_second);
            }
            fmt::print("\nPerplexity on text that nothing was fitted to.\n\n");
        }
        fmt::print("{}: {} model{}, {:.1f} MB in {:.1f} s, peak memory {:.0f} MB\n", out_, models.size(), models.size() == 1 ? "" : "s",
                   static_cast<double>(bytes) / 1e6, seconds, static_cast<double>(peak_rss_bytes()) / 1e6);
        const std::string first = out_of(models[0]).string();
        fmt::print("\nnext:\n  mixwright generate {0} -p \"...\"\n  mixwright eval {0} --task ppl:FILE\n", first);
    }

    static constexpr std::int64_t judge_tokens = 8192;  // of each domain, for the report

    std::string moe_, out_, expert_, experts_file_, method_, shared_, shard_size_ = "5GB";
    std::vector<std::string> data_;
    std::int64_t tokens_ = 16384, context_ = 512;
    bool report_ = true;
    split::SplitOptions options_;
    checkpoint::WriteOptions write_;
};

}  // namespace

std::unique_ptr<Verb> make_split() { return std::make_unique<Split>(); }

}  // namespace mixwright::verbs
