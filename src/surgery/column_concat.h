// Several matrices [D, F_i] side by side, as one [D, sum F_i]: the down projections of shared experts.
#pragma once

#include <memory>
#include <vector>

#include "checkpoint/tensor_source.h"

namespace mixwright::surgery {

struct ColumnBlock {
    std::shared_ptr<const checkpoint::TensorSource> source;
    checkpoint::TensorInfo tensor;
    double scale = 1.0;
};

/// A source with one tensor, called `name`: of the blocks' dtype when they agree and none is scaled, else f32.
std::shared_ptr<const checkpoint::TensorSource> concat_columns(std::string name, std::vector<ColumnBlock> blocks);

}  // namespace mixwright::surgery
