// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/topology/calibrate.hpp>

#include <rookery/core/clock.hpp>
#include <rookery/topology/host_memory.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "support/test.hpp"

namespace rookery {
namespace {

constexpr double gigabyte = 1e9;

/// Whether two machines are the same in every number.
bool same(const TopologyFacts& a, const TopologyFacts& b) {
  return a.world_size == b.world_size && a.local_world_size == b.local_world_size && a.device == b.device &&
         a.device_memory == b.device_memory && a.host_memory == b.host_memory && a.device_bandwidth == b.device_bandwidth &&
         a.host_bandwidth == b.host_bandwidth && a.host_device_bandwidth == b.host_device_bandwidth &&
         a.intra_node_bandwidth == b.intra_node_bandwidth && a.inter_node_bandwidth == b.inter_node_bandwidth;
}

}  // namespace

TEST_SUITE("topology/calibrate") {
  TEST_CASE("memory is read at a rate that machines have, in the time that is given") {
    const Stopwatch clock;
    const auto found = measure_memory();
    MESSAGE("stream ", found.stream / gigabyte, " GB/s, gather ", found.gather / gigabyte, " GB/s, in ", clock.seconds() * 1000, " ms");
    CHECK(clock.seconds() < 2);                                  // 100 ms where nobody else is at work
    for (const double bandwidth : {found.stream, found.gather}) {
      CHECK(bandwidth > .05 * gigabyte);
      CHECK(bandwidth < 5000 * gigabyte);
    }
  }
  TEST_CASE("one process has its own memory and the constants of exchange") {
    Local local;
    const auto facts = calibrate(local, {.memory_seconds = .001, .memory_bytes = 1 << 20});
    facts.validate();
    const TopologyFacts constants;
    CHECK(facts.world_size == 1);
    CHECK(facts.host_bandwidth != constants.host_bandwidth);
    CHECK(facts.host_memory > std::int64_t{1} << 28);
    CHECK(facts.intra_node_bandwidth == constants.intra_node_bandwidth);
    CHECK(facts.inter_node_bandwidth == constants.inter_node_bandwidth);
  }
  TEST_CASE("the memory of a host is what control groups leave of it, of either version and of the groups above") {
    const auto root = std::filesystem::temp_directory_path() / concat("rookery_groups_", ::getpid());
    const auto limit = [&](const std::string& groups, const std::string& folder, const char* name, const std::string& bytes) {
      std::filesystem::create_directories(root / folder);
      std::ofstream(root / "list") << groups;
      std::ofstream(root / folder / name) << bytes << '\n';
      const auto found = detail::memory_limit(root / "list", root);
      std::filesystem::remove_all(root);
      return found;
    };
    constexpr auto none = std::numeric_limits<std::int64_t>::max();
    CHECK(limit("0::/a/b\n", "a/b", "memory.max", "5000") == 5000);
    CHECK(limit("0::/a/b\n", "a", "memory.max", "6000") == 6000);
    CHECK(limit("0::/a/b\n", "", "memory.max", "7000") == 7000);          // the container's own is the root that it sees
    CHECK(limit("0::/a/b\n", "a/b", "memory.max", "max") == none);
    CHECK(limit("0::/\n", "", "memory.max", "8000") == 8000);
    CHECK(limit("5:cpu:/\n4:memory,hugetlb:/x/y\n0::/\n", "memory/x", "memory.limit_in_bytes", "9000") == 9000);
    CHECK(limit("5:cpu:/\n4:memory:/x/y\n", "memory/x/y", "memory.limit_in_bytes", "9223372036854771712") == 9223372036854771712);
    CHECK(limit("5:cpu:/x\nnonsense\n", "x", "memory.limit_in_bytes", "9") == none);
    CHECK(host_memory() > std::int64_t{1} << 28);
    CHECK(host_memory() <= std::int64_t{::sysconf(_SC_PHYS_PAGES)} * ::sysconf(_SC_PAGE_SIZE));
  }
  TEST_CASE("every rank gets the same facts; what there is not several of stays constant") {
    const TopologyFacts constants;
    const CalibrationOptions brief{.memory_seconds = .002, .exchange_seconds = .02, .memory_bytes = 1 << 20, .most_bytes = 1 << 20};
    for (const int local : {1, 2, 4}) {
      std::mutex mutex;
      std::vector<TopologyFacts> found;
      Threads::run(4, [&](Threads topology) {
        const auto facts = calibrate(topology, brief);
        const std::lock_guard lock(mutex);
        found.push_back(facts);
      }, {.local_world_size = local});
      REQUIRE(found.size() == 4);
      for (const auto& facts : found) CHECK(same(facts, found[0]));
      found[0].validate();
      CHECK(found[0].world_size == 4);
      CHECK(found[0].ranks_per_node() == local);
      CHECK((found[0].intra_node_bandwidth != constants.intra_node_bandwidth) == (local > 1));
      CHECK((found[0].inter_node_bandwidth != constants.inter_node_bandwidth) == (local < 4));
      for (const double bandwidth : {found[0].intra_node_bandwidth, found[0].inter_node_bandwidth}) {
        CHECK(bandwidth > 1e5);
        CHECK(bandwidth < 1e13);
      }
    }
  }
  TEST_CASE("nodes of unlike size are refused before anything is sent between them") {
    struct Uneven : Threads {
      explicit Uneven(Threads base) : Threads(std::move(base)) {}
      int local_world_size() const { return rank() < 2 ? 2 : 1; }
    };
    Threads::run(3, [](Threads threads) {
      Uneven topology(std::move(threads));
      CHECK_THROWS_WITH_AS(calibrate(topology, {.memory_seconds = .001, .exchange_seconds = .01, .memory_bytes = 1 << 20}),
                           "calibrate: nodes of 1 and of 2 ranks; every node must have as many", ConfigError);
    });
  }
  TEST_CASE("exchange takes about the time it is given") {
    const Stopwatch clock;
    Threads::run(2, [](Threads topology) {
      calibrate(topology, {.memory_seconds = .001, .exchange_seconds = .1, .memory_bytes = 1 << 20});
    });
    CHECK(clock.seconds() < 5);                                  // .1 s where nobody else is at work
  }
}

}  // namespace rookery
