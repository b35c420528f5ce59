// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// calibrate: the facts of this machine, measured in some tenths of a second, in place of the constants of TopologyFacts.
//
// Ranks measure at the same time, as they will work; what the slowest of them found holds for all, so that all plan the same.
// Differs from torchrec, which has constants only.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include <rookery/comm/all_reduce.hpp>
#include <rookery/comm/all_to_all_v.hpp>
#include <rookery/comm/barrier.hpp>
#include <rookery/core/clock.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/mix.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/core/parallel.hpp>
#include <rookery/topology/facts.hpp>
#include <rookery/topology/host_memory.hpp>

namespace rookery {

struct CalibrationOptions {
  double memory_seconds = .03;           // of reading in order, and the same of rows here and there; filling comes before
  double exchange_seconds = .1;          // of exchange, about, inside nodes and the same between them
  std::int64_t memory_bytes = 64 << 20;  // that are read: more than the caches hold
  std::int64_t most_bytes = 16 << 20;    // of a rank's message
};

/// Bytes per second that this process reads, on the threads that it computes with.
struct MemoryBandwidth {
  double stream = 0;                     // in order
  double gather = 0;                     // in rows of 256 bytes here and there, as lookups read a table
};

/// Cost: the options' bytes, twice their seconds and the time to fill memory that nobody has touched, some 30 ms for 64 MB.
inline MemoryBandwidth measure_memory(const CalibrationOptions& options = {}) {
  constexpr std::int64_t row = 256;
  constexpr std::size_t page = 1 << 21;                              // a large page, as tables ask for
  const auto wanted = std::max<std::int64_t>(options.memory_bytes / row, 1 << 13);
  const auto rows = static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(wanted)));
  const std::unique_ptr<char, decltype(&std::free)> memory(
      static_cast<char*>(std::aligned_alloc(page, static_cast<std::size_t>(rows * row))), &std::free);
  check<Error>(memory != nullptr, "measure_memory: no memory for ", rows * row, " bytes");
  ::madvise(memory.get(), static_cast<std::size_t>(rows * row), MADV_HUGEPAGE);
  parallel(rows, 4096, [&](std::int64_t begin, std::int64_t end) {
    std::memset(memory.get() + begin * row, 1, static_cast<std::size_t>((end - begin) * row));
  });
  std::atomic<char> seen{0};                                         // what is read is used
  const auto bandwidth = [&](auto place) {
    const Stopwatch clock;
    std::int64_t read = 0;
    for (std::int64_t pass = 0; read == 0 || clock.seconds() < options.memory_seconds; ++pass) {
      const auto some = std::min<std::int64_t>(rows, 1 << 15);       // 8 MB a look at the clock
      parallel(some, 1024, [&](std::int64_t begin, std::int64_t end) {
        char copy[row], last = 0;
        for (std::int64_t i = pass * some + begin; i < pass * some + end; ++i) {
          __builtin_prefetch(memory.get() + place(i + 16) * row);
          std::memcpy(copy, memory.get() + place(i) * row, row);
          last = static_cast<char>(last ^ copy[i % row]);
        }
        seen = last;
      });
      read += some * row;
    }
    return static_cast<double>(read) / std::max(clock.seconds(), 1e-9);
  };
  MemoryBandwidth found;
  found.stream = bandwidth([&](std::int64_t i) { return i & (rows - 1); });
  found.gather = bandwidth([&](std::int64_t i) { return static_cast<std::int64_t>(mix64(static_cast<std::uint64_t>(i))) & (rows - 1); });
  return found;
}

