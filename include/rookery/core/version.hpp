// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The library's version, which ranks compare before they train together. As meson.build has it.  Include cost: none.

#include <string_view>

namespace rookery {

inline constexpr std::string_view version = "0.1.0";

}  // namespace rookery
