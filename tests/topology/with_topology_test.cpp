// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/topology/with_topology.hpp>

#include <rookery/topology/environment.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/one_line.hpp>
#include <rookery/topology/threads.hpp>

#include <ATen/Parallel.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "embedding/one_collection.hpp"
#include "support/errors_of.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

/// An environment variable for as long as the scope lasts.
class Variable {
 public:
  Variable(std::string name, const char* value) : name_(std::move(name)) {
    if (const char* before = std::getenv(name_.c_str())) before_ = before;
    set(value);
  }
  ~Variable() { set(before_ ? before_->c_str() : nullptr); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  void set(const char* value) const { value ? setenv(name_.c_str(), value, 1) : unsetenv(name_.c_str()); }
  std::string name_;
  std::optional<std::string> before_;
};

Environment read(const char* topology, const char* ranks) {
  const Variable first("ROOKERY_TOPOLOGY", topology), second("ROOKERY_RANKS", ranks);
  return Environment::read();
}

}  // namespace

TEST_SUITE("topology/environment") {
  TEST_CASE("nothing set is one local rank; a number of ranks asks for threads; a name wins") {
    CHECK(read(nullptr, nullptr).topology == "local");
    CHECK(read(nullptr, nullptr).ranks == 1);
    CHECK(read(nullptr, "1").topology == "local");
    CHECK(read(nullptr, "3").topology == "threads");
    CHECK(read(nullptr, "3").ranks == 3);
    CHECK(read("threads", nullptr).topology == "threads");
    CHECK(read("threads", nullptr).ranks == 1);
    CHECK(read("gloo", "4").topology == "gloo");
    CHECK(read("gloo", "4").ranks == 4);
  }
  TEST_CASE("a launcher of MPI's asks for mpi, or for gloo in a program without it; torchrun's variables ask for gloo") {
    const Variable size("OMPI_COMM_WORLD_SIZE", "2"), rank("OMPI_COMM_WORLD_RANK", "0"), size_on_node("OMPI_COMM_WORLD_LOCAL_SIZE", "1");
    auto found = read(nullptr, nullptr);                       // on two nodes, of which MPI knows more than the environment
    CHECK((found.topology == "mpi" && found.otherwise == "gloo" && found.ranks == 2));
    for (const auto* named : {"gloo", "mpi", "nccl"}) {        // who names one gets no other
      found = read(named, nullptr);
      CHECK((found.topology == named && found.otherwise.empty() && found.ranks == 2));
    }
    const Variable plain_rank("RANK", "0"), plain_size("WORLD_SIZE", "2");
    found = read(nullptr, nullptr);
    CHECK((found.topology == "gloo" && found.ranks == 2));
  }
  TEST_CASE("ranks that are threads act as if on nodes of ROOKERY_NODE_SIZE") {
    const auto local = [](const char* size) {
      const Variable variable("ROOKERY_NODE_SIZE", size);
      return with_topology<Local, Threads>(read(nullptr, "4"), [](auto topology) { return concepts::local_world_size(topology); });
    };
    CHECK((local(nullptr) == 4 && local("2") == 2 && local("1") == 1));
    CHECK_THROWS_WITH_AS(local("3"), "Threads: 4 ranks on nodes of 3; every node must have as many", ConfigError);
    for (const auto* size : {"", "0", "-2", "two"})
      CHECK_THROWS_WITH_AS(local(size), concat("ROOKERY_NODE_SIZE is '", size, "'; it must be a positive number").c_str(), ConfigError);
  }
  TEST_CASE("a number of ranks that is none is refused") {
    for (const auto* ranks : {"", "two", "0", "-1", "2x", " 2", "1.5", "99999999999"})
      CHECK_THROWS_WITH_AS(read(nullptr, ranks), concat("ROOKERY_RANKS is '", ranks, "'; it must be a positive number").c_str(),
                           ConfigError);
  }
}

TEST_SUITE("topology/local") {
  TEST_CASE("one rank on the host") {
    const Local local;
    CHECK(local.rank() == 0);
    CHECK(local.world_size() == 1);
    CHECK(local.device().is_cpu());
    CHECK(Local::name == "local");
    CHECK(Local(c10::Device("cpu")).device().is_cpu());
  }
}

