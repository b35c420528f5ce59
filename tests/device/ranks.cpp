// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// One rank of Nccl on a GPU, of as many as tests/device/run has started; rank 0 speaks.
//
//   ranks [verbs | dead | stuck] [STEPS]
//
// Built with FAKE_NCCL the ranks are threads, with stand-ins for NCCL and the CUDA runtime (tests/support/fake_nccl.hpp) and for the GPU
// (tests/support/fake_device.hpp): `ranks fake N STEPS`.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#ifdef FAKE_NCCL
#include "support/fake_device.hpp"
#include "support/fake_nccl.hpp"
#else
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <unistd.h>

#include <rookery/topology/nccl.hpp>
#endif

#include <rookery/comm/all_gather_v.hpp>
#include <rookery/comm/all_reduce.hpp>
#include <rookery/comm/all_to_all_v.hpp>
#include <rookery/comm/barrier.hpp>
#include <rookery/comm/broadcast.hpp>
#include <rookery/comm/reduce_scatter_v.hpp>
#include <rookery/topology/local.hpp>

#include "device/checks.hpp"
#include "device/dlrm.hpp"
#include "support/errors_of.hpp"

namespace {

using namespace rookery;
using namespace rookery::device;

void expect(bool holds, std::string_view what) { check<Error>(holds, what, " is wrong"); }
bool same(const at::Tensor& found, const at::Tensor& expected) { return cases::difference(on_host(found), on_host(expected)) == 0; }

/// Rank r sends r times p + 1 rows to rank p; every verb and dtype, rows of unlike number and none, several collectives at once.
template <class Topology> std::string verbs(Topology& topology) {
  const int rank = topology.rank(), ranks = topology.world_size();
  const auto last = ranks - 1;
  for (const auto dtype : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt, at::kByte}) {
    const auto on_device = at::TensorOptions(dtype).device(topology.device());
    const auto full = [&](std::vector<std::int64_t> shape, double value) { return ops::full(shape, value, on_device); };
    Counts sent, received;
    std::vector<at::Tensor> parts, expected;
    for (int peer = 0; peer < ranks; ++peer) {
      sent.push_back(rank * peer + 1);
      received.push_back(peer * rank + 1);
      parts.push_back(full({sent.back(), 3}, 10 * rank + peer));
      expected.push_back(full({received.back(), 3}, 10 * peer + rank));
    }
    auto exchanged = all_to_all_v(topology, ops::cat(parts), sent, received);
    auto sum = all_reduce(topology, full({7, 1}, rank + 1));
    auto told = broadcast(topology, full({5}, rank), last);
    expect(same(told.wait(), full({5}, last)), "broadcast");
    expect(same(exchanged.wait(), ops::cat(expected)), "all_to_all_v");
    expect(same(sum.wait(), full({7, 1}, ranks * (ranks + 1) / 2)), "all_reduce");
    expect(same(all_reduce(topology, full({2}, rank), ReduceOp::max).wait(), full({2}, last)), "all_reduce max");
    expect(same(all_reduce(topology, full({2}, rank), ReduceOp::min).wait(), full({2}, 0)), "all_reduce min");
    for (const bool even : {true, false}) {
      const auto gathered = all_gather_v(topology, full({even ? 2 : rank, 2}, rank)).wait();
      for (int peer = 0; peer < ranks; ++peer)
        expect(same(gathered.at(static_cast<std::size_t>(peer)), full({even ? 2 : peer, 2}, peer)), "all_gather_v");
      Counts counts;
      for (int peer = 0; peer < ranks; ++peer) counts.push_back(even ? 3 : peer);
      const auto rows = rookery::detail::sum_of(counts);
      expect(same(reduce_scatter_v(topology, full({rows, 2}, 1), counts).wait(), full({counts[static_cast<std::size_t>(rank)], 2}, ranks)),
             "reduce_scatter_v");
    }
  }
  const auto of_host = ops::full({1}, 2., at::kDouble);        // [1]
  expect(same(all_reduce(topology, of_host).wait(), of_host.mul(ranks)), "a sum of the host's");
  barrier(topology);
  return "";
}

