// The metrics of a run as one HTML page that needs nothing else: loss and evaluation loss over steps, learning rate below.
#pragma once

#include <string>
#include <string_view>

namespace mixwright::train {

/// `metrics` as JSON lines (run_files.h). Lines that are no metrics are left out.
std::string curve_page(std::string_view metrics, std::string_view title);

}  // namespace mixwright::train
