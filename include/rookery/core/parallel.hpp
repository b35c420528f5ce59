// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// parallel: splits a range over LibTorch's own OpenMP team.
//
// The library has no pool of its own and asks for no compiler flag: it looks up the entry of the OpenMP runtime that
// LibTorch has loaded and runs serially where there is none. (at::parallel_for is serial in a file compiled without
// -fopenmp, and two files compiled differently would break the one-definition rule.)
// The number of threads is the caller's: at::set_num_threads.  Include cost: none.

#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <mutex>
#include <type_traits>

namespace rookery {

namespace detail {

/// The entries of the OpenMP runtime that we use; null where no runtime is loaded.
struct OpenMp {
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
  int (*max_threads)() = nullptr;
  int (*num_threads)() = nullptr;
  int (*thread_num)() = nullptr;
  int (*in_parallel)() = nullptr;

  static const OpenMp& loaded() {
    static const OpenMp entries = [] {
      OpenMp found;
      found.parallel = reinterpret_cast<decltype(found.parallel)>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
      found.max_threads = reinterpret_cast<decltype(found.max_threads)>(dlsym(RTLD_DEFAULT, "omp_get_max_threads"));
      found.num_threads = reinterpret_cast<decltype(found.num_threads)>(dlsym(RTLD_DEFAULT, "omp_get_num_threads"));
      found.thread_num = reinterpret_cast<decltype(found.thread_num)>(dlsym(RTLD_DEFAULT, "omp_get_thread_num"));
      found.in_parallel = reinterpret_cast<decltype(found.in_parallel)>(dlsym(RTLD_DEFAULT, "omp_in_parallel"));
      return found.max_threads && found.num_threads && found.thread_num && found.in_parallel ? found : OpenMp{};
    }();
    return entries;
  }
};

/// A function of pieces without its type, so that what runs them is compiled once for all.
struct ParallelTask {
  void (*call)(void* fn, std::int64_t begin, std::int64_t end);
  void* fn;
  std::int64_t size, pieces = 1;
  std::exception_ptr failure = nullptr;
  std::mutex mutex = {};

  static void run(void* self) {
    auto& task = *static_cast<ParallelTask*>(self);
    const std::int64_t team = OpenMp::loaded().num_threads();       // the runtime may give fewer than asked for
    try {
      for (std::int64_t piece = OpenMp::loaded().thread_num(); piece < task.pieces; piece += team)
        task.call(task.fn, task.size * piece / task.pieces, task.size * (piece + 1) / task.pieces);
    } catch (...) {
      const std::lock_guard lock(task.mutex);
      if (!task.failure) task.failure = std::current_exception();
    }
  }
};

[[gnu::noinline]] inline void run_parallel(ParallelTask task, std::int64_t grain) {
  const auto& runtime = OpenMp::loaded();
  const std::int64_t wanted = task.size / std::max<std::int64_t>(grain, 1);
  if (wanted > 1 && runtime.parallel && !runtime.in_parallel()) task.pieces = std::min<std::int64_t>(wanted, runtime.max_threads());
  if (task.pieces <= 1) return task.call(task.fn, 0, task.size);
  runtime.parallel(&ParallelTask::run, &task, static_cast<unsigned>(task.pieces), 0);
  if (task.failure) std::rethrow_exception(task.failure);
}

}  // namespace detail

/// How many threads `parallel` can have here: 1 inside of it, or where there is no OpenMP.
inline std::int64_t threads_here() {
  const auto& runtime = detail::OpenMp::loaded();
  return runtime.parallel && !runtime.in_parallel() ? runtime.max_threads() : 1;
}

/// Calls `fn(begin, end)` on pieces that cover [0, size), each of at least `grain` elements, on as many threads as the
/// caller has; serially when one piece is enough or when already inside a parallel region. Which elements share a piece
/// depends on the number of threads, so `fn` must not let its result depend on that.
///
/// Errors:  the first exception of a piece is thrown again here, after all pieces have ended.
/// Cost:    1 to 10 microseconds for the region; nothing when serial.
template <class Fn> void parallel(std::int64_t size, std::int64_t grain, Fn&& fn) {
  if (size <= 0) return;
  using Function = std::remove_reference_t<Fn>;
  const auto call = [](void* function, std::int64_t begin, std::int64_t end) { (*static_cast<Function*>(function))(begin, end); };
  detail::run_parallel({.call = call, .fn = const_cast<void*>(static_cast<const void*>(&fn)), .size = size}, grain);
}

}  // namespace rookery