/// Microseconds from a call to its result on the device.
template <class Topology> void exchange_times(Topology& topology, Figures& figures) {
  const auto ranks = static_cast<std::int64_t>(topology.world_size());
  const auto wait_for = [](const at::Tensor& tensor) { on_host(tensor.reshape({-1}).narrow(0, 0, 1)); };
  for (const std::int64_t kilobytes : {1, 1024, 65536}) {
    const Counts each(static_cast<std::size_t>(ranks), kilobytes * 256 / ranks * 4);   // whole numbers of four bytes
    const auto bytes = ops::zeros({each.front() * ranks}, at::TensorOptions(at::kByte).device(topology.device()));
    const int times = kilobytes > 1024 ? 5 : 20;
    const auto measure = [&](const char* name, const auto& call) {
      wait_for(call());
      barrier(topology);
      const Stopwatch clock;
      for (int i = 0; i < times; ++i) wait_for(call());
      figures.emplace_back(concat(name, " of ", kilobytes, " KB, us"), clock.seconds() * 1e6 / times);
    };
    measure("all_to_all_v", [&] { return all_to_all_v(topology, bytes, each, each).wait(); });
    measure("all_reduce", [&] { return all_reduce(topology, bytes.view(at::kInt)).wait(); });
  }
}

template <class Topology> std::string equals_local(Topology& topology, const Run& run, Figures& figures) {
  const auto found = train(topology, run);
  if (topology.rank() != 0) return "";
  Local alone(topology.device());
  const auto expected = train(alone, run);
  figures.emplace_back("largest difference", largest_difference(expected, found));
  return compare(run, expected, found);
}

#ifndef FAKE_NCCL
/// How often the host waits for the device in `fn`, as LibTorch counts it, and in which words.
template <class Fn> int count_waits(Fn&& fn) {
  auto& state = c10::cuda::warning_state();
  const auto said = cases::errors_of([&] {
    state.set_sync_debug_mode(c10::cuda::SyncDebugMode::L_WARN);
    fn();
    state.set_sync_debug_mode(c10::cuda::SyncDebugMode::L_DISABLED);
  });
  int waits = 0;
  for (auto at = said.find("synchronizing CUDA"); at != said.npos; at = said.find("synchronizing CUDA", at + 1)) ++waits;
  return waits;
}
std::string waits_of_a_step(Nccl& topology, Figures& figures) {
  const auto one = ops::zeros({1}, at::TensorOptions().device(topology.device()));            // [1]
  if (count_waits([&] { on_host(one); }) == 0) throw NotRun{"LibTorch's own count does not see a copy to the host"};
  const Run run{.clip_norm = 0};
  auto model = place(topology, run);
  Optimizer step(model, Adam{});
  constexpr int steps = 10;
  const auto some = [&](std::int64_t from) {
    for (std::int64_t i = from; i < from + steps; ++i) {
      auto [loss, output] = model(rows_of(topology, draw_batch(run, i)));
      loss.backward();
      step();
    }
  };
  some(0);
  const double waits = count_waits([&] { some(steps); }) / static_cast<double>(steps);
  const auto memory = c10::cuda::CUDACachingAllocator::getDeviceStats(topology.device().index());
  figures = {{"waits of the host in a step", waits},
             {"MB of LibTorch's at the peak", static_cast<double>(memory.allocated_bytes[0].peak) / 1e6}};
  return waits <= 1 ? "" : concat("the host waits ", waits, " times in a step");
}
#endif

