// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// NamedTensor: a tensor and its name, in a file or in a model.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <string>

namespace rookery {

struct NamedTensor {
  std::string name;
  at::Tensor tensor;
};

}  // namespace rookery
