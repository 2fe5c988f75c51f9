// One layer that `zip` has made: what was measured, and the file that keeps its new weights until the output is written.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "arch/canonical.h"
#include "io/json.h"
#include "surgery/zip_methods.h"

namespace mixwright::surgery {

/// What became of one layer.
struct ZippedLayer {
    std::int64_t layer = 0;
    std::vector<std::int64_t> tokens;  // of each expert of the original
    double shared_mean_energy = 0;     // how alike the original's experts are: energy of their mean over their mean energy, 1/E of unrelated ones, 1 of copies
    double kept = 1;                   // share of the bytes of its experts
    double error = 0;                  // of the block's output on held-out tokens: squared, relative, each token counting by its stream
    double fitted_error = 0;           // the same on the tokens it was fitted to
    double unfitted_error = 0;         // on held-out tokens, before the refit
    double recovery_error = 0;         // mean over source experts of how well each one's own output comes back; NaN when it does not
    std::vector<double> recovered;     // of each source expert: error of its own output, read from its successor; NaN for one nothing is routed to
    std::int64_t starved = 0;          // experts with fewer fitting tokens than neurons
    std::string note;                  // what was chosen, for the table
    std::optional<arch::ZippedExperts> zipped;  // of ZipFormat::zipped
    std::optional<TypedShares> typed;

    io::Json json() const;
    static ZippedLayer from_json(const io::Json& json);
};

/// The tensors of a layer that zip makes anew, by name.
std::map<std::string, arch::TensorRole> made_tensors(const arch::ModelSpec& spec, std::int64_t layer);
/// Whether zip makes tensors of this role anew.
bool is_made(arch::TensorRole role);
/// Where a layer's new weights wait.
std::filesystem::path layer_file(const std::filesystem::path& workplace, std::int64_t layer);

/// How much faster at best a token can be computed, when time is the bytes of weights it reads: of layers that say what is read (zipped
/// ones) from its mean, of others from the active weights of `from` and `to`. `shared` counts rows that two active experts share once.
double speed_bound(const arch::ModelSpec& from, const arch::ModelSpec& to, const std::vector<ZippedLayer>& layers, bool shared);

}  // namespace mixwright::surgery
