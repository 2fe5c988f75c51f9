// Every value of a tensor looked at once, in bounded memory: what is not finite, how large it gets, a digest of its bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "checkpoint/tensor_source.h"

namespace mixwright::checkpoint {

struct TensorScan {
    std::uint64_t values = 0, nans = 0, infinities = 0, zeros = 0;
    double largest = 0;   // magnitude, of the finite values
    std::string sha256;   // of the bytes as they are given, when asked for

    bool finite() const noexcept { return nans == 0 && infinities == 0; }
};

/// Scans `info`; integers are only digested. `advance` hears of the bytes as they are read.
TensorScan scan_tensor(const TensorSource& source, const TensorInfo& info, bool digest, const std::function<void(std::uint64_t)>& advance);

}  // namespace mixwright::checkpoint
