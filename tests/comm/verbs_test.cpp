// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/comm/agree.hpp>
#include <rookery/comm/all_gather_v.hpp>
#include <rookery/comm/all_reduce.hpp>
#include <rookery/comm/all_to_all_v.hpp>
#include <rookery/comm/barrier.hpp>
#include <rookery/comm/broadcast.hpp>
#include <rookery/comm/reduce_scatter_v.hpp>

#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "support/random_batches.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

/// Runs `fn(topology)` on 1 to 4 ranks; `fn` says whether all is well there.
template <class Fn> void on_ranks(Fn&& fn) {
  for (int ranks = 1; ranks <= 4; ++ranks) {
    std::atomic<int> good = 0;
    Threads::run(ranks, [&](Threads topology) { good += fn(topology); });
    CAPTURE(ranks);
    CHECK(good == ranks);
  }
}
at::Tensor of(std::initializer_list<double> values) { return at::tensor(std::vector<double>(values), at::kDouble); }

}  // namespace

TEST_SUITE("comm/all_to_all_v") {
  TEST_CASE("rank r sends r + 2 s rows to rank s, in rank order; nothing else moves") {
    on_ranks([](Threads& topology) {
      const int rank = topology.rank(), ranks = topology.world_size();
      Counts send_counts, recv_counts;
      std::vector<at::Tensor> send, expected;
      for (int peer = 0; peer < ranks; ++peer) {
        send_counts.push_back(rank + 2 * peer);
        recv_counts.push_back(peer + 2 * rank);
        send.push_back(at::full({rank + 2 * peer, 3}, 10.0 * rank + peer));
        expected.push_back(at::full({peer + 2 * rank, 3}, 10.0 * peer + rank));
      }
      const auto sent = at::cat(send);
      const auto received = all_to_all_v(topology, sent, send_counts, recv_counts).wait();
      return at::equal(received, at::cat(expected)) && at::equal(sent, at::cat(send));
    });
  }
  TEST_CASE("no rows at all is fine, on some ranks and on all") {
    on_ranks([](Threads& topology) {
      const auto ranks = static_cast<std::size_t>(topology.world_size());
      const auto none = all_to_all_v(topology, at::zeros({0}), Counts(ranks), Counts(ranks)).wait();
      Counts from_first(ranks), to_all(ranks, topology.rank() == 0 ? 2 : 0);
      from_first[0] = 2;
      const auto some =
          all_to_all_v(topology, at::arange(topology.rank() == 0 ? 2 * static_cast<std::int64_t>(ranks) : 0), to_all, from_first).wait();
      return none.numel() == 0 && at::equal(some, at::arange(2).add(2 * topology.rank()));
    });
  }
  TEST_CASE("ranks that disagree about who sends how much end with the numbers") {
    std::string said;
    try {
      Threads::run(2, [](Threads topology) {
        const Counts one{1, 1}, wrong{1, 2};
        all_to_all_v(topology, at::zeros({2}), one, topology.rank() == 0 ? wrong : one).wait();
      });
    } catch (const CommunicationError& error) {
      said = error.what();
    }
    CHECK(said.ends_with("after all_to_all_v number 0: collective number 0 is all_to_all_v of Float [*]: rank 1 sends 1 rows to rank 0, which "
                         "expects 2"));
  }
  TEST_CASE("on one process it is the tensor itself") {
    Local local;
    const auto x = at::arange(5);
    CHECK(all_to_all_v(local, x, {5}, {5}).wait().is_same(x));
  }
}

