// The parts of the report page as text, put into the binary by cmake/embed.cmake.
#pragma once

#include <string_view>

namespace mixwright::calibrate::report {

extern const std::string_view report_style, report_body, report_script;

}  // namespace mixwright::calibrate::report
