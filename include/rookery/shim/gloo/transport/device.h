// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Declares what c10d's ProcessGroupGloo.hpp says of these types; LibTorch holds the definitions.

namespace gloo::transport {
class Device;
class UnboundBuffer;
}  // namespace gloo::transport
