// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Instantiates the host kernels, once a project: include this in one file, compiled without ROOKERY_KERNELS_EXTERN, when the other
// files define that macro to declare the kernels only.  Include cost: none.

#ifdef ROOKERY_KERNELS_EXTERN
#error "rookery/kernels/cpu/instantiate.hpp: the file that instantiates the kernels must not define ROOKERY_KERNELS_EXTERN"
#endif

#include <rookery/kernels/cpu/pooled_lookup.hpp>
#include <rookery/kernels/cpu/transpose.hpp>

namespace rookery::kernels::detail {

template void pooled_lookup<float, float>(const LookupTask&);
template void pooled_lookup<double, double>(const LookupTask&);
template void pooled_lookup<c10::Half, float>(const LookupTask&);
template void pooled_lookup<c10::BFloat16, float>(const LookupTask&);
template void row_lookup<float, float>(const LookupTask&);
template void row_lookup<double, double>(const LookupTask&);
template void row_lookup<c10::Half, float>(const LookupTask&);
template void row_lookup<c10::BFloat16, float>(const LookupTask&);
template void sum_row_gradients<float>(const Occurrences&, const Transposed&, std::int64_t, float*);
template void sum_row_gradients<double>(const Occurrences&, const Transposed&, std::int64_t, double*);

}  // namespace rookery::kernels::detail
