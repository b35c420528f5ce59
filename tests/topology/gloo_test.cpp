// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/topology/gloo.hpp>

#include <rookery/comm/all_gather_v.hpp>
#include <rookery/comm/all_reduce.hpp>
#include <rookery/comm/all_to_all_v.hpp>
#include <rookery/comm/barrier.hpp>
#include <rookery/comm/broadcast.hpp>
#include <rookery/comm/reduce_scatter_v.hpp>
#include <rookery/core/clock.hpp>
#include <rookery/topology/calibrate.hpp>
#include <rookery/topology/error_file.hpp>
#include <rookery/topology/fingerprint.hpp>
#include <rookery/topology/liveness.hpp>
#include <rookery/topology/process_environment.hpp>
#include <rookery/topology/process_group.hpp>
#include <rookery/topology/rank_rows.hpp>
#include <rookery/topology/sockets.hpp>
#include <rookery/topology/store.hpp>
#include <rookery/topology/with_topology.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/equivalence.hpp"
#include "support/roles.hpp"
#include "support/run_processes.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

using namespace std::chrono_literals;

/// Runs `fn(topology)` on ranks that are threads here but know of each other by their sockets only. Gives what each threw.
template <class Fn>
std::vector<std::string> on_sockets(int ranks, Fn&& fn, std::chrono::milliseconds timeout = 30s, CheckLevel level = CheckLevel::always) {
  const int port = detail::listen_somewhere().second;
  std::vector<std::string> thrown(static_cast<std::size_t>(ranks));
  std::vector<std::jthread> running;
  for (int rank = 0; rank < ranks; ++rank)
    running.emplace_back([&, rank] {
      try {
        auto topology = Gloo::join({.rank = rank, .world_size = ranks, .local_world_size = ranks, .master_port = port, .timeout = timeout,
                                    .check_level = level});
        fn(topology);
      } catch (const std::exception& error) {
        thrown[static_cast<std::size_t>(rank)] = error.what();
      }
    });
  running.clear();
  return thrown;
}
bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// Steps of a rank of a launched program, of which rank 1 throws at step 10.
int throwing_rank() {
  try {
    return with_topology<Gloo>(Environment::read(), [](auto topology) {
      for (std::int64_t step = 0; step < 20; ++step) {
        topology.at_step(step);
        if (step == 10 && topology.rank() == 1) fail<ShapeError>("a bad batch");
        barrier(topology);
      }
      return 0;
    });
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
/// One collective of a rank of a launched program, for which rank 1 brings a longer tensor than the others.
int longer_rank() {
  try {
    return with_topology<Gloo>(Environment::read(), [](auto topology) {
      topology.at_step(3);
      const auto tensor = at::ones({topology.rank() == 1 ? 1001 : 1000});
      if (std::getenv("ROOKERY_TEST_BROADCAST")) broadcast(topology, tensor, 1).wait();
      else all_reduce(topology, tensor).wait();
      return 0;
    });
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
[[maybe_unused]] const bool listed = cases::roles().emplace("throwing_rank", &throwing_rank).second &&
                                     cases::roles().emplace("longer_rank", &longer_rank).second;

/// What a rank does that dies between meeting the others and connecting to them.
void dies_while_joining(const ProcessEnvironment& environment) {
  const auto store = detail::join_store(environment);
  const Liveness dying(environment.rank, environment.world_size, detail::meeting_in(store, environment), 30s, [] {});
  std::this_thread::sleep_for(200ms);
}

/// A collective and how its fingerprint reads; `verb` numbers verbs and dtypes.
struct Call {
  int verb;
  std::string said;
  std::function<void(Gloo&)> make;
};
/// Every verb, and each again with one thing changed.
std::vector<Call> calls() {
  const auto two = at::ones({2});                                                            // [2]
  const auto wide = at::ones({2, 3});                                                        // [2, 3]
  const auto whole = at::ones({2}, at::kLong);                                               // [2]
  const Counts one_each{1, 1}, all_to_first{2, 0};
  return {{0, "all_to_all_v of Float [*]", [=](Gloo& t) { all_to_all_v(t, two, one_each, one_each).wait(); }},
          {0, "all_to_all_v of Float [*, 3]", [=](Gloo& t) { all_to_all_v(t, wide, one_each, one_each).wait(); }},
          {1, "all_reduce sum of Float [2]", [=](Gloo& t) { all_reduce(t, two).wait(); }},
          {1, "all_reduce max of Float [2]", [=](Gloo& t) { all_reduce(t, two, ReduceOp::max).wait(); }},
          {2, "all_reduce sum of Long [2]", [=](Gloo& t) { all_reduce(t, whole).wait(); }},
          {1, "all_reduce sum of Float [2, 3]", [=](Gloo& t) { all_reduce(t, wide).wait(); }},
          {3, "reduce_scatter_v [1, 1] of Float [2]", [=](Gloo& t) { reduce_scatter_v(t, two, one_each).wait(); }},
          {3, "reduce_scatter_v [2, 0] of Float [2]", [=](Gloo& t) { reduce_scatter_v(t, two, all_to_first).wait(); }},
          {4, "all_gather_v of Float [*]", [=](Gloo& t) { all_gather_v(t, two).wait(); }},
          {5, "all_gather_v of Long [*]", [=](Gloo& t) { all_gather_v(t, whole).wait(); }},
          {6, "broadcast from rank 0 of Float [2]", [=](Gloo& t) { broadcast(t, two, 0).wait(); }},
          {6, "broadcast from rank 1 of Float [2]", [=](Gloo& t) { broadcast(t, two, 1).wait(); }},
          {7, "barrier", [](Gloo& t) { barrier(t); }}};
}

}  // namespace

TEST_SUITE("topology/gloo") {
  TEST_CASE("every verb on 1 to 4 ranks, with rows of unlike number and none") {
    for (int ranks = 1; ranks <= 4; ++ranks) {
      std::atomic<int> good = 0;
      const auto thrown = on_sockets(ranks, [&](Gloo& topology) {
        const int rank = topology.rank();
        Counts send_counts, recv_counts, scattered;
        std::vector<at::Tensor> send, expected;
        for (int peer = 0; peer < ranks; ++peer) {
          send_counts.push_back(rank * peer);
          recv_counts.push_back(peer * rank);
          scattered.push_back(peer);
          send.push_back(at::full({rank * peer, 3}, 10.0 * rank + peer, at::kDouble));
          expected.push_back(at::full({peer * rank, 3}, 10.0 * peer + rank, at::kDouble));
        }
        good += at::equal(all_to_all_v(topology, at::cat(send), send_counts, recv_counts).wait(), at::cat(expected));
        const auto mine = at::full({2}, rank, at::kLong);
        good += all_reduce(topology, mine).wait()[0].item<std::int64_t>() == ranks * (ranks - 1) / 2;
        good += all_reduce(topology, mine, ReduceOp::max).wait()[0].item<std::int64_t>() == ranks - 1;
        good += all_reduce(topology, mine, ReduceOp::min).wait()[0].item<std::int64_t>() == 0;
        good += mine[0].item<std::int64_t>() == rank;
        const auto gathered = all_gather_v(topology, at::full({rank, 2}, rank, at::kFloat)).wait();
        for (int peer = 0; peer < ranks; ++peer)
          good += at::equal(gathered[static_cast<std::size_t>(peer)], at::full({peer, 2}, peer, at::kFloat));
        const auto part = reduce_scatter_v(topology, at::arange(ranks * (ranks - 1) / 2, at::kDouble), scattered).wait();
        good += at::equal(part, at::arange(rank * (rank - 1) / 2, rank * (rank + 1) / 2, at::kDouble).mul(ranks));
        good += at::equal(broadcast(topology, at::full({2}, rank, at::kFloat), ranks - 1).wait(), at::full({2}, ranks - 1, at::kFloat));
        good += all_to_all_v(topology, at::zeros({0}, at::kByte), Counts(static_cast<std::size_t>(ranks)),
                             Counts(static_cast<std::size_t>(ranks)))
                    .wait()
                    .numel() == 0;
        barrier(topology);
        topology.leave();
      });
      CHECK(good == ranks * (8 + ranks));
      for (const auto& one : thrown) CHECK(one == "");
    }
  }

  TEST_CASE("exchange is measured, and every rank gets the same facts") {
    std::vector<TopologyFacts> found(3);
    const auto thrown = on_sockets(3, [&](Gloo& topology) {
      const CalibrationOptions brief{.memory_seconds = .001, .exchange_seconds = .05, .memory_bytes = 1 << 20};
      found[static_cast<std::size_t>(topology.rank())] = calibrate(topology, brief);
      topology.leave();
    });
    for (const auto& one : thrown) CHECK(one == "");
    for (const auto& facts : found) {
      CHECK(facts.intra_node_bandwidth == found[0].intra_node_bandwidth);
      CHECK(facts.host_bandwidth == found[0].host_bandwidth);
      CHECK(facts.host_memory == found[0].host_memory);
    }
    CHECK(found[0].world_size == 3);
    CHECK(found[0].intra_node_bandwidth > 1e5);
    CHECK(found[0].intra_node_bandwidth < 1e11);                 // sockets, not the constant of fast links
  }

  TEST_CASE("sharded equals local: random models under random plans on 2 and 3 ranks") {
    for (const int ranks : {2, 3})
      for (std::uint64_t seed = 1; seed <= 10; ++seed) {
        const auto trial = cases::draw_trial(seed, ranks);
        std::string wrong;
        const auto thrown = on_sockets(ranks, [&](Gloo& topology) {
          const auto found = cases::check_equivalence_on(topology, trial);
          if (topology.rank() == 0) wrong = found;
          topology.leave();
        });
        CHECK(wrong == "");
        for (const auto& one : thrown) CHECK(one == "");
      }
  }

  TEST_CASE("a rank that fails, returns early or does not come ends the others with one line that says so") {
    const Stopwatch clock;
    auto thrown = on_sockets(3, [](Gloo& topology) {
      topology.at_step(7);
      if (topology.rank() == 1) topology.abort("rank 1, step 7: out of coffee");
      else all_reduce(topology, at::zeros({1})).wait();
    });
    CHECK(thrown[1] == "");
    for (const std::size_t rank : {0, 2})
      CHECK(thrown[rank] == concat("rank ", rank, ", step 7, all_reduce number 0: rank 1, step 7: out of coffee"));

    thrown = on_sockets(2, [](Gloo& topology) {
      if (topology.rank() == 0) all_reduce(topology, at::zeros({1})).wait();
      else topology.leave();
    });
    CHECK(contains(thrown[0], "all_reduce number 0: rank 1 returned before it; did every rank see the same number of batches?"));

    thrown = on_sockets(
        2,
        [](Gloo& topology) {
          if (topology.rank() == 0) all_reduce(topology, at::zeros({1})).wait();
          else std::this_thread::sleep_for(6s);
        },
        4s);
    CHECK(contains(thrown[0], "all_reduce number 0: waited 4000 ms for rank 1, which has not come to it"));

    thrown = on_sockets(
        3,
        [](Gloo& topology) {
          barrier(topology);
          if (topology.rank() == 1) std::this_thread::sleep_for(4s);
          else topology.leave();
        },
        2s);
    for (const std::size_t rank : {0, 2})
      CHECK(thrown[rank] == concat("rank ", rank, ", step 0, after barrier number 0: waited 2000 ms for rank 1 to end too"));

    const int port = detail::listen_somewhere().second;
    for (const auto& [rank, said] : {std::pair(0, std::string("rank 1 has not come")),
                                     std::pair(1, concat("nobody listens there (127.0.0.1:", port, ": Connection refused)"))}) {
      const Stopwatch alone;
      const auto wanted = concat("gloo: rank ", rank, " of 2 did not join the group at 127.0.0.1:", port, ": after 1000 ms ", said);
      CHECK_THROWS_WITH_AS(Gloo::join({.rank = rank, .world_size = 2, .local_world_size = 2, .master_port = port, .timeout = 1s}),
                           wanted.c_str(), CommunicationError);
      CHECK(alone.seconds() < 2);                            // once the deadline, not twice
    }
    CHECK(clock.seconds() < 25);                             // far below the thirty seconds of any deadline
  }

  TEST_CASE("counts that are not those of the tensor are an error on the rank that gives them, before anything is sent") {
    const auto thrown = on_sockets(2, [](Gloo& topology) {
      if (topology.rank() == 1) return;
      CHECK_THROWS_WITH_AS(all_to_all_v(topology, at::zeros({3, 2}), {1, 1}, {1, 1}),
                           "all_to_all_v: counts for 2 rows, and a tensor of [3, 2]", ShapeError);
      CHECK_THROWS_WITH_AS(all_to_all_v(topology, at::zeros({3}), {3}, {1, 1}), "all_to_all_v: counts for 1 ranks of 2", ShapeError);
      CHECK_THROWS_WITH_AS(reduce_scatter_v(topology, at::zeros({}), {1, 0}), "reduce_scatter_v: counts for 1 rows, and a tensor of []",
                           ShapeError);
    });
    for (const auto& one : thrown) CHECK(one == "");
  }
  TEST_CASE("F6 a rank that dies when it has met the others but is not connected to all ends the start of all at once") {
    for (const int victim : {0, 1, 2}) {
      const int port = detail::listen_somewhere().second;
      std::vector<std::string> thrown(3);
      std::vector<std::jthread> running;
      const Stopwatch clock;
      for (int rank = 0; rank < 3; ++rank)
        running.emplace_back([&, rank] {
          const ProcessEnvironment environment{.rank = rank, .world_size = 3, .local_world_size = 3, .master_port = port};
          try {
            if (rank != victim) Gloo::join(environment);
            else dies_while_joining(environment);
          } catch (const std::exception& error) {
            thrown[static_cast<std::size_t>(rank)] = error.what();
          }
        });
      running.clear();
      CHECK(clock.seconds() < 10);
      for (int rank = 0; rank < 3; ++rank)
        if (rank != victim)
          CHECK(thrown[static_cast<std::size_t>(rank)] == concat("gloo: rank ", rank, " of 3 did not join the group at 127.0.0.1:", port,
                                                                 ": rank ", victim, " ended without a word"));
    }
  }
  TEST_CASE("a program that is told of several ranks and runs as another number of processes says how to start as many") {
    CHECK_THROWS_WITH_AS(with_topology<Gloo>({.topology = "gloo", .ranks = 2}, [](auto) { return 0; }),
                         "topology 'gloo' is to have 2 ranks, each a process, but 1 process runs; start the program by examples/launch 2, "
                         "torchrun --no-python --nproc-per-node 2 or mpirun -n 2", ConfigError);
  }
  TEST_CASE("F7 a port in use is one line at once, in the launcher's error file too") {
    const auto file = (std::filesystem::temp_directory_path() / concat("rookery_error_", ::getpid())).string();
    const auto [taken, port] = detail::listen_somewhere();
    std::string why;
    try {
      Gloo::join({.rank = 0, .world_size = 2, .local_world_size = 2, .master_port = port, .error_file = file});
    } catch (const CommunicationError& error) {
      why = error.what();
    }
    CHECK(why.starts_with(concat("gloo: rank 0 of 2 did not join the group at 127.0.0.1:", port, ": ")));
    CHECK((contains(why, "address already in use") && !contains(why, "\n")));
    std::ostringstream text;
    text << std::ifstream(file).rdbuf();
    CHECK(contains(text.str(), why));
    std::filesystem::remove(file);
  }
  TEST_CASE("F3 a rank of a launched program that throws: all say the first cause, and its error file holds it") {
    const auto files = std::filesystem::temp_directory_path() / concat("rookery_throws_", ::getpid());
    std::filesystem::create_directory(files);
    const auto self = std::filesystem::read_symlink("/proc/self/exe").string();
    const int status = std::system(concat("ROOKERY_TEST_ROLE=throwing_rank TORCHELASTIC_ERROR_FILE='", (files / "error").string(), "' '",
                                          ROOKERY_SOURCE_DIR, "/examples/launch' 3 '", self, "' 2> '", (files / "said").string(), "'")
                                       .c_str());
    CHECK(WEXITSTATUS(status) == 1);
    const auto text_of = [&](const char* name) {
      std::ostringstream text;
      text << std::ifstream(files / name).rdbuf();
      return text.str();
    };
    const auto said = text_of("said"), cause = std::string("rank 1, step 10, after barrier number 9: a bad batch");
    CHECK(contains(said, concat(cause, "\n")));
    const auto is_told = [&](int rank, int step) {
      return contains(said, concat("rank ", rank, ", step ", step, ", barrier number ", step, ": ", cause, "\n"));
    };
    for (const int rank : {0, 2}) CHECK((is_told(rank, 9) || is_told(rank, 10)));            // rank 1 may be through a barrier before them
    CHECK(std::count(said.begin(), said.end(), '\n') == 3);
    CHECK((contains(text_of("error"), "{\"message\":{\"message\":\"") && contains(text_of("error"), cause)));
    std::filesystem::remove_all(files);
  }
  TEST_CASE("a tensor that is longer on one rank ends all ranks with lines that say so, and communicating says which it is") {
    for (const bool is_broadcast : {false, true}) {
      const std::string environment = is_broadcast ? "ROOKERY_TEST_BROADCAST=1" : "";
      const auto ended = cases::run_processes("longer_rank", 3, environment);
      INFO(ended.said);
      CHECK(ended.status == 1);
      CHECK(ended.seconds < 60);                             // of a deadline of ten minutes
      for (const int rank : {0, 1, 2}) CHECK(contains(concat("\n", ended.said), concat("\nrank ", rank, ", step 3, ")));
      std::istringstream lines(ended.said);
      for (std::string line; std::getline(lines, line);)
        CHECK(line.ends_with(": a message is longer than what this rank expects; do all ranks give tensors of one size? With "
                             "ROOKERY_CHECK=communicating they say which do not"));

      const auto told = cases::run_processes("longer_rank", 3, environment + " ROOKERY_CHECK=communicating");
      INFO(told.said);
      CHECK(told.status == 1);
      const std::string verb = is_broadcast ? "broadcast from rank 1" : "all_reduce sum";
      for (const int rank : {0, 1, 2})
        CHECK(contains(told.said, concat("rank ", rank, ", step 3: collective number 0 is ", verb, " of Float [1000] on rank 0 but ", verb,
                                         " of Float [1001] on rank 1\n")));
    }
  }
  TEST_CASE("a broken pipe is no end of the process, and a program's own handler of it stays") {
    const auto handler_after_join = [](void (*handler)(int)) {
      const auto before = std::signal(SIGPIPE, handler);
      const int port = detail::listen_somewhere().second;
      Gloo::join({.master_port = port}).leave();
      const auto after = std::signal(SIGPIPE, before);
      return after;
    };
    CHECK((handler_after_join(SIG_DFL) == SIG_IGN));
    CHECK((handler_after_join(SIG_IGN) == SIG_IGN));
    void (*const own)(int) = [](int) {};
    CHECK((handler_after_join(own) == own));
  }
  TEST_CASE("F12 every pair of collectives that do not match is one line on both ranks that names both") {
    const auto all = calls();
    for (std::size_t first = 0; first < all.size(); ++first)
      for (std::size_t second = first; second < all.size(); ++second) {
        const Stopwatch clock;
        const auto thrown = on_sockets(2, [&](Gloo& topology) {
          topology.at_step(3);
          barrier(topology);
          all[topology.rank() == 0 ? first : second].make(topology);
          topology.leave();
        }, 10min, CheckLevel::communicating);
        CHECK(clock.seconds() < 10);
        for (const std::size_t rank : {0, 1})
          CHECK(thrown[rank] == (first == second ? ""
                                                 : concat("rank ", rank, ", step 3: collective number 1 is ", all[first].said, " on rank 0",
                                                          " but ", all[second].said, " on rank 1",
                                                          all[first].verb == all[second].verb ? "" : detail::same_batches)));
      }
  }
  TEST_CASE("F12 the level compares all ranks, numbers of rows, and calls in another order; a rank that returned is named") {
    auto thrown = on_sockets(4, [](Gloo& topology) {
      const auto rank = topology.rank();
      all_to_all_v(topology, at::ones({4}), Counts(4, 1), rank == 2 ? Counts{1, 3, 1, 1} : Counts(4, 1)).wait();
    }, 10min, CheckLevel::communicating);
    for (const std::size_t rank : {0, 1, 2, 3})
      CHECK(thrown[rank] == concat("rank ", rank, ", step 0: collective number 0 is all_to_all_v of Float [*]: rank 1 sends 1 rows to rank 2,"
                                   " which expects 3"));
    thrown = on_sockets(3, [](Gloo& topology) {
      auto sum = [&] { all_reduce(topology, at::ones({3})).wait(); };
      auto gather = [&] { all_gather_v(topology, at::ones({topology.rank()})).wait(); };
      for (int i = 0; i < 100; ++i) topology.rank() == 2 && i == 60 ? (gather(), sum()) : (sum(), gather());
    }, 10min, CheckLevel::communicating);
    for (const std::size_t rank : {0, 1, 2})
      CHECK(thrown[rank] == concat("rank ", rank, ", step 0: collective number 120 is all_reduce sum of Float [3] on rank 0 but all_gather_v of"
                                   " Float [*] on rank 2; did every rank see the same number of batches?"));
    thrown = on_sockets(2, [](Gloo& topology) {
      if (topology.rank() == 0) barrier(topology);
      topology.leave();
    }, 10min, CheckLevel::communicating);
    CHECK(thrown[0] == "rank 0, step 0, barrier number 0: rank 1 returned before it; did every rank see the same number of batches?");
  }

}

TEST_SUITE("topology/process_environment") {
  /// Reads with these variables alone set.
  ProcessEnvironment read(const std::vector<std::pair<std::string, std::string>>& variables) {
    const auto all = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMPI_COMM_WORLD_RANK",
                      "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", "PMI_RANK", "PMI_SIZE",
                      "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_ID",
                      "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT",
                      "ROOKERY_TIMEOUT", "ROOKERY_CHECK"};
    for (const auto* name : all) ::unsetenv(name);
    for (const auto& [name, value] : variables) ::setenv(name.c_str(), value.c_str(), 1);
    struct Unset {
      decltype(all)& names;
      ~Unset() {
        for (const auto* name : names) ::unsetenv(name);
      }
    } unset{all};
    return ProcessEnvironment::read();
  }

  TEST_CASE("torchrun's variables, Open MPI's, MPICH's and Slurm's") {
    auto found = read({{"RANK", "5"}, {"WORLD_SIZE", "8"}, {"LOCAL_RANK", "1"}, {"LOCAL_WORLD_SIZE", "4"}, {"MASTER_ADDR", "node0"},
                       {"MASTER_PORT", "1234"}, {"TORCHELASTIC_USE_AGENT_STORE", "True"}, {"TORCHELASTIC_RESTART_COUNT", "2"},
                       {"ROOKERY_TIMEOUT", "7"}, {"ROOKERY_CHECK", "communicating"}});
    CHECK((found.rank == 5 && found.world_size == 8 && found.local_rank == 1 && found.local_world_size == 4));
    CHECK((found.master_address == "node0" && found.master_port == 1234 && found.agent_store && found.attempt == "2"));
    CHECK((found.timeout == 7s && found.check_level == CheckLevel::communicating));
    found = read({{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                  {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}});
    CHECK((found.rank == 1 && found.world_size == 2 && found.local_rank == 1 && found.master_address == "127.0.0.1"));
    found = read({{"PMI_RANK", "3"}, {"PMI_SIZE", "4"}});
    CHECK((found.rank == 3 && found.world_size == 4));
    CHECK(read({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "2"}}).world_size == 1);             // a batch script, which is one process
    found = read({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "2"}, {"SLURM_LOCALID", "0"}, {"SLURM_STEP_ID", "3"}});
    CHECK((found.rank == 0 && found.world_size == 2 && !found.agent_store && found.timeout == 10min));
    CHECK((read({}).world_size == 1 && read({}).check_level == CheckLevel::always));
  }
  TEST_CASE("numbers that are none, ranks that cannot be, and no place to meet are refused") {
    CHECK_THROWS_WITH_AS(read({{"RANK", "one"}}), "environment: RANK is 'one'; it must be a number", ConfigError);
    CHECK_THROWS_WITH_AS(read({{"ROOKERY_CHECK", "all"}}),
                         "environment: ROOKERY_CHECK is 'all'; it must be always or communicating", ConfigError);
    for (const auto* time : {"0", "-5"})
      CHECK_THROWS_WITH_AS(read({{"ROOKERY_TIMEOUT", time}}),
                           concat("environment: ROOKERY_TIMEOUT is ", time, "; it must be a positive number of seconds").c_str(), ConfigError);
    CHECK_THROWS_WITH_AS(read({{"RANK", "2"}, {"WORLD_SIZE", "2"}}),
                         "environment: rank 2 of 2; ranks begin at 0 and end below their number", ConfigError);
    for (const auto* port : {"0", "65536"})
      CHECK_THROWS_WITH_AS(read({{"MASTER_PORT", port}}),
                           concat("environment: MASTER_PORT is ", port, "; a port is between 1 and 65535").c_str(), ConfigError);
    CHECK_THROWS_WITH_AS(read({{"RANK", "0"}, {"WORLD_SIZE", "4"}, {"LOCAL_WORLD_SIZE", "2"}}),
                         "environment: MASTER_ADDR is not set, but 4 processes run on nodes of 2; set it to the host of rank 0",
                         ConfigError);
  }
}

}  // namespace rookery
