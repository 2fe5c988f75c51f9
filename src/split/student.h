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

struct StudentOptions {
    std::int64_t width = 0;                // neurons of every layer that was MoE
    std::int64_t max_candidates = 8192;    // that go into one Gram matrix; raised to 1.5 times the width when below
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
    /// `fit` and `held_out` are token ids without padding. Runs nothing yet.
    Student(const arch::OpenModel& moe, std::vector<model::StreamedBatch> fit, std::vector<model::StreamedBatch> held_out, StudentOptions options);
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
