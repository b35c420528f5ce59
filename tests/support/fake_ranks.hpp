// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Ranks on stand-ins for GPUs: tensors of tests/support/fake_device.hpp travel by the stand-in for NCCL of tests/support/fake_nccl.hpp.

#include "support/fake_device.hpp"
#include "support/fake_nccl.hpp"

#include <memory>

namespace rookery::cases {

/// Every rank has the stand-in accelerator; tensors that are not on it are the host's.
inline std::shared_ptr<FakeNcclScript> with_fake_device() {
  auto script = std::make_shared<FakeNcclScript>();
  script->device = fake_device;
  script->is_on_device = [](const at::Tensor& tensor) { return fake::is_here(tensor); };
  script->memory = [](void* shown) { return fake::Memory::of_process().real(shown); };
  return script;
}

}  // namespace rookery::cases
