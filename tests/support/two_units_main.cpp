// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Includes the whole library, as two_units_other.cpp does: together they link only if every definition in it is inline.

#include "all_headers.hpp"

int the_other_unit();

int main() { return the_other_unit(); }
