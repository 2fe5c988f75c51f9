// `profile MOE --data DATA -o STATS.safetensors`: where tokens go in a mixture of experts, and how redundant its experts are.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include "calibrate/profile.h"
#include "checkpoint/tensor_file.h"
#include "distributed/ranks.h"
#include "progress.h"
#include "verbs/model_options.h"
#include "verbs/profiled_texts.h"
#include "verbs/resource_use.h"
#include "verbs/verb_table.h"

namespace mixwright::verbs {
namespace {

checkpoint::OutputTensor output_tensor(std::string name, Dtype dtype, const at::Tensor& values) {
    const at::Tensor t = values.to(at::kCPU, model::scalar_type(dtype)).contiguous();
    const auto* data = static_cast<const std::byte*>(t.const_data_ptr());
    return {{std::move(name), dtype, t.sizes().vec()}, checkpoint::OwnedBytes(data, data + t.nbytes())};
}

class ProfileVerb final : public Verb {
public:
    void declare(CLI::App& app) override {
        app.add_option("MOE", model_, "a mixture of experts: directory or org/name[@rev] in the hub cache")->required();
        app.add_option("--data", data_, "text file, .jsonl or folder (repeat: statistics are kept apart for each)")->required();
        app.add_option("--tokens", tokens_, "look at this many tokens of each")->check(CLI::Range(16, 1 << 28))->capture_default_str();
        app.add_option("--ctx", context_, "tokens of a sequence")->check(CLI::Range(8, 1 << 20))->capture_default_str();
        app.add_option("-o,--output", output_, "the statistics: a .safetensors file")->required();
        app.add_option("--report", report_, "a page to look at them: a .html file");
    }

    void run(const CommonOptions& common) override {
        const distributed::Ranks ranks = distributed::Ranks::from_environment();
        if (!ranks.leads()) set_progress_sink(nullptr);
        if (ranks.leads() && !report_.empty()) check_page(report_);
        const arch::OpenModel model = arch::open_model(model_);
        const model::Placement placement = placement_for(common, model, "float32");
        const calibrate::Profile profile = calibrate::profile_model(model, profiled_texts(model_, model, data_, tokens_, context_), placement, ranks);
        if (!ranks.leads()) return;
        write(profile);
        if (!report_.empty()) write_page(report_, calibrate::profile_page(profile, last_name(model_)));
        print(common, profile);
    }

private:
    void write(const calibrate::Profile& profile) const {
        std::vector<checkpoint::OutputTensor> tensors;
        for (const calibrate::LayerProfile& layer : profile.layers) {
            const auto add = [&](const char* name, Dtype dtype, const at::Tensor& values) {
                const bool further = layer.iteration.value_or(0) > 0;
                tensors.push_back(output_tensor(fmt::format("layers.{}.{}{}", layer.layer, further ? fmt::format("iterations.{}.", *layer.iteration) : "", name), dtype, values));
            };
            add("counts", Dtype::i64, layer.counts);
            add("gate_mass", Dtype::f32, layer.gate_mass);
            add("output_norm", Dtype::f32, layer.output_norm);
            add("entropy", Dtype::f32, layer.entropy);
            add("coactivation", Dtype::i64, layer.coactivation);
            add("lift", Dtype::f32, layer.lift(profile.tokens));
            add("gate_moments", Dtype::f32, layer.gate_moments);
            add("output_similarity", Dtype::f32, layer.similarity);
            add("neuron_energy", Dtype::f32, layer.neuron_energy);
        }
        // The rest of the figures, and the names of the files, as JSON text in bytes.
        const std::string summary = calibrate::profile_json(profile, false).dump(-1, ' ', false, io::Json::error_handler_t::replace);
        const auto* bytes = reinterpret_cast<const std::byte*>(summary.data());
        tensors.push_back({{"summary.json", Dtype::u8, {std::ssize(summary)}}, checkpoint::OwnedBytes(bytes, bytes + summary.size())});
        checkpoint::write_tensor_file(output_, std::move(tensors));
    }

    void print(const CommonOptions& common, const calibrate::Profile& profile) const {
        const io::Json json = calibrate::profile_json(profile, false);
        if (common.json) {
            io::Json result = json;
            result["out"] = output_;
            if (!report_.empty()) result["report"] = report_;
            result["peak_rss_bytes"] = peak_rss_bytes();
            fmt::print("{}\n", result.dump(-1, ' ', false, io::Json::error_handler_t::replace));
            return;
        }
        if (common.quiet) return;
        fmt::print("{:>5} {:>13} {:>8} {:>7} {:>11} {:>15} {:>7} {:>12} {:>7}\n", "layer", "busiest/mean", "spread", "silent", "p, matched", "p, best partner",
                   "bound", "shared mean", "rank90");
        for (const io::Json& layer : json["layers"]) {
            std::string number = fmt::format("{}", layer["layer"].get<int>());
            if (layer.contains("iteration")) number += fmt::format(".{}", layer["iteration"].get<int>());
            fmt::print("{:>5} {:>13.2f} {:>8.2f} {:>7} {:>9.1f} % {:>13.1f} % {:>7.3f} {:>10.1f} % {:>5.0f} %\n", number,
                       layer["load_max_over_mean"].get<double>(), layer["load_variation"].get<double>(), layer["silent_experts"].get<int>(),
                       100 * layer["matched_partner_p"].get<double>(), 100 * layer["best_partner_p"].get<double>(), layer["speed_bound"].get<double>(),
                       100 * layer["shared_mean_energy"].get<double>(), 100 * layer["rank90_share"].get<double>());
        }
        fmt::print("\n{} tokens; {:.0f} % of the active parameters are in experts. Sharing rows between matched partners could gain at most x {:.3f} at batch one.\n",
                   profile.tokens, 100 * profile.expert_share, json["speed_bound"].get<double>());
        fmt::print("statistics: {}{}\n", output_, report_.empty() ? "" : ", page: " + report_);
    }

    std::string model_, output_, report_;
    std::vector<std::string> data_;
    std::int64_t tokens_ = 16384, context_ = 512;
};

}  // namespace

std::unique_ptr<Verb> make_profile() { return std::make_unique<ProfileVerb>(); }

}  // namespace mixwright::verbs
