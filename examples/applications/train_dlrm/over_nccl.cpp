// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// train_dlrm on processes with a GPU each, over NCCL; built where Meson found one.

#include <rookery/topology/nccl.hpp>

#include "training.hpp"

template int examples::train_dlrm(rk::Nccl&, const std::shared_ptr<const rk::Table>&, const TrainDlrmOptions&);
