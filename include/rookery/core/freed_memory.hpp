// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// keep_freed_memory: what a training step frees stays with the process for the next one.
//
// A step allocates and frees tens of megabytes of activations and gradients. The C library gives them back to the system whenever enough is
// free at the end of its heap, and takes them again page by page, each cleared: a quarter of a step of a DLRM. Answers to the allocators
// that training programs on CPUs are told to preload (jemalloc, tcmalloc); those are left alone.  Include cost: none.

#include <cstdlib>
#include <string_view>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace rookery {

/// Lets this process keep up to 512 MB that it has freed, in blocks of less than 32 MB; the first call counts. Optimizer calls it.
/// Who sets glibc's tunables of malloc in the environment has decided otherwise: then it does nothing, as on another C library.
inline void keep_freed_memory() {
#ifdef __GLIBC__
  static const bool kept = [] {
    for (const auto* name : {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_"})
      if (std::getenv(name)) return false;
    const char* tunables = std::getenv("GLIBC_TUNABLES");
    if (tunables && std::string_view(tunables).find("glibc.malloc.") != std::string_view::npos) return false;
    return mallopt(M_MMAP_THRESHOLD, 32 << 20) == 1 && mallopt(M_TRIM_THRESHOLD, 512 << 20) == 1;
  }();
  static_cast<void>(kept);
#endif
}

}  // namespace rookery
