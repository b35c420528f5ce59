// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Instantiates the host kernels, once a project: include this in one file, compiled without ROOKERY_KERNELS_EXTERN, when the other
// files define that macro to declare the kernels only.  Include cost: none.

#ifdef ROOKERY_KERNELS_EXTERN
#error "rookery/kernels/cpu/instantiate.hpp: the file that instantiates the kernels must not define ROOKERY_KERNELS_EXTERN"
#endif

#include <rookery/kernels/cpu/bag_sum.hpp>

namespace rookery::kernels::detail {

template void sum_bags<float>(const LookupTask&, std::int64_t, std::int64_t, void*, std::int64_t, RowAhead*);
template void sum_bags<double>(const LookupTask&, std::int64_t, std::int64_t, void*, std::int64_t, RowAhead*);
template void sum_bags<c10::Half>(const LookupTask&, std::int64_t, std::int64_t, void*, std::int64_t, RowAhead*);
template void sum_bags<c10::BFloat16>(const LookupTask&, std::int64_t, std::int64_t, void*, std::int64_t, RowAhead*);

}  // namespace rookery::kernels::detail