TEST_SUITE("comm/all_reduce") {
  TEST_CASE("sum, maximum and minimum; the argument stays as it was") {
    on_ranks([](Threads& topology) {
      const double rank = topology.rank(), ranks = topology.world_size();
      const auto mine = of({rank, -rank, 1});
      const auto sum = all_reduce(topology, mine).wait();
      const auto largest = all_reduce(topology, mine, ReduceOp::max).wait();
      const auto least = all_reduce(topology, mine, ReduceOp::min).wait();
      const double total = ranks * (ranks - 1) / 2;
      return at::equal(sum, of({total, -total, ranks})) && at::equal(largest, of({ranks - 1, 0, 1})) &&
             at::equal(least, of({0, 1 - ranks, 1})) && at::equal(mine, of({rank, -rank, 1}));
    });
  }
  TEST_CASE("the sum is bit-equal on all ranks and from run to run: it is taken in rank order") {
    std::vector<at::Tensor> results(12);
    for (int run = 0; run < 3; ++run)
      Threads::run(4, [&](Threads topology) {
        cases::Draw draw(static_cast<std::uint64_t>(topology.rank()));
        results[static_cast<std::size_t>(4 * run + topology.rank())] =
            all_reduce(topology, draw.tensor({1000}, at::kFloat).mul(1e3)).wait();
      });
    for (const auto& result : results) CHECK(at::equal(result, results[0]));
    auto in_order = cases::Draw(0).tensor({1000}, at::kFloat).mul(1e3);
    for (std::uint64_t rank = 1; rank < 4; ++rank) in_order = in_order.add(cases::Draw(rank).tensor({1000}, at::kFloat).mul(1e3));
    CHECK(at::equal(results[0], in_order));
  }
  TEST_CASE("shapes, dtypes or operations that differ between ranks end all of them") {
    const auto run = [](auto tensor_of, ReduceOp op = ReduceOp::sum) {
      Threads::run(
          2, [&](Threads topology) { all_reduce(topology, tensor_of(topology.rank()), topology.rank() == 0 ? op : ReduceOp::sum).wait(); });
    };
    CHECK_THROWS_AS(run([](int rank) { return at::zeros({2 + rank}); }), CommunicationError);
    CHECK_THROWS_AS(run([](int rank) { return at::zeros({2}, rank == 0 ? at::kFloat : at::kDouble); }), CommunicationError);
    CHECK_THROWS_AS(run([](int) { return at::zeros({2}); }, ReduceOp::max), CommunicationError);
  }
  TEST_CASE("on one process it is the tensor itself") {
    Local local;
    const auto x = at::arange(5);
    CHECK(all_reduce(local, x).wait().is_same(x));
    CHECK(all_reduce(local, x, ReduceOp::min).wait().is_same(x));
  }
}

TEST_SUITE("comm/reduce_scatter_v") {
  TEST_CASE("rank r gets r + 1 rows of the sum") {
    on_ranks([](Threads& topology) {
      const std::int64_t rank = topology.rank(), ranks = topology.world_size();
      Counts counts;
      std::int64_t rows = 0;
      for (std::int64_t peer = 0; peer < ranks; ++peer) rows += counts.emplace_back(peer + 1);
      const auto whole = at::arange(2 * rows, at::kDouble).view({rows, 2});
      const auto mine = reduce_scatter_v(topology, whole.add(rank), counts).wait();
      const auto sum = whole.mul(ranks).add(ranks * (ranks - 1) / 2);
      return at::equal(mine, sum.narrow(0, rank * (rank + 1) / 2, rank + 1));
    });
  }
  TEST_CASE("a rank may get nothing") {
    on_ranks([](Threads& topology) {
      Counts counts(static_cast<std::size_t>(topology.world_size()));
      counts.back() = 3;
      const auto mine = reduce_scatter_v(topology, at::ones({3}), counts).wait();
      return topology.rank() + 1 < topology.world_size() ? mine.numel() == 0 : at::equal(mine, at::ones({3}).mul(topology.world_size()));
    });
  }
  TEST_CASE("on one process it is the tensor itself") {
    Local local;
    const auto x = at::arange(5);
    CHECK(reduce_scatter_v(local, x, {5}).wait().is_same(x));
  }
}

TEST_SUITE("comm/agree") {
  TEST_CASE("ranks that say the same go on; the first line that differs ends all, an absent one too") {
    Threads::run(3, [](Threads topology) {
      agree(topology, "Test", "a\nb");
      agree(topology, "Test", "");
      const bool odd = topology.rank() == 2;
      CHECK_THROWS_WITH_AS(agree(topology, "Test", odd ? "a\nc\nd" : "a\nb\nd"),
                           "Test: ranks differ: rank 0 has 'b' and rank 2 has 'c'", ConfigError);
      CHECK_THROWS_WITH_AS(agree(topology, "Test", odd ? "a" : "a\nb"), "Test: ranks differ: rank 0 has 'b' and rank 2 has ''",
                           ConfigError);
      const auto clauses = [&](const char* first, const char* other, const char* said) {
        CHECK_THROWS_WITH_AS(agree(topology, "Test", odd ? other : first), concat("Test: ranks differ: ", said).c_str(), ConfigError);
      };
      clauses("t: a; b; c", "t: a; d; e", "rank 0 has 't: b' and rank 2 has 't: d'");
      clauses("t: a; b", "t: a; b; c", "rank 0 has 't: ' and rank 2 has 't: c'");
      clauses("t: a; b", "t: a; b; ", "rank 0 has 't: b' and rank 2 has 't: b'");
      clauses("t: a; b", "u: a; b", "rank 0 has 't: a' and rank 2 has 'u: a'");
      clauses("a; t: b", "a; t: c", "rank 0 has 'a; t: b' and rank 2 has 'a; t: c'");
    });
    Local local;
    agree(local, "Test", "a");
  }
}

