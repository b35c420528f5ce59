// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Declares what c10d's ProcessGroupGloo.hpp says of this type; LibTorch holds the definition.

#include <chrono>

namespace gloo {
class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};
}  // namespace gloo
