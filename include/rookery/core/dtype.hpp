// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// One switch from a run-time dtype to a C++ type.  Include cost: none (c10 scalar types only).

#include <c10/core/ScalarType.h>

#include <type_traits>

#include <rookery/core/error.hpp>

namespace rookery {

/// Calls `fn(T{})` with the C++ type of a table's or parameter's dtype. Errors: ConfigError for a dtype that cannot train.
template <class Fn> decltype(auto) for_floating(c10::ScalarType dtype, Fn&& fn) {
  if (dtype == c10::ScalarType::Float) return fn(float{});
  check<ConfigError>(dtype == c10::ScalarType::Double, "dtype ", c10::toString(dtype), " cannot train here; use float32 or float64");
  return fn(double{});
}

}  // namespace rookery
