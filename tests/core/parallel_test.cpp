// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/core/parallel.hpp>

#include <rookery/core/error.hpp>

#include <ATen/Parallel.h>
#include <dlfcn.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/test.hpp"

namespace rookery {
namespace {

/// Sets the number of threads of this thread's regions until the end of the scope.
class ThreadCount {
 public:
  explicit ThreadCount(int count) : before_(at::get_num_threads()) { at::set_num_threads(count); }
  ~ThreadCount() { at::set_num_threads(before_); }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  int before_;
};

/// How often each element of [0, size) was visited, and the pieces.
struct Visits {
  std::vector<int> times;
  std::set<std::pair<std::int64_t, std::int64_t>> pieces;
  bool all_once() const {
    return std::all_of(times.begin(), times.end(), [](int n) { return n == 1; });
  }
};
Visits visit(std::int64_t size, std::int64_t grain) {
  Visits visits{std::vector<int>(static_cast<std::size_t>(size)), {}};
  std::mutex mutex;
  parallel(size, grain, [&](std::int64_t begin, std::int64_t end) {
    const std::lock_guard lock(mutex);
    visits.pieces.insert({begin, end});
    for (auto i = begin; i < end; ++i) ++visits.times[static_cast<std::size_t>(i)];
  });
  return visits;
}

}  // namespace

TEST_SUITE("core/parallel") {
  TEST_CASE("LibTorch's OpenMP runtime is found") { CHECK(bool(detail::OpenMp::loaded().parallel)); }
  TEST_CASE("the pieces cover the range once, for any size, grain and number of threads") {
    for (const int threads : {1, 2, 3, 8}) {
      const ThreadCount count(threads);
      for (const std::int64_t size : {1, 2, 3, 7, 8, 100, 1001})
        for (const std::int64_t grain : {0, 1, 2, 10, 500, 1001, 5000}) {
          const auto visits = visit(size, grain);
          CAPTURE(threads);
          CAPTURE(size);
          CAPTURE(grain);
          CHECK(visits.all_once());
          CHECK(visits.pieces.size() <= static_cast<std::size_t>(threads));
          for (const auto& [begin, end] : visits.pieces) CHECK((visits.pieces.size() == 1 || end - begin >= grain));
        }
    }
  }
  TEST_CASE("large ranges are split, small ones are one piece, empty ones none") {
    const ThreadCount count(2);
    CHECK(visit(100, 1).pieces.size() == 2);
    CHECK(visit(100, 51).pieces.size() == 1);
    CHECK(visit(0, 1).pieces.empty());
    bool called = false;
    parallel(-3, 1, [&](std::int64_t, std::int64_t) { called = true; });
    CHECK(!called);
  }
  TEST_CASE("a region inside a region is one piece") {
    const ThreadCount count(2);
    std::atomic<int> inner = 0, elements = 0;
    parallel(2, 1, [&](std::int64_t, std::int64_t) {
      parallel(100, 1, [&](std::int64_t begin, std::int64_t end) {
        ++inner;
        elements += static_cast<int>(end - begin);
      });
    });
    CHECK(inner == 2);
    CHECK(elements == 200);
  }
  TEST_CASE("an exception of any piece arrives here as itself, and the next region works") {
    const ThreadCount count(2);
    for (const std::int64_t bad : {0, 99}) {
      const auto run = [&] {
        parallel(100, 1, [&](std::int64_t begin, std::int64_t end) {
          if (begin <= bad && bad < end) fail<IndexError>("bad element ", bad);
        });
      };
      CHECK_THROWS_WITH_AS(run(), concat("bad element ", bad).c_str(), IndexError);
    }
    CHECK(visit(100, 1).all_once());
  }
  TEST_CASE("a team smaller than asked for still covers the range") {
    const auto set_dynamic = reinterpret_cast<void (*)(int)>(dlsym(RTLD_DEFAULT, "omp_set_dynamic"));
    REQUIRE(bool(set_dynamic));
    std::thread([&] {  // the settings are this thread's own
      at::set_num_threads(4 * static_cast<int>(std::max(1U, std::thread::hardware_concurrency())));
      set_dynamic(1);  // the runtime may now start no more threads than there are cores
      const auto visits = visit(10'000, 1);
      CHECK(visits.all_once());
    })
        .join();
  }
  TEST_CASE("threads of the caller's own may all use it at once") {
    std::vector<std::thread> callers;
    std::atomic<int> good = 0;
    for (int i = 0; i < 4; ++i)
      callers.emplace_back([&] {
        at::set_num_threads(2);
        for (int round = 0; round < 50; ++round) good += visit(1000, 1).all_once();
      });
    for (auto& caller : callers) caller.join();
    CHECK(good == 200);
  }
}

}  // namespace rookery
