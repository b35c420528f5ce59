// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// DeviceNumber: what a rule computes with on a device. It stands for the numbers of all rows of a step at once, so that the code of a
// rule, written for one row, is a few of LibTorch's operators over whole tensors.
//
// Number and Real differ as float and double do on the host: a Real is float64, and a Number that was made from one is rounded to the
// table's dtype where it meets a Number of that dtype. Nothing here waits for the device.
// Answers to torch.optim's foreach implementations.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include <rookery/concepts/rule.hpp>
#include <rookery/core/operators.hpp>

namespace rookery {

namespace detail {

/// A tensor, [U, D] or [U, 1] of a step's rows; or one number for all of them, where it is undefined.
struct RowValues {
  at::Tensor tensor;
  double number;

  RowValues(at::Tensor of_rows, double of_all = 0) : tensor(std::move(of_rows)), number(of_all) {}
  // Rules make many of these: what a tensor needs for that is compiled once.
  [[gnu::cold, gnu::noinline]] RowValues(const RowValues& other) = default;
  [[gnu::cold, gnu::noinline]] RowValues& operator=(const RowValues& other) = default;
  RowValues(RowValues&& other) = default;
  [[gnu::cold, gnu::noinline]] RowValues& operator=(RowValues&& other) = default;
  [[gnu::cold, gnu::noinline]] ~RowValues() = default;

  bool is_tensor() const { return tensor.defined(); }
  /// As a tensor beside another one: [] for a number.
  [[gnu::cold]] at::Tensor beside(const at::Tensor& other) const {
    if (!is_tensor()) return ops::full({}, number, other.options());                         // []
    return tensor.scalar_type() == other.scalar_type() || other.scalar_type() == at::kDouble ? tensor : tensor.to(other.scalar_type());
  }
};

enum class Arithmetic { add, subtract, multiply, divide };

/// One of the four on both. Numbers of the table's dtype stay of it: a float64 tensor is rounded when the other is float32.
[[gnu::cold]] inline RowValues combine(Arithmetic how, const RowValues& a, const RowValues& b) {
  if (!a.is_tensor() && !b.is_tensor()) {
    switch (how) {
      case Arithmetic::add: return {{}, a.number + b.number};
      case Arithmetic::subtract: return {{}, a.number - b.number};
      case Arithmetic::multiply: return {{}, a.number * b.number};
      case Arithmetic::divide: return {{}, a.number / b.number};
    }
  }
  if (!b.is_tensor()) {
    switch (how) {
      case Arithmetic::add: return {a.tensor.add(b.number)};
      case Arithmetic::subtract: return {a.tensor.sub(b.number)};
      case Arithmetic::multiply: return {a.tensor.mul(b.number)};
      case Arithmetic::divide: return {a.tensor.div(b.number)};
    }
  }
  if (!a.is_tensor() && how != Arithmetic::divide) {
    if (how == Arithmetic::multiply) return {b.tensor.mul(a.number)};
    return {how == Arithmetic::add ? b.tensor.add(a.number) : b.tensor.neg().add(a.number)};
  }
  const auto left = a.beside(b.tensor), right = b.beside(left);
  switch (how) {
    case Arithmetic::add: return {left.add(right)};
    case Arithmetic::subtract: return {left.sub(right)};
    case Arithmetic::multiply: return {left.mul(right)};
    case Arithmetic::divide: return {left.div(right)};
  }
  return at::Tensor{};
}

/// Whether something holds, for each row or for all.
class DeviceCondition {
 public:
  DeviceCondition(bool holds) : holds_(holds) {}
  explicit DeviceCondition(at::Tensor rows) : rows_(std::move(rows)) {}

  friend DeviceCondition operator&&(const DeviceCondition& a, const DeviceCondition& b) {
    if (!a.rows_.defined()) return a.holds_ ? b : a;
    if (!b.rows_.defined()) return b.holds_ ? a : b;
    return DeviceCondition(a.rows_.logical_and(b.rows_));
  }
  friend DeviceCondition operator||(const DeviceCondition& a, const DeviceCondition& b) {
    if (!a.rows_.defined()) return a.holds_ ? a : b;
    if (!b.rows_.defined()) return b.holds_ ? b : a;
    return DeviceCondition(a.rows_.logical_or(b.rows_));
  }
  /// `yes` where it holds, else `no`.
  RowValues choose(const RowValues& yes, const RowValues& no) const {
    if (!rows_.defined()) return holds_ ? yes : no;
    const auto& like = yes.is_tensor() ? yes.tensor : no.tensor;
    const auto options = like.defined() ? like.options() : rows_.options().dtype(at::kDouble);
    const auto filled = [&](const RowValues& value) { return value.is_tensor() ? value.tensor : ops::full({}, value.number, options); };
    return {ops::where(rows_, filled(yes), filled(no))};
  }

