// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// train_dlrm on processes over Gloo.

#include <rookery/topology/gloo.hpp>

#include "training.hpp"

template int examples::train_dlrm(rk::Gloo&, const std::shared_ptr<const rk::Table>&, const TrainDlrmOptions&);
