// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/topology/mpi.hpp>
#include <rookery/topology/mpi_communicator.hpp>

#include <rookery/comm/all_gather_v.hpp>
#include <rookery/comm/all_reduce.hpp>
#include <rookery/comm/all_to_all_v.hpp>
#include <rookery/comm/barrier.hpp>
#include <rookery/comm/broadcast.hpp>
#include <rookery/comm/reduce_scatter_v.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/with_topology.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "support/equivalence.hpp"
#include "support/random_batches.hpp"
#include "support/roles.hpp"
#include "support/run_processes.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

using namespace std::chrono_literals;

std::string variable(const char* name) { return std::getenv(name) ? std::getenv(name) : ""; }

/// A role: one rank of those that mpirun started, which says what `fn(topology)` throws.
template <class Fn> int on_mpi(Fn&& fn) {
  try {
    return with_topology<Local, Mpi>(Environment::read(), [&](auto topology) {
      if constexpr (topology.is_distributed) fn(topology);
      return topology.is_distributed ? 0 : 1;
    });
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
cases::EndedProcesses mpirun(const std::string& role, int ranks, const std::string& environment = "") {
  return cases::run_processes(role, ranks, environment, "mpirun");
}
bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
void expect(bool holds, std::string_view what) { check<Error>(holds, what); }

/// Every verb, with rows of unlike number and none, and of every dtype that goes over the wire.
void all_verbs(Mpi& topology) {
  const int rank = topology.rank(), ranks = topology.world_size();
  expect(topology.local_world_size() == ranks, "local_world_size");
  for (const auto dtype : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt, at::kByte}) {
    Counts send_counts, recv_counts, scattered;
    std::vector<at::Tensor> send, expected;
    for (int peer = 0; peer < ranks; ++peer) {
      send_counts.push_back(rank * peer);
      recv_counts.push_back(peer * rank);
      scattered.push_back(peer);
      send.push_back(at::full({rank * peer, 3}, 10 * rank + peer, dtype));
      expected.push_back(at::full({peer * rank, 3}, 10 * peer + rank, dtype));
    }
    expect(at::equal(all_to_all_v(topology, at::cat(send), send_counts, recv_counts).wait(), at::cat(expected)), "all_to_all_v");
    for (const std::int64_t size : {1, 7, 60'000}) {                                         // the last is summed in shares
      const auto mine = at::full({size, 1}, rank + 1, dtype);
      expect(at::equal(all_reduce(topology, mine).wait(), at::full({size, 1}, ranks * (ranks + 1) / 2, dtype)), "all_reduce sum");
      expect(at::equal(all_reduce(topology, mine, ReduceOp::max).wait(), at::full({size, 1}, ranks, dtype)), "all_reduce max");
      expect(at::equal(all_reduce(topology, mine, ReduceOp::min).wait(), at::full({size, 1}, 1, dtype)), "all_reduce min");
      expect(at::equal(mine, at::full({size, 1}, rank + 1, dtype)), "the argument of all_reduce");
    }
    const auto gathered = all_gather_v(topology, at::full({rank, 2}, rank, dtype)).wait();
    expect(gathered.size() == static_cast<std::size_t>(ranks), "all_gather_v");
    for (int peer = 0; peer < ranks; ++peer)
      expect(at::equal(gathered[static_cast<std::size_t>(peer)], at::full({peer, 2}, peer, dtype)), "all_gather_v of a rank");
    const auto part = reduce_scatter_v(topology, at::arange(ranks * (ranks - 1) / 2, at::kLong).to(dtype), scattered).wait();
    expect(at::equal(part, at::arange(rank * (rank - 1) / 2, rank * (rank + 1) / 2, at::kLong).mul(ranks).to(dtype)), "reduce_scatter_v");
    expect(at::equal(broadcast(topology, at::full({50}, rank, dtype), ranks - 1).wait(), at::full({50}, ranks - 1, dtype)), "broadcast");
  }
  const Counts none(static_cast<std::size_t>(ranks));
  expect(all_to_all_v(topology, at::zeros({0}, at::kByte), none, none).wait().numel() == 0, "nothing at all");
  expect(all_reduce(topology, at::full({}, 1, at::kLong)).wait().item<std::int64_t>() == ranks, "a scalar");
  expect(all_reduce(topology, at::zeros({0, 4})).wait().sizes() == at::IntArrayRef({0, 4}), "a sum of nothing");
  const Counts two(static_cast<std::size_t>(ranks), 2);
  const auto transposed = at::arange(6 * ranks).view({3, 2 * ranks}).t();                    // [2 W, 3], not contiguous
  const auto rows = transposed.narrow(0, 2 * rank, 2);
  expect(at::equal(all_to_all_v(topology, transposed, two, two).wait(), at::cat(std::vector<at::Tensor>(two.size(), rows))), "columns");
  barrier(topology);
}

/// Sums are those of the ranks in their order to the last bit, on every rank, in one part and in shares.
void ordered_sums(Mpi& topology) {
  for (const std::int64_t size : {10, 100'000})
    for (const auto dtype : {at::kFloat, at::kBFloat16}) {
      const auto brought_by = [&](int rank) {
        return cases::Draw(static_cast<std::uint64_t>(rank)).tensor({size}, at::kFloat).mul(1e3).to(dtype);
      };
      auto expected = brought_by(0);
      for (int rank = 1; rank < topology.world_size(); ++rank) expected = expected.add(brought_by(rank));
      const auto mine = brought_by(topology.rank());
      expect(at::equal(all_reduce(topology, mine).wait(), expected), "all_reduce in rank order");
      Counts counts(static_cast<std::size_t>(topology.world_size()));
      counts.back() = size;
      const auto part = reduce_scatter_v(topology, mine, counts).wait();
      expect(part.numel() == counts[static_cast<std::size_t>(topology.rank())], "rows of reduce_scatter_v");
      if (part.numel() > 0) expect(at::equal(part, expected), "reduce_scatter_v in rank order");
    }
}

/// Handles are waited for in any order, another one on each rank, and once.
void handles(Mpi& topology) {
  const int rank = topology.rank(), ranks = topology.world_size();
  const auto total = [&](double each) { return at::full({50'000}, each * ranks * (ranks + 1) / 2, at::kDouble); };
  for (int round = 0; round < 20; ++round) {
    auto first = all_reduce(topology, at::full({50'000}, rank + 1., at::kDouble));
    auto second = all_gather_v(topology, at::full({rank}, 2, at::kLong));
    auto third = all_reduce(topology, at::full({50'000}, 2. * (rank + 1), at::kDouble));
    auto fourth = broadcast(topology, at::full({3}, rank), ranks - 1);
    if (rank % 2 == 0) expect(at::equal(first.wait(), total(1)) && at::equal(third.wait(), total(2)), "in order");
    expect(at::equal(fourth.wait(), at::full({3}, ranks - 1)) && second.wait().back().numel() == ranks - 1, "the others");
    if (rank % 2 == 1) expect(at::equal(third.wait(), total(2)) && at::equal(first.wait(), total(1)), "in another order");
  }
  auto twice = all_reduce(topology, at::zeros({1}));
  twice.wait();
  std::string said;
  try {
    twice.wait();
  } catch (const Error& error) {
    said = error.what();
  }
  expect(said == "a handle of all_reduce is waited for twice", said);
  try {
    all_to_all_v(topology, at::zeros({3}), Counts(static_cast<std::size_t>(ranks), 2), Counts(static_cast<std::size_t>(ranks), 2));
  } catch (const ShapeError& error) {
    said = error.what();
  }
  expect(said == concat("all_to_all_v: counts for ", 2 * ranks, " rows, and a tensor of [3]"), said);
  try {
    broadcast(topology, at::zeros({3}), ranks);
  } catch (const CommunicationError& error) {
    said = error.what();
  }
  expect(said.starts_with(concat("rank ", rank, ", step 0, broadcast number ")), said);
  expect(contains(said, ": mpi: ") && contains(said, "nvalid root"), said);

  cases::Draw shared(9), own(static_cast<std::uint64_t>(rank) + 100);
  double sum = 0;
  for (int i = 0; i < 200; ++i) {
    const auto kind = shared.integer(0, 3);
    at::Tensor got = at::zeros({1}, at::kDouble);
    if (kind == 0) got = all_reduce(topology, own.tensor({3})).wait();
    else if (kind == 1) got = at::cat(all_gather_v(topology, own.tensor({own.integer(0, 5)})).wait());
    else if (kind == 2) got = broadcast(topology, own.tensor({2}), static_cast<int>(shared.integer(0, ranks - 1))).wait();
    else barrier(topology);
    sum += got.sum().item<double>();
  }
  const auto sums = all_gather_v(topology, at::full({1}, sum, at::kDouble)).wait();
  for (const auto& one : sums) expect(at::equal(one, sums[0]), "two hundred collectives");
}

int verbs() {
  return on_mpi([](Mpi& topology) {
    all_verbs(topology);
    ordered_sums(topology);
    handles(topology);
    detail::mpi_plain_bytes = 48;                            // as if an int held no more than that
    all_verbs(topology);
    ordered_sums(topology);
  });
}

/// The law on random plans; rank 0 knows what is wrong.
int equivalence() {
  return on_mpi([](Mpi& topology) {
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
      const auto wrong = cases::check_equivalence_on(topology, cases::draw_trial(seed, topology.world_size()));
      expect(topology.rank() > 0 || wrong.empty(), wrong);
    }
  });
}

/// Steps with 4 MB messages; at step 10 rank 1 goes wrong in the way that ROOKERY_TEST_FAULT says.
int faulty_rank() {
  return on_mpi([](Mpi& topology) {
    const auto fault = variable("ROOKERY_TEST_FAULT");
    const Counts counts(static_cast<std::size_t>(topology.world_size()), 1 << 20);
    for (std::int64_t step = 0; step < 20; ++step) {
      topology.at_step(step);
      if (step == 10 && topology.rank() == 1) {
        if (fault == "kill") std::raise(SIGKILL);
        if (fault == "throw") fail<ShapeError>("a bad batch");
        if (fault == "return") return;
        if (fault == "stop") std::raise(SIGSTOP);
        if (fault == "abort") topology.abort("rank 1, step 10: out of coffee");
        if (fault == "another") all_reduce(topology, at::zeros({3})).wait();
        if (fault == "terminate") std::raise(SIGTERM), std::fputs("last words\n", stderr), std::this_thread::sleep_for(60s);
        if (fault == "abort") std::this_thread::sleep_for(60s);
      }
      all_to_all_v(topology, at::zeros({topology.world_size() * (1 << 20)}), counts, counts).wait();
    }
  });
}
/// Rank 1 comes late: to the start or to the end, as ROOKERY_TEST_LATE says.
int late_rank() {
  const auto late = variable("ROOKERY_TEST_LATE");
  if (late == "start" && ProcessEnvironment::read(false).rank == 1) {
    detail::MpiLibrary::get();                               // MPI's own start waits for all
    std::this_thread::sleep_for(60s);
  }
  return on_mpi([&](Mpi& topology) {
    barrier(topology);
    if (topology.rank() == 1) std::this_thread::sleep_for(60s);
  });
}
[[maybe_unused]] const bool listed = cases::roles().emplace("mpi_late_rank", &late_rank).second &&
                                     cases::roles().emplace("mpi_verbs", &verbs).second &&
                                     cases::roles().emplace("mpi_equivalence", &equivalence).second &&
                                     cases::roles().emplace("mpi_faulty_rank", &faulty_rank).second;

cases::EndedProcesses with_fault(const std::string& fault, const std::string& environment = "") {
  return mpirun("mpi_faulty_rank", 3, concat("ROOKERY_TEST_FAULT=", fault, " ", environment));
}
/// Whether ranks 0 and 2 each have a line that says where they are and why they end.
bool others_say(const cases::EndedProcesses& ended, const std::string& cause) {
  return contains(ended.said, concat("rank 0, step 10, all_to_all_v number 10: ", cause, "\n")) &&
         contains(ended.said, concat("rank 2, step 10, all_to_all_v number 10: ", cause, "\n"));
}

}  // namespace

TEST_SUITE("topology/mpi") {
  TEST_CASE("one process is a group of one") {
    const auto ended = mpirun("mpi_verbs", 1, "ROOKERY_TOPOLOGY=mpi");
    CHECK(ended.said == "");
    CHECK(ended.status == 0);
  }
  TEST_CASE("every verb under mpirun, sums in rank order, and messages beyond what an int counts") {
    for (const int ranks : {2, 3}) {
      const auto ended = mpirun("mpi_verbs", ranks, ranks == 3 ? "ROOKERY_CHECK=communicating" : "");
      CHECK(ended.said == "");
      CHECK(ended.status == 0);
    }
  }
  TEST_CASE("sharded equals local: random models under random plans on 2 and 3 ranks") {
    for (const int ranks : {2, 3}) {
      const auto ended = mpirun("mpi_equivalence", ranks);
      CHECK(ended.said == "");
      CHECK(ended.status == 0);
    }
  }
  TEST_CASE("F1 a killed rank ends the others within seconds, which say so before mpirun ends them") {
    const auto ended = with_fault("kill");
    CHECK(ended.status != 0);
    CHECK(ended.seconds < 30);
    CHECK(others_say(ended, "rank 1 ended without a word"));
  }
  TEST_CASE("a rank that mpirun ends has a second for its last words") {
    const auto ended = with_fault("terminate");
    CHECK(ended.status != 0);
    CHECK(ended.seconds < 30);
    CHECK(contains(ended.said, "last words\n"));
    CHECK(others_say(ended, "rank 1 ended without a word"));
  }
  TEST_CASE("F2 a stopped rank ends the others at their deadline") {
    const auto ended = with_fault("stop", "ROOKERY_TIMEOUT=2");
    CHECK(ended.status != 0);
    CHECK(ended.seconds < 30);
    CHECK(contains(ended.said, "all_to_all_v number 10: waited 2000 ms for rank 1, which does not answer\n"));
  }
  TEST_CASE("F3 a rank that throws or aborts: the first cause is what all ranks say, and what the error file holds") {
    const auto file = (std::filesystem::temp_directory_path() / concat("rookery_mpi_error_", ::getpid())).string();
    const auto ended = with_fault("throw", concat("TORCHELASTIC_ERROR_FILE='", file, "'"));
    CHECK(ended.status == 1);
    CHECK(ended.seconds < 30);
    CHECK(contains(ended.said, "rank 1, step 10, after all_to_all_v number 9: a bad batch\n"));
    CHECK(others_say(ended, "rank 1, step 10, after all_to_all_v number 9: a bad batch"));
    std::ifstream text(file);
    CHECK(contains(std::string(std::istreambuf_iterator<char>(text), {}), "rank 1, step 10, after all_to_all_v number 9: a bad batch"));
    std::filesystem::remove(file);
    const auto aborted = with_fault("abort");
    CHECK(others_say(aborted, "rank 1, step 10: out of coffee"));
  }
  TEST_CASE("F4 a rank that returns before the others is a failure") {
    const auto ended = with_fault("return");
    CHECK(ended.status != 0);
    CHECK(ended.seconds < 30);
    CHECK(others_say(ended, "rank 1 returned before it; did every rank see the same number of batches?"));
  }
  TEST_CASE("F2 a rank that does not come to the start or to the end: the others say so at their deadline, and end") {
    const auto started = mpirun("mpi_late_rank", 3, "ROOKERY_TEST_LATE=start ROOKERY_TIMEOUT=3");
    INFO(started.said);
    CHECK(started.status != 0);
    CHECK(started.seconds < 30);
    CHECK(contains(started.said, " of 3 did not join the group: waited 3000 ms for the other ranks\n"));
    const auto ended = mpirun("mpi_late_rank", 3, "ROOKERY_TEST_LATE=end ROOKERY_TIMEOUT=3");
    INFO(ended.said);
    CHECK(ended.status != 0);
    CHECK(ended.seconds < 30);
    CHECK(contains(ended.said, ", step 0, after barrier number 0: waited 3000 ms for rank 1 to end too\n"));
  }
  TEST_CASE("F12 in the check level communicating, ranks in different collectives all say which") {
    const auto ended = with_fault("another", "ROOKERY_CHECK=communicating");
    CHECK(ended.status == 1);
    for (const int rank : {0, 1, 2})
      CHECK(contains(ended.said, concat("rank ", rank, ", step 10: collective number 10 is all_to_all_v of Float [*] on rank 0 but "
                                        "all_reduce sum of Float [3] on rank 1; did every rank see the same number of batches?\n")));
  }
}

}  // namespace rookery
