// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// train_dlrm on ranks of one process.

#include <rookery/topology/threads.hpp>

#include "training.hpp"

template int examples::train_dlrm(rk::Local&, const std::shared_ptr<const rk::Table>&, const TrainDlrmOptions&);
template int examples::train_dlrm(rk::Threads&, const std::shared_ptr<const rk::Table>&, const TrainDlrmOptions&);
