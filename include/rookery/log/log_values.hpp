// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// LogValues: named numbers in order, as loggers give them and sinks take them.  Include cost: none.

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <rookery/core/error.hpp>

namespace rookery {

/// One named number; NaN where there is none.
struct LogValue {
  template <class Number>
    requires std::is_arithmetic_v<Number>
  LogValue(std::string_view label, Number number) : name(label), value(static_cast<double>(number)) {}

  std::string name;
  double value;
};

/// Named numbers in order. Any range of things with `name` and `value` converts, such as the values of a MetricSuite.
class LogValues {
 public:
  LogValues() = default;
  LogValues(std::initializer_list<LogValue> values) : values_(values) {}
  template <class Range>
    requires(!std::is_same_v<std::remove_cvref_t<Range>, LogValues>) &&
            requires(Range& range) { LogValue{range.begin()->name, range.begin()->value}; }
  LogValues(Range&& range) {
    add(range);
  }

  void add(std::string_view name, double value) { values_.emplace_back(name, value); }
  /// Appends other values.
  template <class Range> void add(Range&& range) {
    for (const auto& one : range) values_.emplace_back(one.name, one.value);
  }

  auto begin() const { return values_.begin(); }
  auto end() const { return values_.end(); }
  std::size_t size() const { return values_.size(); }
  bool empty() const { return values_.empty(); }

  bool contains(std::string_view name) const { return find(name) != values_.end(); }
  /// The value of that name. Errors: IndexError when there is none.
  double at(std::string_view name) const {
    const auto found = find(name);
    check<IndexError>(found != values_.end(), "LogValues: no value '", name, "' among ", values_.size());
    return found->value;
  }

 private:
  std::vector<LogValue>::const_iterator find(std::string_view name) const { 
    return std::find_if(values_.begin(), values_.end(), [&](const LogValue& one) { return one.name == name; });
  }

  std::vector<LogValue> values_;
};

}  // namespace rookery
