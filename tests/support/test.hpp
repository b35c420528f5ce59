// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The only way to doctest, and the last include of every test file: LibTorch defines CHECK too, and whoever comes last wins.

#include <ATen/core/Tensor.h>

#undef CHECK
#undef CHECK_EQ
#undef CHECK_NE
#undef CHECK_LT
#undef CHECK_LE
#undef CHECK_GT
#undef CHECK_GE

#include <doctest/doctest.h>
