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
#include <rookery/core/mix.hpp>

namespace rookery {

/// Even on [-bound, bound); a bound of 0 stands for the owner's default: 1 / sqrt(rows) of a table, 1 / sqrt(fan_in) of a layer.
/// With `min` and `max`, even on [min, max) instead.
struct Uniform { double bound = 0, min = 0, max = 0; };
/// Gaussian around 0.
struct Normal { double stddev = 1; };
/// All zero.
struct Zeros {};
/// All the same.
struct Constant { double value = 0; };
/// A law of one's own: `value` gives each element from the parameter's random key and the element's number, row * columns + column, and
/// from nothing else, so that every plan has the same values. A row that managed collision gives to an id is row 0 of the id's own key.
/// Ranks compare the name; it must outlive the declaration, as a literal does.
struct OwnLaw {
  std::string_view name;
  double (*value)(std::uint64_t key, std::int64_t element) = nullptr;
};

/// The law that initial values follow.
using Initial = std::variant<Uniform, Normal, Zeros, Constant, OwnLaw>;

/// Errors: ConfigError that names the owner, for numbers that are no law's.
inline void check_initial(const Initial& initial, std::string_view owner) {
  if (const auto* uniform = std::get_if<Uniform>(&initial)) {
    const auto [bound, min, max] = *uniform;
    check<ConfigError>(std::isfinite(bound) && bound >= 0, owner, ": Uniform has bound ", bound, "; it must be finite and not negative");
    check<ConfigError>(std::isfinite(min) && std::isfinite(max) && min <= max, owner, ": Uniform has min ", min, " and max ", max,
                       "; they must be finite and ascend");
    check<ConfigError>(bound == 0 || (min == 0 && max == 0), owner, ": Uniform has bound ", bound, " and min ", min, " and max ", max,
                       "; give the bound or the other two");
  } else if (const auto* normal = std::get_if<Normal>(&initial)) {
    check<ConfigError>(std::isfinite(normal->stddev) && normal->stddev >= 0, owner, ": Normal has stddev ", normal->stddev,
                       "; it must be finite and not negative");
  } else if (const auto* constant = std::get_if<Constant>(&initial)) {
    check<ConfigError>(std::isfinite(constant->value), owner, ": Constant has value ", constant->value, "; it must be finite");
  } else if (const auto* law = std::get_if<OwnLaw>(&initial)) {
    check<ConfigError>(law->value != nullptr && !law->name.empty(), owner, ": OwnLaw '", law->name, "' needs a name and a function");
  }
}

/// 64-bit key of a named parameter under a seed (FNV-1a of the name from a start that the seed chooses; spread over all bits, for
/// a seed that differs where the first letter does would otherwise give another name's key).
inline std::uint64_t random_key(std::uint64_t seed, std::string_view name) {
  return hash_bytes(name, 0xcbf29ce484222325ULL ^ (seed * 0x9e3779b97f4a7c15ULL));
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

/// The elements of the parameter that `key` stands for, drawn in pairs.
class InitialValues {
 public:
  InitialValues(const Initial& initial, double default_bound, std::uint64_t key) : initial_(initial), key_(key) {
    check_initial(initial, "initial values");
    if (const auto* uniform = std::get_if<Uniform>(&initial)) {
      const bool between = uniform->min != uniform->max || uniform->min != 0;
      center_ = between ? uniform->min / 2 + uniform->max / 2 : 0;
      half_ = between ? uniform->max / 2 - uniform->min / 2 : uniform->bound > 0 ? uniform->bound : default_bound;
    } else if (const auto* constant = std::get_if<Constant>(&initial)) {
      center_ = constant->value;
    }
  }
  double operator()(std::int64_t element) {
    if (const auto* law = std::get_if<OwnLaw>(&initial_)) return own(*law, element);
    const auto number = static_cast<std::uint64_t>(element);
    const auto* normal = std::get_if<Normal>(&initial_);
    if (!normal && half_ == 0) return center_;
    if (number / 2 != drawn_) uniform_pair(key_, drawn_ = number / 2, draws_);
    if (!normal) return center_ + half_ * (2 * draws_[number % 2] - 1);
    const double radius = normal->stddev * std::sqrt(-2 * std::log(draws_[0])), angle = 2 * std::numbers::pi * draws_[1];
    return radius * (number % 2 == 0 ? std::cos(angle) : std::sin(angle));   // Box and Muller: one pair of draws gives two values
  }

 private:
  double own(const OwnLaw& law, std::int64_t element) const {
    const double value = law.value(key_, element);
    check<ConfigError>(std::isfinite(value), "initial values: OwnLaw '", law.name, "' gives ", value, " for element ", element);
    return value;
  }

  const Initial& initial_;
  std::uint64_t key_, drawn_ = ~std::uint64_t{0};
  double center_ = 0, half_ = 0, draws_[2] = {};
};

}  // namespace detail

/// Fills `out[0 .. count)` with elements `first, first + 1, ...` of the parameter that `key` stands for.
/// `default_bound` replaces a Uniform bound of 0. Errors: those of check_initial, and ConfigError for a law of one's own that gives a
/// value that is not finite.
template <class Number>
void fill_initial(const Initial& initial, double default_bound, std::uint64_t key, std::int64_t first, Number* out, std::int64_t count) {
  detail::InitialValues values(initial, default_bound, key);
  for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<Number>(values(first + i));
}

}  // namespace rookery