namespace detail {

/// The least of each number over ranks [n].
template <class Topology> std::vector<double> least_over_ranks(Topology& topology, std::vector<double> numbers) {
  auto tensor = ops::empty({static_cast<std::int64_t>(numbers.size())}, at::kDouble);                     // [n]
  std::copy(numbers.begin(), numbers.end(), tensor.template mutable_data_ptr<double>());
  const auto least = all_reduce(topology, std::move(tensor), ReduceOp::min).wait();                        // [n]
  return {least.template const_data_ptr<double>(), least.template const_data_ptr<double>() + least.numel()};
}

/// Bytes per second that each rank sends when each sends to the ranks of its own node, or to all others; of the slowest.
template <class Topology> double exchange_bandwidth(Topology& topology, bool in_node, const CalibrationOptions& options) {
  const int ranks = topology.world_size(), local = concepts::local_world_size(topology), node = topology.rank() / local;
  const auto peers = in_node ? local : ranks - local;
  // Seconds of `times` messages of that many bytes to each peer, on the slowest rank.
  const auto seconds = [&](std::int64_t bytes, int times) {
    Counts counts(static_cast<std::size_t>(ranks));
    for (int peer = 0; peer < ranks; ++peer) counts[static_cast<std::size_t>(peer)] = (peer / local == node) == in_node ? bytes : 0;
    const auto message = ops::zeros({bytes * peers}, at::TensorOptions(at::kByte).device(topology.device()));   // [bytes * peers]
    barrier(topology);
    const Stopwatch clock;
    at::Tensor last;                                                 // [bytes * peers]
    for (int i = 0; i < times; ++i) last = all_to_all_v(topology, message, counts, counts).wait();
    if (!last.is_cpu()) last.narrow(0, 0, std::min<std::int64_t>(1, last.numel())).to(at::kCPU);           // what is under way is done
    return -least_over_ranks(topology, {-clock.seconds()}).front();
  };
  std::int64_t bytes = std::max<std::int64_t>(1, (1 << 16) / peers);
  seconds(bytes, 1);                                                 // connections are made
  const double first = std::max(seconds(bytes, 2) / 2, 1e-7), share = options.exchange_seconds / 8;
  const auto most = std::max<std::int64_t>(1, options.most_bytes / peers);
  bytes = std::clamp(static_cast<std::int64_t>(static_cast<double>(bytes) * share / first), std::int64_t{1}, most);
  const double one = std::max(seconds(bytes, 1), 1e-7);
  const int times = std::clamp(static_cast<int>(options.exchange_seconds / 2 / one), 1, 1000);
  return static_cast<double>(bytes * peers * times) / std::max(seconds(bytes, times), 1e-9);
}

}  // namespace detail

/// The ranks and nodes of a topology with the memory that the host allows, a rank's share of it, and measured bandwidths: of reading rows
/// on the host, and of exchange between the ranks of a node and between nodes where there are several of either. Of a GPU, the memory that
/// is free on all, and what it says of its bandwidth. The others are constants.
/// Errors: ConfigError where nodes have unlike numbers of ranks; CommunicationError where a rank fails or does not come.
/// Cost: the options' seconds. Ranks: all, in the same order; all get the same facts.
template <concepts::Topology Topology> TopologyFacts calibrate(Topology& topology, const CalibrationOptions& options = {}) {
  auto facts = facts_of(topology);
  barrier(topology);
  const auto memory = static_cast<double>(host_memory()) / facts.ranks_per_node();
  const double here = facts.ranks_per_node();
  const auto found = detail::least_over_ranks(topology, {measure_memory(options).gather, memory, here, -here});
  const auto least = static_cast<int>(found[2]), most = static_cast<int>(-found[3]);
  check<ConfigError>(least == most, "calibrate: nodes of ", least, " and of ", most, " ranks; every node must have as many");
  if (topology.device().is_cuda()) {
    auto gpu = gpu_facts(std::max<int>(0, topology.device().index()));
    if (gpu.free_memory >= 0) gpu.memory = gpu.free_memory;
    gpu.memory = static_cast<std::int64_t>(detail::least_over_ranks(topology, {static_cast<double>(gpu.memory)}).front());
    learn(facts, gpu, /*exchange_is_measured=*/Topology::is_distributed);
  }
  facts.host_bandwidth = found[0];
  facts.host_memory = static_cast<std::int64_t>(found[1]);
  if constexpr (Topology::is_distributed) {
    if (facts.ranks_per_node() > 1) facts.intra_node_bandwidth = detail::exchange_bandwidth(topology, true, options);
    if (facts.nodes() > 1) facts.inter_node_bandwidth = detail::exchange_bandwidth(topology, false, options);
  }
  return facts;
}

}  // namespace rookery