template <class Topology> void add_checks(Checks& checks, Topology& topology, std::int64_t steps) {
  const auto ranks = concat(topology.world_size(), topology.world_size() == 1 ? " rank" : " ranks");
  checks.add(concat("Nccl, ", ranks, ": every verb and dtype"), [&](Figures&) { return verbs(topology); });
  using enum ShardingKind;
  for (const auto dtype : {at::kDouble, at::kFloat}) {
    Run run{.dtype = dtype, .steps = steps};
    run.constraints = {{"t0", {.kinds = {table_wise}}}, {"t1", {.kinds = {row_wise}}}, {"t2", {.kinds = {column_wise}}},
                       {"t3", {.kinds = {data_parallel}}}, {"t4", {.kinds = {row_wise}}}, {"t5", {.kinds = {table_wise}}}};
    if (topology.world_size() == 1) run.constraints = {};
    checks.add(concat("Nccl, ", ranks, ": ", steps, " steps of ", describe(run), " equal Local's on the device"),
               [&, run](Figures& figures) { return equals_local(topology, run, figures); });
  }
#ifndef FAKE_NCCL
  checks.add(concat("Nccl, ", ranks, ": waits of the host, and memory"),
             [&](Figures& figures) { return waits_of_a_step(topology, figures); });
#endif
  checks.add(concat("Nccl, ", ranks, ": time of an exchange"), [&](Figures& figures) {
    exchange_times(topology, figures);
    return std::string();
  });
}

#ifdef FAKE_NCCL
int run(const std::vector<std::string>& words) {
  const int ranks = words.size() > 1 ? std::atoi(words[1].c_str()) : 2;
  const auto steps = words.size() > 2 ? std::atoll(words[2].c_str()) : 50;
  const auto script = std::make_shared<cases::FakeNcclScript>();
  script->device = cases::fake_device;
  script->is_on_device = [](const at::Tensor& tensor) { return cases::fake::is_here(tensor); };
  script->memory = [](void* shown) { return cases::fake::Memory::of_process().real(shown); };
  int status = 0;
  const auto thrown = cases::on_fake_devices(ranks, [&](auto& topology) {
    Checks checks;
    add_checks(checks, topology, steps);
    const int failed = checks.run(topology.rank() == 0);
    if (topology.rank() == 0) status = failed;
    topology.leave();
  }, {}, script);
  for (const auto& one : thrown)
    if (!one.empty()) std::fprintf(stderr, "%s\n", one.c_str()), status = 1;
  return status;
}
#else
/// A rank that is gone or does not come: the others' communicators, which do not block, are aborted, and each says why.
int lose_a_rank(const std::string& how) {
  auto topology = Nccl::join(ProcessEnvironment::read());
  const auto ones = ops::full({1 << 20}, 1., at::TensorOptions().device(topology.device()));  // [2^20]
  on_host(all_reduce(topology, ones).wait());
  if (topology.rank() == 1) {
    if (how == "stuck") std::this_thread::sleep_for(2 * ProcessEnvironment::read().timeout);
    std::_Exit(0);
  }
  Checks checks;
  const std::string expected = how == "dead" ? "rank 1 ended without a word" : "for rank 1, which has not come to it";
  checks.add(concat("Nccl, a ", how, " rank: the others abort and say why"), [&](Figures& figures) {
    const Stopwatch clock;
    try {
      on_host(all_reduce(topology, ones).wait());
      all_reduce(topology, ones).wait();
    } catch (const CommunicationError& error) {
      figures.emplace_back("seconds until it is known", clock.seconds());
      const std::string said = error.what();
      const bool names_rank = said.find(expected) != said.npos;  // or NCCL noticed before
      figures.emplace_back("names the rank", names_rank);
      return names_rank || said.find("all_reduce number 1: nccl: ") != said.npos ? "" : concat("it said '", said, "'");
    }
    return std::string("a sum of two ranks came to its end with one");
  });
  checks.add(concat("Nccl, a ", how, " rank: the GPU computes on"), [&](Figures&) {
    return on_host(ones.sum()).item<double>() == 1 << 20 ? "" : "a sum of ones is wrong";
  });
  const int status = checks.run();
  std::fflush(stdout);
  std::_Exit(status);
}

int run(const std::vector<std::string>& words) {
  const std::string what = words.empty() ? "verbs" : words[0];
  if (what == "dead" || what == "stuck") return lose_a_rank(what);
  auto topology = Nccl::join(ProcessEnvironment::read());
  Checks checks;
  add_checks(checks, topology, words.size() > 1 ? std::atoll(words[1].c_str()) : 50);
  const int status = checks.run(topology.rank() == 0);
  topology.leave();
  return status;
}
#endif

}  // namespace

int main(int count, char** arguments) {
  try {
    return run({arguments + 1, arguments + count});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ranks: %s\n", error.what());
    return 1;
  }
}
