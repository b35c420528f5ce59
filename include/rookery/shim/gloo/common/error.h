// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Stands in for the header that c10d includes and needs nothing of.
