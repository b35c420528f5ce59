// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/topology/threads.hpp>

#include <rookery/comm/all_gather_v.hpp>
#include <rookery/comm/all_reduce.hpp>
#include <rookery/comm/all_to_all_v.hpp>
#include <rookery/comm/barrier.hpp>
#include <rookery/concepts/communicator.hpp>
#include <rookery/topology/local.hpp>

#include <ATen/Parallel.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <iterator>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "embedding/one_collection.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;
using std::chrono::milliseconds;

namespace {

static_assert(concepts::Communicator<Threads> && concepts::Topology<Local> && !concepts::Communicator<Local>);
static_assert(Threads::is_distributed && !Local::is_distributed);

/// What a run ended with: the type asked for and one line, or what went wrong.
template <class Kind, class Fn> std::string failure(int ranks, Fn&& fn, ThreadsOptions options = {}) {
  try {
    Threads::run(ranks, std::forward<Fn>(fn), options);
  } catch (const Kind& error) {
    const std::string text = error.what();
    return text.find('\n') == std::string::npos ? text : "more than one line: " + text;
  } catch (const std::exception& error) {
    return concat("another kind: ", error.what());
  }
  return "nothing was thrown";
}

std::ptrdiff_t threads_alive() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/task"), std::filesystem::directory_iterator());
}

}  // namespace

