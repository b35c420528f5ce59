// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Time on the steady clock: how long something took, and until when to wait.  Include cost: none.

#include <chrono>

namespace rookery {

using Clock = std::chrono::steady_clock;

/// Seconds since construction or the last `restart`.
class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  void restart() { start_ = Clock::now(); }

 private:
  Clock::time_point start_ = Clock::now();
};

}  // namespace rookery
