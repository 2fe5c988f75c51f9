// What this CPU could run as another one would.
#pragma once

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include "kernels/bf16_dots.h"

namespace mixwright::kernels {

/// Calls test() for every instruction set that this CPU has: those of Highway without dot products of bf16, then as the program runs.
void for_every_target(const auto& test) {
    allow_bf16_dots(false);
    for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
        hwy::SetSupportedTargetsForTest(target);
        SCOPED_TRACE(hwy::TargetName(target));
        test();
    }
    hwy::SetSupportedTargetsForTest(0);
    allow_bf16_dots(true);
    SCOPED_TRACE("as the program runs");
    test();
}

}  // namespace mixwright::kernels
