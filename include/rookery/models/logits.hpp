// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Logits: what a binary classifier gives.  Include cost: tensor.

#include <ATen/core/Tensor.h>

namespace rookery {

struct Logits {
  at::Tensor logits;                 // [B]
};

}  // namespace rookery