TEST_SUITE("comm/all_gather_v") {
  TEST_CASE("tensors of all ranks in rank order, of different sizes, as copies") {
    on_ranks([](Threads& topology) {
      const auto mine = at::full({topology.rank(), 2}, topology.rank() + .5);
      const auto all = all_gather_v(topology, mine).wait();
      bool good = static_cast<int>(all.size()) == topology.world_size();
      for (int rank = 0; rank < topology.world_size(); ++rank)
        good = good && at::equal(all[static_cast<std::size_t>(rank)], at::full({rank, 2}, rank + .5));
      all.back().zero_();
      barrier(topology);
      return good && at::equal(mine, at::full({topology.rank(), 2}, topology.rank() + .5));
    });
  }
  TEST_CASE("on one process it is a list of one") {
    Local local;
    const auto x = at::arange(5);
    const auto all = all_gather_v(local, x).wait();
    REQUIRE(all.size() == 1);
    CHECK(all[0].is_same(x));
  }
}

TEST_SUITE("comm/broadcast") {
  TEST_CASE("every rank gets the tensor of any root, as a copy") {
    on_ranks([](Threads& topology) {
      bool good = true;
      for (int root = 0; root < topology.world_size(); ++root) {
        const auto mine = at::full({3}, topology.rank());
        const auto got = broadcast(topology, mine, root).wait();
        good = good && at::equal(got, at::full({3}, root));
        got.fill_(-1);
        barrier(topology);
        good = good && at::equal(mine, at::full({3}, topology.rank()));
      }
      return good;
    });
  }
  TEST_CASE("ranks that disagree about the root end") {
    CHECK_THROWS_AS(Threads::run(2, [](Threads topology) { broadcast(topology, at::zeros({1}), topology.rank()).wait(); }),
                    CommunicationError);
  }
  TEST_CASE("on one process it is the tensor itself") {
    Local local;
    const auto x = at::arange(5);
    CHECK(broadcast(local, x).wait().is_same(x));
  }
}

TEST_SUITE("comm/barrier") {
  TEST_CASE("no rank goes on before all have come") {
    std::atomic<int> before = 0;
    on_ranks([&](Threads& topology) {
      bool good = true;
      for (int round = 0; round < 20; ++round) {
        ++before;
        barrier(topology);
        good = good && before % topology.world_size() == 0;
        barrier(topology);
      }
      return good;
    });
    Local local;
    barrier(local);
  }
  TEST_CASE("handles may be waited for later and in another order than they were posted") {
    on_ranks([](Threads& topology) {
      const double rank = topology.rank(), ranks = topology.world_size();
      auto first = all_reduce(topology, of({rank}));
      auto second = all_gather_v(topology, of({2 * rank}));
      auto third = all_reduce(topology, of({1}), ReduceOp::max);
      const bool good = at::equal(third.wait(), of({1})) && second.wait().size() == static_cast<std::size_t>(ranks) &&
                        at::equal(first.wait(), of({ranks * (ranks - 1) / 2}));
      return good;
    });
  }
  TEST_CASE("a handle is waited for once") {
    CHECK_THROWS_AS(Threads::run(2,
                                 [](Threads topology) {
                                   auto handle = all_reduce(topology, at::zeros({1}));
                                   handle.wait();
                                   handle.wait();
                                 }),
                    Error);
  }
  TEST_CASE("a thousand random collectives in a row give every rank what it should") {
    std::vector<std::vector<double>> sums(4);
    Threads::run(4, [&](Threads topology) {
      cases::Draw shared(9), own(static_cast<std::uint64_t>(topology.rank()) + 100);
      auto& mine = sums[static_cast<std::size_t>(topology.rank())];
      for (int i = 0; i < 1000; ++i) {
        const auto x = own.tensor({own.integer(0, 5)});
        switch (shared.integer(0, 3)) {
          case 0:
            mine.push_back(all_reduce(topology, own.tensor({3})).wait().sum().item<double>());
            break;
          case 1:
            mine.push_back(at::cat(all_gather_v(topology, x).wait()).sum().item<double>());
            break;
          case 2:
            mine.push_back(broadcast(topology, own.tensor({2}), static_cast<int>(shared.integer(0, 3))).wait().sum().item<double>());
            break;
          default:
            barrier(topology);
        }
      }
    });
    CHECK(sums[0].size() > 500);
    for (const auto& one : sums) CHECK(one == sums[0]);
  }
}

}  // namespace rookery
