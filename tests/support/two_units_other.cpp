// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include "all_headers.hpp"

int the_other_unit();

int the_other_unit() { return 0; }
