// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// How much memory this process needed at most, beyond what it had.

#include <cstdint>
#include <fstream>
#include <string>

namespace rookery::cases {

/// Counts from where it is made; one at a time.
class PeakMemory {
 public:
  PeakMemory() {
    std::ofstream("/proc/self/clear_refs") << "5";             // the peak starts anew
    before_ = status("VmRSS");
    const bool started_anew = before_ > 0 && status("VmHWM") <= before_ + (2 << 20);
#ifndef __SANITIZE_ADDRESS__                                   // which keeps freed memory
    is_known_ = started_anew;
#else
    (void)started_anew;
#endif
  }
  /// Whether this system tells the peak.
  bool is_known() const { return is_known_; }
  /// Bytes.
  std::int64_t growth() const { return status("VmHWM") - before_; }

 private:
  static std::int64_t status(const std::string& name) {
    std::ifstream file("/proc/self/status");
    for (std::string line; std::getline(file, line);)
      if (line.starts_with(name + ":")) return std::stoll(line.substr(name.size() + 1)) * 1024;
    return 0;
  }
  std::int64_t before_ = 0;
  bool is_known_ = false;
};

}  // namespace rookery::cases
