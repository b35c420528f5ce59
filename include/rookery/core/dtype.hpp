// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// One switch from a run-time dtype to a C++ type.
//
// A table's weights may be narrower than what is computed with them: sums, gradients and optimizer state of float16 and bfloat16
// tables are float32.  Include cost: none (c10 scalar types only).

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

/// What sums, gradients and state of weights of that dtype are: float64 for float64, else float32.
inline c10::ScalarType compute_dtype(c10::ScalarType weights) {
  return weights == c10::ScalarType::Double ? c10::ScalarType::Double : c10::ScalarType::Float;
}

/// Calls `fn(Weight{}, Number{})` with the C++ types of a table's weights and of what is computed with them.
/// Errors: ConfigError for a dtype that no table has.
template <class Fn> decltype(auto) for_table(c10::ScalarType weights, Fn&& fn) {
  if (weights == c10::ScalarType::Half) return fn(c10::Half{}, float{});
  if (weights == c10::ScalarType::BFloat16) return fn(c10::BFloat16{}, float{});
  if (weights == c10::ScalarType::Float) return fn(float{}, float{});
  check<ConfigError>(weights == c10::ScalarType::Double, "dtype ", c10::toString(weights),
                     " is none of a table's; use float32, float64, float16 or bfloat16");
  return fn(double{}, double{});
}

}  // namespace rookery
