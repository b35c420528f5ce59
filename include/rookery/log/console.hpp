// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Console: a line of text for each call, for people who watch.  `step 100  loss 0.5123  auc 0.7788`
//
// Beside a progress line, give Sinks the Progress instead: it writes these lines above its own.  Include cost: c10 device only.

#include <cstdint>
#include <cstdio>
#include <string>
#include <type_traits>

#include <rookery/concepts/topology.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/human.hpp>
#include <rookery/log/log_values.hpp>

namespace rookery {

namespace detail {

/// "  loss 0.5123  auc nan"
inline std::string human_values(const LogValues& values) {
  std::string text;
  for (const auto& [name, value] : values) text += concat("  ", name, " ", human_number(value));
  return text;
}

}  // namespace detail

/// Writes on rank 0, does nothing on other ranks. A closed pipe or a full disk does not end the run.
class Console {
 public:
  template <class Topology>
    requires(!std::is_same_v<Topology, Console> && concepts::Topology<Topology>)  // the first: whether a Console can be copied asks here
  explicit Console(const Topology& topology, std::FILE* out = stdout) : out_(topology.rank() == 0 ? out : nullptr) {}

  /// "step 100  loss 0.5123"
  static std::string line(std::int64_t step, const LogValues& values) { return concat("step ", step, detail::human_values(values)); }

  void operator()(std::int64_t step, const LogValues& values) {
    if (!out_) return;
    const auto text = line(step, values) + "\n";
    std::fwrite(text.data(), 1, text.size(), out_);
    std::fflush(out_);
  }

 private:
  std::FILE* out_;
};

}  // namespace rookery
