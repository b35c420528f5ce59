// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// LogSink and Sinks: what takes named numbers of a step, and several of them as one.
//
//   Sinks log{JsonLines{topology, "metrics.jsonl"}, TensorBoard{topology, "events"}, Console{topology}};
//   log(step.count(), norms(model));
//
// Put together at compile time; nothing virtual.  Answers to TensorBoard's and torchx's lists of writers.  Include cost: none.

#include <cstdint>
#include <tuple>
#include <utility>

#include <rookery/log/log_values.hpp>

namespace rookery {

/// Called as `sink(step, values)`, on every rank; which ranks write is the sink's own affair.
template <class T>
concept LogSink = requires(T& sink, std::int64_t step, const LogValues& values) { sink(step, values); };

/// Several sinks, called in order. One that is given by name is referred to and outlives this; a temporary is kept inside.
template <LogSink... Each> class Sinks {
 public:
  explicit Sinks(Each&&... each) : sinks_(std::forward<Each>(each)...) {}

  void operator()(std::int64_t step, const LogValues& values) {
    std::apply([&](auto&... sink) { (sink(step, values), ...); }, sinks_);
  }

 private:
  std::tuple<Each...> sinks_;
};

template <class... Each> Sinks(Each&&...) -> Sinks<Each...>;

}  // namespace rookery
