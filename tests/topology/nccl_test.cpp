// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/topology/basic_nccl.hpp>
#include <rookery/topology/nccl_communicator.hpp>

#include <rookery/comm/all_gather_v.hpp>
#include <rookery/comm/all_reduce.hpp>
#include <rookery/comm/all_to_all_v.hpp>
#include <rookery/comm/barrier.hpp>
#include <rookery/comm/broadcast.hpp>
#include <rookery/comm/reduce_scatter_v.hpp>
#include <rookery/core/clock.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "support/equivalence.hpp"
#include "support/fake_nccl.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

using namespace std::chrono_literals;
using cases::FakeNcclScript;
using cases::on_fake_devices;
using Fake = BasicNccl<cases::FakeNccl>;

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
ProcessEnvironment with_timeout(std::chrono::milliseconds timeout) { return {.timeout = timeout}; }
void expect(bool holds, std::string_view what) { check<Error>(holds, what); }

/// Rank r has r times p rows for rank p.
Counts rows_for_all(int rank, int ranks) {
  Counts rows;
  for (int peer = 0; peer < ranks; ++peer) rows.push_back(rank * peer);
  return rows;
}
void all_verbs(Fake& topology, at::ScalarType dtype) {
  const int rank = topology.rank(), ranks = topology.world_size();
  const auto rows = rows_for_all(rank, ranks);
  std::vector<at::Tensor> send, expected;
  for (int peer = 0; peer < ranks; ++peer) {
    send.push_back(at::full({rank * peer, 3}, 10 * rank + peer, dtype));
    expected.push_back(at::full({rank * peer, 3}, 10 * peer + rank, dtype));
  }
  expect(at::equal(all_to_all_v(topology, at::cat(send), rows, rows).wait(), at::cat(expected)), "all_to_all_v");
  const auto mine = at::full({7, 1}, rank + 1, dtype);
  expect(at::equal(all_reduce(topology, mine).wait(), at::full({7, 1}, ranks * (ranks + 1) / 2, dtype)), "all_reduce sum");
  expect(at::equal(all_reduce(topology, mine, ReduceOp::max).wait(), at::full({7, 1}, ranks, dtype)), "all_reduce max");
  expect(at::equal(all_reduce(topology, mine, ReduceOp::min).wait(), at::full({7, 1}, 1, dtype)), "all_reduce min");
  expect(at::equal(mine, at::full({7, 1}, rank + 1, dtype)), "the argument of all_reduce");
  for (const bool even : {false, true}) {
    const auto gathered = all_gather_v(topology, at::full({even ? 2 : rank, 2}, rank, dtype)).wait();
    expect(gathered.size() == static_cast<std::size_t>(ranks), "all_gather_v");
    for (int peer = 0; peer < ranks; ++peer)
      expect(at::equal(gathered[static_cast<std::size_t>(peer)], at::full({even ? 2 : peer, 2}, peer, dtype)), "all_gather_v of a rank");
    Counts scattered;
    for (int peer = 0; peer < ranks; ++peer) scattered.push_back(even ? 3 : peer);
    const auto all = at::arange(detail::sum_of(scattered), at::kLong);                       // [sum(scattered)]
    const auto own = detail::rows_of_ranks(all, scattered)[static_cast<std::size_t>(rank)];  // [scattered[rank]]
    expect(at::equal(reduce_scatter_v(topology, all.to(dtype), scattered).wait(), own.mul(ranks).to(dtype)), "reduce_scatter_v");
  }
  expect(at::equal(broadcast(topology, at::full({5}, rank, dtype), ranks - 1).wait(), at::full({5}, ranks - 1, dtype)), "broadcast");
}

/// Tensors without content, of one number, and not contiguous; several under way at once, which are waited for in another order.
void odd_tensors(Fake& topology) {
  const int ranks = topology.world_size();
  const Counts none(static_cast<std::size_t>(ranks)), two(static_cast<std::size_t>(ranks), 2);
  expect(all_to_all_v(topology, at::zeros({0}, at::kByte), none, none).wait().numel() == 0, "nothing at all");
  expect(all_reduce(topology, at::full({}, 1, at::kLong)).wait().item<std::int64_t>() == ranks, "a scalar");
  expect(all_reduce(topology, at::zeros({0, 4})).wait().sizes() == at::IntArrayRef({0, 4}), "a sum of nothing");
  expect(all_gather_v(topology, at::zeros({0, 4})).wait().back().sizes() == at::IntArrayRef({0, 4}), "rows of nobody");
  expect(reduce_scatter_v(topology, at::zeros({0, 4}), none).wait().sizes() == at::IntArrayRef({0, 4}), "a share of nothing");
  expect(broadcast(topology, at::zeros({0}), 0).wait().numel() == 0, "nothing from the first");
  const auto transposed = at::arange(6 * ranks).view({3, 2 * ranks}).t();                    // [2 W, 3], not contiguous
  const auto rows = transposed.narrow(0, 2 * topology.rank(), 2);
  auto exchanged = all_to_all_v(topology, transposed, two, two);
  auto sum = all_reduce(topology, at::ones({3}));
  auto told = broadcast(topology, at::full({2}, topology.rank(), at::kFloat), 0);
  expect(at::equal(told.wait(), at::zeros({2})), "the last of three");
  expect(at::equal(exchanged.wait(), at::cat(std::vector<at::Tensor>(two.size(), rows))), "the first of three");
  expect(at::equal(sum.wait(), at::full({3}, ranks, at::kFloat)), "the second of three");
  barrier(topology);
}

}  // namespace

