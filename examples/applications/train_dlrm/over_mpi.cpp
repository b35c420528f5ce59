// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// train_dlrm on processes over MPI; built where Meson found one.

#include <rookery/topology/mpi.hpp>

#include "training.hpp"

template int examples::train_dlrm(rk::Mpi&, const std::shared_ptr<const rk::Table>&, const TrainDlrmOptions&);
