#include "ops/quantized_linear.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "kernels/quantize.h"
#include "ops/skinny_linear.h"
#include "ops/work_sharing.h"

namespace mixwright::ops {

Linear quantized(const Linear& linear, kernels::Format format) {
    using kernels::Format;
    at::Tensor source = linear.weight.contiguous();
    if (source.scalar_type() != at::kBFloat16) source = source.to(at::kFloat);
    const std::int64_t rows = source.size(0), cols = source.size(1);
    const kernels::Weights from = kernel_weights({source}, cols);
    Linear result = linear;
    result.weight = at::empty({rows, kernels::row_bytes(format, cols)}, format == Format::int8 ? at::kChar : at::kByte);
    result.scales = format == Format::int8 ? at::empty({rows}, at::kFloat) : at::empty({rows, 2, kernels::int4_groups(cols)}, at::kBFloat16);
    void *values = result.weight.mutable_data_ptr(), *scales = result.scales.mutable_data_ptr();
    constexpr std::int64_t rows_a_piece = 16;
    share_work((rows + rows_a_piece - 1) / rows_a_piece, [&](std::int64_t piece) {
        kernels::quantize(from, piece * rows_a_piece, std::min(rows, (piece + 1) * rows_a_piece), format, values, scales);
    });
    return result;
}

}  // namespace mixwright::ops