TEST_SUITE("topology/nccl") {
  TEST_CASE("every verb on 1 to 8 ranks, with rows of unlike number and none, of every dtype") {
    for (int ranks = 1; ranks <= 8; ++ranks) {
      const auto thrown = on_fake_devices(ranks, [](Fake& topology) {
        for (const auto dtype : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt, at::kByte})
          all_verbs(topology, dtype);
        odd_tensors(topology);
        topology.leave();
      }, with_timeout(10s));
      for (const auto& one : thrown) REQUIRE(one == "");
    }
  }

  TEST_CASE("what arrives is there after wait() and not before, and what is sent stays until then") {
    const auto thrown = on_fake_devices(2, [](Fake& topology) {
      bool freed = false;
      std::vector<float> numbers{1, 2};
      const Counts one_each{1, 1};
      const auto note = [&](void*) { freed = true; };
      auto handle = all_to_all_v(topology, at::from_blob(numbers.data(), {2}, note, at::kFloat), one_each, one_each);
      auto sum = all_reduce(topology, at::ones({2}));
      expect(!freed, "held");
      const auto early = sum.one.index() == 1 ? std::get<1>(sum.one).finish() : at::ones({2});   // [2]
      expect(std::isnan(early[0].item<double>()), "poison");
      const auto arrived = handle.wait();
      expect(freed, "no longer held");
      expect(at::equal(arrived, at::full({2}, topology.rank() + 1, at::kFloat)), "all_to_all_v");
      expect(at::equal(sum.wait(), at::full({2}, 2, at::kFloat)), "all_reduce");
      expect(at::equal(early, at::full({2}, 2, at::kFloat)), "the same memory");
      std::string why;
      try {
        handle.wait();
      } catch (const Error& error) {
        why = error.what();
      }
      expect(why == "a handle of all_to_all_v is waited for twice", why);
      all_reduce(topology, at::ones({2}));                   // a handle that nobody waits for
      topology.leave();
    }, with_timeout(30s));
    for (const auto& one : thrown) CHECK(one == "");
  }
  TEST_CASE("a collective is one group after what the current stream has computed, equal splits are one call, and own rows are copied") {
    const auto script = std::make_shared<FakeNcclScript>();
    const auto calls_of = [&](int ranks, auto&& verb) {
      script->calls.clear();
      const auto thrown = on_fake_devices(ranks, [&](Fake& topology) {
        verb(topology);
        topology.leave();
      }, with_timeout(30s), script);
      for (const auto& one : thrown) CHECK(one == "");
      auto calls = script->calls;
      if (ranks > 1) std::sort(calls.begin(), calls.end());  // of ranks in any order
      return calls;
    };
    using Calls = std::vector<std::string>;
    const auto three = at::ones({3});                        // [3]
    CHECK(calls_of(1, [&](Fake& t) { all_to_all_v(t, three, {3}, {3}).wait(); }) ==
          Calls{"wait", "copy 12", "group_start", "group_end", "wait"});
    CHECK(calls_of(1, [&](Fake& t) { all_reduce(t, three).wait(); }) == Calls{"wait", "all_reduce 12", "wait"});
    CHECK(calls_of(2, [&](Fake& t) { all_to_all_v(t, three, {1, 2}, t.rank() == 0 ? Counts{1, 1} : Counts{2, 2}).wait(); }) ==
          Calls{"copy 4", "copy 8", "group_end", "group_end", "group_start", "group_start", "receive 4", "receive 8", "send 4", "send 8",
                "wait", "wait", "wait", "wait"});
    CHECK(calls_of(2, [&](Fake& t) { reduce_scatter_v(t, at::ones({6}), {3, 3}).wait(); }) ==
          Calls{"all_to_all 24", "all_to_all 24", "wait", "wait", "wait", "wait"});
    CHECK(calls_of(2, [&](Fake& t) { all_gather_v(t, three).wait(); }) ==
          Calls{"all_gather 24", "all_gather 24", "wait", "wait", "wait", "wait"});
    CHECK(calls_of(2, [&](Fake& t) { barrier(t); }) == Calls{});
    script->is_on_device = [](const at::Tensor& tensor) { return tensor.is_floating_point(); };
    const auto counts = at::ones({2}, at::kLong);            // [2], which go from host to host
    CHECK(calls_of(2, [&](Fake& t) { all_to_all_v(t, counts, {1, 1}, {1, 1}).wait(); }) == Calls{});
  }

  TEST_CASE("sharded equals local: random models under random plans on 1 to 8 ranks, whole numbers on the host and on the device") {
    for (std::uint64_t seed = 1; seed <= 16; ++seed) REQUIRE(cases::check_equivalence_on_fake_devices(seed, at::kDouble) == "");
  }

  TEST_CASE("a rank that fails, returns early or does not come ends the others with one line that says so") {
    const Stopwatch clock;
    auto thrown = on_fake_devices(3, [](Fake& topology) {
      topology.at_step(7);
      if (topology.rank() == 1) topology.abort("rank 1, step 7: out of coffee");
      else all_reduce(topology, at::zeros({1})).wait();
    }, with_timeout(30s));
    CHECK(thrown[1] == "");
    for (const std::size_t rank : {0, 2})
      CHECK(thrown[rank] == concat("rank ", rank, ", step 7, all_reduce number 0: rank 1, step 7: out of coffee"));

    thrown = on_fake_devices(3, [](Fake& topology) {
      if (topology.rank() != 1) all_reduce(topology, at::zeros({1})).wait();   // and rank 1 is no more
    }, with_timeout(30s));
    for (const std::size_t rank : {0, 2})
      CHECK(thrown[rank] == concat("rank ", rank, ", step 0, all_reduce number 0: rank 1 ended without a word"));

    thrown = on_fake_devices(2, [](Fake& topology) {
      if (topology.rank() == 0) all_reduce(topology, at::zeros({1})).wait();
      else topology.leave();
    }, with_timeout(5s));
    CHECK(thrown[0] == "rank 0, step 0, all_reduce number 0: rank 1 returned before it; did every rank see the same number of batches?");

    thrown = on_fake_devices(2, [](Fake& topology) {
      if (topology.rank() == 0) all_reduce(topology, at::zeros({1})).wait();
      else std::this_thread::sleep_for(6s);
    }, with_timeout(4s));
    CHECK(thrown[0] == "rank 0, step 0, all_reduce number 0: waited 4000 ms for rank 1, which has not come to it");
    CHECK(clock.seconds() < 25);                             // far below the thirty seconds of the first deadline
  }
  TEST_CASE("ranks that disagree about rows wait until the deadline and no longer, or are told before in the level communicating") {
    const auto disagree = [](Fake& topology) {
      all_to_all_v(topology, at::ones({2}), {1, 1}, topology.rank() == 1 ? Counts{2, 1} : Counts{1, 1}).wait();
    };
    auto thrown = on_fake_devices(2, disagree, with_timeout(2s));
    CHECK(std::any_of(thrown.begin(), thrown.end(), [](const auto& one) {
      return contains(one, "all_to_all_v number 0: waited 2000 ms for messages of the other ranks, which have come to a collective");
    }));
    thrown = on_fake_devices(2, disagree, {.timeout = 10min, .check_level = CheckLevel::communicating});
    for (const std::size_t rank : {0, 1})
      CHECK(thrown[rank] == concat("rank ", rank, ", step 0: collective number 0 is all_to_all_v of Float [*]: rank 0 sends 1 rows to rank"
                                   " 1, which expects 2"));
  }
  TEST_CASE("an error of NCCL that comes later ends the verb that waits, and all after it") {
    for (const bool late : {false, true}) {
      const auto script = std::make_shared<FakeNcclScript>();
      script->failing_launch = 1;
      script->fails_late = late;
      const auto thrown = on_fake_devices(1, [](Fake& topology) {
        all_reduce(topology, at::ones({1})).wait();
        std::string first, second;
        for (auto* why : {&first, &second})
          try {
            all_reduce(topology, at::ones({1})).wait();
          } catch (const CommunicationError& error) {
            *why = error.what();
          }
        expect(first == "rank 0, step 0, all_reduce number 1: nccl: internal error", first);
        expect(second == first, second);
        topology.leave();
      }, with_timeout(30s), script);
      CHECK(thrown[0] == "rank 0, step 0, all_reduce number 1: nccl: internal error");
    }
  }
  TEST_CASE("a library older than its header, or a rank without a GPU, ends the start of all") {
    const auto script = std::make_shared<FakeNcclScript>();
    script->library = 22703;
    auto thrown = on_fake_devices(1, [](Fake&) {}, with_timeout(30s), script);
    CHECK(thrown[0] == "nccl: rank 0 of 1 did not join the group: the NCCL that was loaded is 2.27.3 and the program was compiled with the"
                       " header of 2.28.9; it must not be older");
    script->library = 23007;
    script->devices = 1;
    thrown = on_fake_devices(2, [](Fake&) {}, with_timeout(30s), script);
    CHECK(thrown[1] == "nccl: rank 1 of 2 did not join the group: it has number 1 on its node, which has 1 GPUs");
    CHECK(thrown[0] == "nccl: rank 0 of 2 did not join the group: rank 1: it has number 1 on its node, which has 1 GPUs");
  }
}

}  // namespace rookery