 private:
  at::Tensor rows_;                        // [U, D] or [U, 1]; undefined where it is the same for all
  bool holds_ = false;
};

[[gnu::cold]] inline DeviceCondition is_greater(const RowValues& a, const RowValues& b) {
  if (!a.is_tensor() && !b.is_tensor()) return a.number > b.number;
  if (!b.is_tensor()) return DeviceCondition(a.tensor.gt(b.number));
  if (!a.is_tensor()) return DeviceCondition(b.tensor.lt(a.number));
  return DeviceCondition(a.tensor.gt(b.tensor));
}
[[gnu::cold]] inline DeviceCondition is_equal(const RowValues& a, const RowValues& b) {
  if (!a.is_tensor() && !b.is_tensor()) return a.number == b.number;
  if (!b.is_tensor()) return DeviceCondition(a.tensor.eq(b.number));
  if (!a.is_tensor()) return DeviceCondition(b.tensor.eq(a.number));
  return DeviceCondition(a.tensor.eq(b.tensor));
}

/// DeviceNumber, or DeviceReal.
template <bool is_real> class DeviceValue {
 public:
  DeviceValue(double number = 0) : values_{{}, number} {}
  explicit DeviceValue(at::Tensor tensor) : values_{std::move(tensor)} {}
  /// A Real is float64. A Number takes on the table's dtype where it meets it.
  explicit DeviceValue(const DeviceValue<!is_real>& other) : values_(other.values()) {
    if (is_real && values_.is_tensor()) values_.tensor = values_.tensor.to(at::kDouble);
  }

  const RowValues& values() const { return values_; }

  DeviceValue operator-() const { return 0 - *this; }
  DeviceValue& operator+=(const DeviceValue& other) { return *this = *this + other; }
  DeviceValue& operator-=(const DeviceValue& other) { return *this = *this - other; }
  DeviceValue& operator*=(const DeviceValue& other) { return *this = *this * other; }
  DeviceValue& operator/=(const DeviceValue& other) { return *this = *this / other; }

  friend DeviceValue operator+(const DeviceValue& a, const DeviceValue& b) { return {combine(Arithmetic::add, a.values_, b.values_)}; }
  friend DeviceValue operator-(const DeviceValue& a, const DeviceValue& b) { return {combine(Arithmetic::subtract, a.values_, b.values_)}; }
  friend DeviceValue operator*(const DeviceValue& a, const DeviceValue& b) { return {combine(Arithmetic::multiply, a.values_, b.values_)}; }
  friend DeviceValue operator/(const DeviceValue& a, const DeviceValue& b) { return {combine(Arithmetic::divide, a.values_, b.values_)}; }
  friend DeviceCondition operator>(const DeviceValue& a, const DeviceValue& b) { return is_greater(a.values_, b.values_); }
  friend DeviceCondition operator<(const DeviceValue& a, const DeviceValue& b) { return is_greater(b.values_, a.values_); }
  friend DeviceCondition operator==(const DeviceValue& a, const DeviceValue& b) { return is_equal(a.values_, b.values_); }

  friend DeviceValue sqrt(const DeviceValue& x) {
    return x.values_.is_tensor() ? DeviceValue(x.values_.tensor.sqrt()) : DeviceValue(std::sqrt(x.values_.number));
  }
  friend DeviceValue exp2(const DeviceValue& x) {
    return x.values_.is_tensor() ? DeviceValue(x.values_.tensor.exp2()) : DeviceValue(std::exp2(x.values_.number));
  }
  friend DeviceValue pow(const DeviceValue& base, double exponent) {
    return base.values_.is_tensor() ? DeviceValue(base.values_.tensor.pow(exponent)) : DeviceValue(std::pow(base.values_.number, exponent));
  }
  friend DeviceValue pow(double base, const DeviceValue& exponent) {
    if (!exponent.values_.is_tensor()) return std::pow(base, exponent.values_.number);
    return DeviceValue(ops::pow(base, exponent.values_.tensor));
  }
  friend DeviceValue clamp(const DeviceValue& x, double low, double high) {
    return x.values_.is_tensor() ? DeviceValue(x.values_.tensor.clamp(low, high)) : DeviceValue(std::clamp(x.values_.number, low, high));
  }
  friend DeviceValue select(const DeviceCondition& condition, const DeviceValue& yes, const DeviceValue& no) {
    return {condition.choose(yes.values_, no.values_)};
  }
  /// [U, D] -> [U, 1].
  friend DeviceValue sum_of_columns(const DeviceValue& x) {
    return x.values_.is_tensor() ? DeviceValue(x.values_.tensor.sum(at::IntArrayRef{1}, /*keepdim=*/true)) : x;
  }

 private:
  DeviceValue(RowValues values) : values_(std::move(values)) {}

  RowValues values_;
};

}  // namespace detail

/// A number of a rule on a device, in the compute dtype of its table, and what is computed with for a row as a whole, in float64.
using DeviceNumber = detail::DeviceValue<false>;
using DeviceReal = detail::DeviceValue<true>;

/// StepContext whose step may be each row's own.
struct DeviceStepContext {
  DeviceReal step = 1;
  double rate = 1;
};

template <> struct detail::NumberTraits<DeviceNumber> {
  using Real = DeviceReal;
  using Step = DeviceReal;
  using Context = DeviceStepContext;
};

namespace concepts {

/// A rule that can update rows on a device: its functions are written in RealOf<Number>, StepOf<Number> and StepContextOf<Number>, and
/// choose by `select`; see docs/concepts.md#rule.
template <class R>
concept DeviceRule = Rule<R> && rookery::detail::RuleOn<R, DeviceNumber> &&
                     (R::row_sums == 0 || rookery::detail::SumsRowOn<R, DeviceNumber>);

}  // namespace concepts

}  // namespace rookery