TEST_SUITE("topology/with_topology") {
  TEST_CASE("a device is that of the topology, or the program says which topology has it") {
    const auto on = [](const char* topology, const char* device) {
      const Variable first("ROOKERY_DEVICE", device);
      return with_topology<Local, Threads>(read(topology, nullptr), [](auto joined) { return static_cast<int>(joined.device().type()); });
    };
    const int cpu = static_cast<int>(c10::DeviceType::CPU);
    CHECK((on("local", nullptr) == cpu && on("local", "cpu") == cpu && on("threads", "cpu") == cpu && on("threads", nullptr) == cpu));
    CHECK_THROWS_WITH_AS(on("threads", "cuda"), "device 'cuda': topology 'threads' is on the host; one rank has a GPU with topology"
                         " 'local', several with 'nccl'", ConfigError);
    CHECK_THROWS_WITH_AS(on("threads", "gpu"), "device 'gpu': topology 'threads' is on the host: the device is cpu", ConfigError);
    CHECK_THROWS_WITH_AS(on("nccl", nullptr), "this program does not offer topology 'nccl'; it has: local, threads", ConfigError);
  }
  TEST_CASE("ranks whose threads spin while they wait are warned of, once") {
    const int threads = at::get_num_threads();
    const auto run = [](int ranks, int team, const char* policy) {
      const Variable variable("OMP_WAIT_POLICY", policy);
      at::set_num_threads(team);
      return cases::errors_of([&] { with_topology<Threads>({.topology = "threads", .ranks = ranks}, [](auto) { return 0; }); });
    };
    CHECK(run(2, 4, "passive") == "");
    CHECK(run(2, 2, nullptr) == "");                           // a thread each
    CHECK(run(1, 4, nullptr) == "");                           // one rank
    CHECK(run(2, 4, nullptr) ==
          "rookery: warning: ranks share this process and their threads spin while they wait; set OMP_WAIT_POLICY=passive\n");
    CHECK(run(2, 4, nullptr) == "");
    at::set_num_threads(threads);
  }
  TEST_CASE("runs on the topology named, on all its ranks, and gives rank 0's result") {
    std::atomic<int> calls = 0;
    const auto program = [&](auto topology) {
      ++calls;
      return 10 * topology.world_size() + topology.rank();
    };
    CHECK(with_topology<Local, Threads>({}, program) == 10);
    CHECK(calls == 1);
    CHECK(with_topology<Local, Threads>({.topology = "threads", .ranks = 3}, program) == 30);
    CHECK(calls == 4);
    CHECK(with_topology<Threads>({.topology = "threads", .ranks = 1}, program) == 10);
  }
  TEST_CASE("only the topology named is run") {
    const int kind = with_topology<Local, Threads>({}, []<class Topology>(Topology) { return Topology::is_distributed ? 1 : 2; });
    CHECK(kind == 2);
  }
  TEST_CASE("a topology that the program does not offer gives way to the other one that the environment names") {
    const auto kind = []<class Topology>(Topology) { return Topology::is_distributed ? 1 : 2; };
    CHECK(with_topology<Local, Threads>({.topology = "mpi", .ranks = 2, .otherwise = "threads"}, kind) == 1);
    CHECK(with_topology<Local, Threads>({.topology = "local", .otherwise = "threads"}, kind) == 2);
  }
  TEST_CASE("a topology that the program does not offer is refused, with those that it does") {
    CHECK_THROWS_WITH_AS((with_topology<Local, Threads>({.topology = "nccl", .ranks = 2}, [](auto) { return 0; })),
                         "this program does not offer topology 'nccl'; it has: local, threads", ConfigError);
    CHECK_THROWS_WITH_AS((with_topology<Local>({.topology = "threads", .ranks = 2}, [](auto) { return 0; })),
                         "this program does not offer topology 'threads'; it has: local", ConfigError);
  }
  TEST_CASE("several ranks on a topology of one are refused") {
    CHECK_THROWS_WITH_AS((with_topology<Local, Threads>({.topology = "local", .ranks = 3}, [](auto) { return 0; })),
                         "topology 'local' has one rank, not 3", ConfigError);
    CHECK_THROWS_AS((with_topology<Local, Threads>(read("local", "3"), [](auto) { return 0; })), ConfigError);
  }
  TEST_CASE("what the program throws comes out, of a rank too") {
    CHECK_THROWS_WITH_AS((with_topology<Local>({}, [](auto) -> int { fail<DataError>("no file"); })), "no file", DataError);
    CHECK_THROWS_WITH_AS((with_topology<Threads>({.topology = "threads", .ranks = 2},
                                                 [](auto topology) -> int {
                                                   check<DataError>(topology.rank() == 0, "no file");
                                                   return 0;
                                                 })),
                         "rank 1, step 0, before any collective: no file", DataError);
    CHECK_THROWS_AS((with_topology<Local>({}, [](auto) -> int { throw std::out_of_range("its own"); })), std::out_of_range);
  }
  TEST_CASE("a shape error in a model of one process is one line that names the step, without LibTorch's stack trace") {
    const auto train = [](auto topology) {
      const cases::Collection tables({{.name = "t", .num_embeddings = 10, .embedding_dim = 3}});
      auto model =
          maybe_shard_model(ModelAndLoss<cases::OneCollection, cases::SumOfOutputs, cases::PooledBatch>{{tables}, {}}, topology);
      Optimizer step(model, Sgd{});
      for (int i = 0; i < 3; ++i) {
        auto [loss, pooled] = model(cases::PooledBatch{cases::features_of({"t"}, {{1, 2}}), at::ones({1, i == 2 ? 4 : 3})});
        loss.backward();
        step();
      }
      return 0;
    };
    const std::string torch = "The size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 1";
    for (int round = 0; round < 2; ++round)                    // the second run counts from its own first step
      CHECK_THROWS_WITH_AS((with_topology<Local, Threads>({}, train)), ("rank 0, step 3: " + torch).c_str(), Error);
    CHECK_THROWS_WITH_AS((with_topology<Local>({}, [](auto) -> int { return at::zeros({2}).view({3}).numel() > 0; })),
                         "rank 0, step 0: shape '[3]' is invalid for input of size 2", Error);
  }
}

TEST_SUITE("topology/one_line") {
  TEST_CASE("the first line; of LibTorch's errors the sentence alone") {
    CHECK(one_line(std::runtime_error("first\nsecond")) == "first");
    CHECK(one_line(DataError("a.csv:2: no number")) == "a.csv:2: no number");
    try {
      at::zeros({2}).view({3});
      FAIL("nothing was thrown");
    } catch (const std::exception& error) {
      CHECK(one_line(error) == "shape '[3]' is invalid for input of size 2");
    }
  }
}

}  // namespace rookery
