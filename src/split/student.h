// Dense students in closed form: for each layer neurons are chosen over all experts of the MoE and the map from them to the
// MoE's output is fitted by least squares, on the stream as the student's own layers below have left it.
//
// The neurons keep their gate and up rows. Candidates are ranked by the energy they bring to the MoE's gated output, the
// best of them then chosen greedily in the error of that output (merge/neuron_selection.h) without their gates: a dense
// model runs them for every token. What is fitted is not the MoE's output on the student's stream but what takes that
// stream back to the MoE's own: later layers so mend what earlier ones lost.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "model/layer_stream.h"
#include "split/layer_mlps.h"

namespace mixwright::split {

/// What a student is fitted to.
struct StudentText {
    std::string about;                                  // for the model card: "the text of wiki.txt"
    std::vector<model::StreamedBatch> fit, held_out;    // token ids [B, L] without padding
    std::vector<at::Tensor> fit_weights, held_out_weights;  // f32 [B L] for each batch: how much a token counts; empty: all alike
};

struct StudentOptions {
    std::int64_t width = 0;                // neurons of every layer that was MoE
    /// Candidates that go into one Gram matrix of n^2 doubles, of which some four exist at a time; raised to 1.5 times the width for
    /// students up to `widest_greedy`. As many are chosen among on `most_rows` rows, fewer on as many more as cost the same; the map of the
    /// chosen is fitted to all rows. Those of wider students are chosen by their energy alone, and fitted by the products of rows with rows
    /// (merge/row_ridge.h), of which at most `most_rows` are taken.
    std::int64_t max_candidates = 8192, widest_greedy = 8192, most_rows = 12'288;
    model::Placement placement;
};

/// Of one fitted layer; errors are shares of the energy of the target.
struct StudentLayer {
    std::int64_t layer = 0;
    double lambda = 0, error = 0, held_out_error = 0;
    std::int64_t from_shared = 0;          // chosen neurons of the shared expert
};

class Student {
public:
    /// Runs nothing yet.
    Student(const arch::OpenModel& moe, StudentText text, StudentOptions options);
    ~Student();

    /// The MLP of a layer that was MoE. Runs the layers before it that were not run yet; a layer below the last one begins anew.
    /// Error(unsupported) where a norm follows the experts.
    MlpTensors layer(std::int64_t layer);

    const std::vector<StudentLayer>& report() const noexcept;

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace mixwright::split