TEST_SUITE("topology/threads") {
  TEST_CASE("every rank runs once and knows the facts") {
    for (const int ranks : {1, 2, 5}) {
      std::vector<std::atomic<int>> ran(static_cast<std::size_t>(ranks));
      std::atomic<int> wrong = 0;
      Threads::run(ranks, [&](Threads topology) {
        ++ran[static_cast<std::size_t>(topology.rank())];
        wrong += topology.world_size() != ranks || !topology.device().is_cpu();
      });
      for (const auto& times : ran) CHECK(times == 1);
      CHECK(wrong == 0);
    }
    CHECK(Threads::name == "threads");
    CHECK_THROWS_WITH_AS(Threads::run(0, [](Threads) {}), "Threads: 0 ranks; at least one is needed", ConfigError);
  }
  TEST_CASE("LibTorch's threads are divided among the ranks, and given back") {
    const int before = at::get_num_threads();
    at::set_num_threads(4);
    std::atomic<int> two = 0, one = 0;
    Threads::run(2, [&](Threads) { two += at::get_num_threads() == 2; });
    Threads::run(8, [&](Threads) { one += at::get_num_threads() == 1; });
    CHECK(two == 2);
    CHECK(one == 8);
    CHECK(at::get_num_threads() == 4);
    at::set_num_threads(before);
  }
  TEST_CASE_TEMPLATE("a rank that throws ends all; the kind stays, and rank, step and last collective are in the one line", Kind,
                     ShapeError, IndexError, ConfigError, DataError, PlanError, NonFiniteError, CommunicationError, Error) {
    const auto text = failure<Kind>(3, [](Threads topology) {
      topology.at_step(4);
      barrier(topology);
      all_reduce(topology, at::ones({1})).wait();
      if (topology.rank() == 1) fail<Kind>("it broke at ", 7);
      barrier(topology);
    });
    CHECK(text == "rank 1, step 4, after all_reduce number 1: it broke at 7");
  }
  TEST_CASE("exceptions of others become an Error with their words") {
    CHECK(failure<Error>(2, [](Threads topology) {
            if (topology.rank() == 0) throw std::out_of_range("far out");
            barrier(topology);
          }) == "rank 0, step 0, before any collective: far out");
    const auto torch = failure<Error>(2, [](Threads topology) {
      if (topology.rank() == 0) at::zeros({2}).view({3});
      barrier(topology);
    });
    CHECK(torch.starts_with("rank 0, step 0, before any collective: shape '[3]' is invalid"));
    CHECK(failure<Error>(1, [](Threads) { throw std::runtime_error("first\nsecond"); }) == "rank 0, step 0, before any collective: first");
  }
  TEST_CASE("a rank that throws what is no exception ends all, too") {
    CHECK_THROWS(Threads::run(2, [](Threads topology) {
      if (topology.rank() == 0) throw 7;
      barrier(topology);
    }));
  }
  TEST_CASE("when all ranks throw, the first is reported") {
    const auto text = failure<DataError>(4, [](Threads topology) {
      std::this_thread::sleep_for(milliseconds(topology.rank() == 2 ? 0 : 200));
      fail<DataError>("from ", topology.rank());
    });
    CHECK(text == "rank 2, step 0, before any collective: from 2");
  }
  TEST_CASE("a rank that returns early is named, by the ranks that wait for it") {
    const auto text = failure<CommunicationError>(3, [](Threads topology) {
      barrier(topology);
      if (topology.rank() == 1) return;
      barrier(topology);
    });
    CHECK(text.find("rank 1 returned before barrier number 1, which rank ") != std::string::npos);
    CHECK(text.ends_with(" waits in; did every rank see the same number of batches?"));
  }
  TEST_CASE("a rank that returns after its last post leaves nobody waiting") {
    CHECK_NOTHROW(Threads::run(3, [](Threads topology) {
      auto handle = all_reduce(topology, at::ones({1}));
      if (topology.rank() == 1) return;
      handle.wait();
    }));
  }
  TEST_CASE("ranks that call different verbs are told which") {
    const auto text = failure<CommunicationError>(2, [](Threads topology) {
      barrier(topology);
      if (topology.rank() == 1)
        all_gather_v(topology, at::ones({1})).wait();
      else
        all_reduce(topology, at::ones({1})).wait();
    });
    const std::string hint = "; did every rank see the same number of batches?";
    CHECK(text.ends_with("collective number 1 is all_reduce sum of Float [1] on rank 0 but all_gather_v of Float [*] on rank 1" + hint));
    const auto shapes =
        failure<CommunicationError>(2, [](Threads topology) { all_reduce(topology, at::ones({topology.rank() + 1})).wait(); });
    CHECK(shapes.ends_with("collective number 0 is all_reduce sum of Float [1] on rank 0 but all_reduce sum of Float [2] on rank 1"));
    const auto counts = failure<CommunicationError>(2, [](Threads topology) {
      all_to_all_v(topology, at::ones({2}), {1, 1}, {1, 1 + topology.rank()}).wait();
    });
    CHECK(counts.ends_with("collective number 0 is all_to_all_v of Float [*]: rank 1 sends 1 rows to rank 1, which expects 2"));
  }
  TEST_CASE("a collective that all ranks came to gives its result, though one has failed since") {
    for (int round = 0; round < 50; ++round) {
      std::atomic<int> good = 0, stopped = 0;
      const auto text = failure<DataError>(3, [&](Threads topology) {
        auto sum = all_reduce(topology, at::ones({1}));
        auto met = topology.barrier();
        if (topology.rank() == 1) fail<DataError>("after the last post");
        met.wait();
        std::this_thread::sleep_for(milliseconds(round % 5));
        good += sum.wait().item<double>() == 3;
        try {
          barrier(topology);
        } catch (const CommunicationError&) {
          ++stopped;
          throw;
        }
      });
      CHECK(text == "rank 1, step 0, after barrier number 1: after the last post");
      CHECK(good == 2);
      CHECK(stopped == 2);
    }
  }
  TEST_CASE("a wait ends at its deadline and names who did not come") {
    const auto started = std::chrono::steady_clock::now();
    std::atomic<bool> released = false;
    const auto text =
        failure<CommunicationError>(3,
                                    [&](Threads topology) {
                                      if (topology.rank() == 2) {
                                        while (!released && std::chrono::steady_clock::now() - started < std::chrono::seconds(10))
                                          std::this_thread::sleep_for(milliseconds(1));
                                        return;
                                      }
                                      try {
                                        barrier(topology);
                                      } catch (...) {
                                        released = true;
                                        throw;
                                      }
                                    },
                                    {.timeout = milliseconds(100)});
    CHECK((text == "rank 0, step 0, after barrier number 0: barrier number 0 on rank 0 waited 100 ms for rank 2" ||
           text == "rank 1, step 0, after barrier number 0: barrier number 0 on rank 1 waited 100 ms for rank 2"));
    CHECK(std::chrono::steady_clock::now() - started < std::chrono::seconds(5));
  }
  TEST_CASE("abort ends every wait with its cause, though no rank throws") {
    const auto text = failure<CommunicationError>(3, [](Threads topology) {
      topology.at_step(9);
      barrier(topology);
      if (topology.rank() == 1) return topology.abort("the reader lost its file");
      barrier(topology);
    });
    CHECK(text == "rank 1, step 9, after barrier number 0: the reader lost its file");
  }
  TEST_CASE("a run that failed leaves nothing behind: the next one works, and no thread is left") {
    const auto before = threads_alive();
    for (int round = 0; round < 10; ++round) {
      CHECK_THROWS_AS(Threads::run(4,
                                   [&](Threads topology) {
                                     for (int i = 0; i < round; ++i) all_reduce(topology, at::ones({2})).wait();
                                     if (topology.rank() == round % 4) fail<DataError>("stop");
                                     barrier(topology);
                                   }),
                      DataError);
      std::atomic<int> good = 0;
      Threads::run(4, [&](Threads topology) { good += all_reduce(topology, at::ones({1})).wait().item<double>() == 4; });
      CHECK(good == 4);
    }
    for (int tries = 0; tries < 200 && threads_alive() > before; ++tries) std::this_thread::sleep_for(milliseconds(10));
    CHECK(threads_alive() <= before);
  }
  TEST_CASE("B1 C5 a bad id on rank 1 of a training loop ends all ranks with one line") {
    const Collection declared(
        {{.name = "t", .num_embeddings = 10, .embedding_dim = 3}, {.name = "u", .num_embeddings = 10, .embedding_dim = 2}});
    for (const int ranks : {2, 3, 4}) {
      std::atomic<int> steps = 0;
      const auto text = failure<IndexError>(ranks, [&](Threads topology) {
        auto model = maybe_shard_model(ModelAndLoss<OneCollection, SumOfOutputs, PooledBatch>{{declared}, {}}, topology);
        Optimizer step(model, Sgd{});
        for (int i = 0; i < 10; ++i) {
          const std::int64_t id = i == 6 && topology.rank() == 1 ? 10 : 9;
          auto [loss, pooled] = model(PooledBatch{features_of({"t", "u"}, {{1, 2}, {3}, {4}, {5, id}}), at::ones({2, 5})});
          loss.backward();
          step();
          ++steps;
        }
      });
      CHECK(text.starts_with("rank 1, step 7, after "));
      CHECK(text.ends_with("feature 'u' of table 'tables.embedding_bags.u': id 10 at position 1 of row 1; the table has 10 rows"));
      CHECK(steps <= 6 * ranks);
    }
  }
}

}  // namespace rookery
