// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The one door to fmt, which comes with LibTorch's own headers: programs that print include this. The library itself joins text by
// `concat` and prints numbers by core/human.hpp, because fmt costs each file 2.5 s.
//
// Used header-only: compile with -DFMT_HEADER_ONLY, as Meson and pkg-config do.  Include cost: fmt.

#include <fmt/format.h>

#include <rookery/core/human.hpp>
