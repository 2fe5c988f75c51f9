// The Python modules of this folder as text, put into the binary by cmake/embed.cmake.
#pragma once

#include <string_view>

namespace mixwright::arch::remote {

extern const std::string_view modeling_coe_deepseekv2, modeling_chained, modeling_zipped;

}  // namespace mixwright::arch::remote
