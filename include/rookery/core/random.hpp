// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Counter-based initial values: element (row, column) of a parameter is a function of the seed, the parameter's name and
// row * columns + column, and of nothing else. So they are the same for every plan, rank count and thread count.
//
// Philox is ATen's; torch's default generator is never touched.  Include cost: none (one ATen header of 150 lines).

#include <ATen/core/PhiloxRNGEngine.h>

#include <cmath>
#include <cstdint>
#include <numbers>
#include <string_view>
#include <variant>

#include <rookery/core/error.hpp>

namespace rookery {

/// Even on [-bound, bound); a bound of 0 stands for the owner's default: 1 / sqrt(rows) of a table, 1 / sqrt(fan_in) of a layer.
struct Uniform { double bound = 0; };
/// Gaussian around 0.
struct Normal { double stddev = 1; };
/// All zero.
struct Zeros {};

/// The law that initial values follow.
using Initial = std::variant<Uniform, Normal, Zeros>;

/// 64-bit key of a named parameter under a seed (FNV-1a of the name from a start that the seed chooses; spread over all bits, for
/// a seed that differs where the first letter does would otherwise give another name's key).
inline std::uint64_t random_key(std::uint64_t seed, std::string_view name) {
  std::uint64_t hash = 0xcbf29ce484222325ULL ^ (seed * 0x9e3779b97f4a7c15ULL);
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return hash;
}

namespace detail {

/// Two even draws in (0, 1) for elements 2 * pair and 2 * pair + 1 of a parameter.
inline void uniform_pair(std::uint64_t key, std::uint64_t pair, double (&draws)[2]) {
  at::philox_engine engine(key, pair);
  for (double& draw : draws) {
    const std::uint64_t high = engine(), low = engine();
    draw = (static_cast<double>(((high << 32) | low) >> 11) + 0.5) * 0x1p-53;
  }
}

}  // namespace detail

/// Fills `out[0 .. count)` with elements `first, first + 1, ...` of the parameter that `key` stands for.
/// `default_bound` replaces a Uniform bound of 0. Errors: ConfigError for a negative bound or deviation.
template <class Number>
void fill_initial(const Initial& initial, double default_bound, std::uint64_t key, std::int64_t first, Number* out, std::int64_t count) {
  const auto* uniform = std::get_if<Uniform>(&initial);
  const auto* normal = std::get_if<Normal>(&initial);
  check<ConfigError>(!uniform || uniform->bound >= 0, "Uniform: bound ", uniform ? uniform->bound : 0, " is negative");
  check<ConfigError>(!normal || normal->stddev >= 0, "Normal: stddev ", normal ? normal->stddev : 0, " is negative");
  const double bound = uniform ? (uniform->bound > 0 ? uniform->bound : default_bound) : 0;
  double draws[2] = {};
  std::uint64_t drawn = ~std::uint64_t{0};
  for (std::int64_t i = 0; i < count; ++i) {
    const auto element = static_cast<std::uint64_t>(first + i);
    if ((uniform || normal) && element / 2 != drawn) detail::uniform_pair(key, drawn = element / 2, draws);
    double value = 0;
    if (uniform) {
      value = bound * (2 * draws[element % 2] - 1);
    } else if (normal) {                                       // Box and Muller: one pair of draws gives two values
      const double radius = normal->stddev * std::sqrt(-2 * std::log(draws[0])), angle = 2 * std::numbers::pi * draws[1];
      value = radius * (element % 2 == 0 ? std::cos(angle) : std::sin(angle));
    }
    out[i] = static_cast<Number>(value);
  }
}

}  // namespace rookery
