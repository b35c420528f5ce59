// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Faults of processes over Gloo: ranks train a sharded model with messages of 4 MB, one is killed, stopped, throws or leaves at a moment
// drawn from a seed, and the others are judged: when they ended, with what status, and what they said. Limits of time are those of a
// machine that has a core for whoever wants one; one that is n times as loaded gets n times as long.
//
// Ranks are forked from this process, which has loaded LibTorch and must not have started a thread.

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/remainder.h>

#include <rookery/core/clock.hpp>
#include <rookery/core/error.hpp>
#include <rookery/topology/environment.hpp>
#include <rookery/topology/gloo.hpp>
#include <rookery/topology/sockets.hpp>
#include <rookery/topology/with_topology.hpp>

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "embedding/one_collection.hpp"
#include "faults/faulty.hpp"
#include "support/random_batches.hpp"

namespace rookery::cases {

inline constexpr std::array<const char*, 4> fault_ids{"F1", "F2", "F3", "F4"};   // killed, stopped, throws, leaves

/// One rank goes wrong in one way, at one moment.
struct Fault {
  std::string id = "F1";
  std::uint64_t seed = 0;
  int ranks = 2, victim = 1;
  Moment moment{};
  bool in_loss = false;                                      // of that step, instead of at a collective
  bool is_exit = false;                                      // F4: by exit(0), instead of returning
  double continued_after = 0;                                // F2: seconds; 0: when the others have ended
  int timeout = 600;                                         // seconds, of every wait; F2: 1 on a machine that is idle
};

/// How many processes want a core, for each core; 1 where there are enough.
inline double load() {
  double wanting = 0;
  if (::getloadavg(&wanting, 1) != 1) return 1;
  return std::max(1., wanting / std::max(1u, std::thread::hardware_concurrency()));
}

/// A fault of a kind on a number of ranks, from its seed.
inline Fault draw_fault(const std::string& id, int ranks, std::uint64_t seed) {
  Draw draw(seed);
  Fault fault{.id = id, .seed = seed, .ranks = ranks, .victim = static_cast<int>(draw.integer(0, ranks - 1))};
  fault.moment = {draw.integer(0, 4), draw.integer(0, 3), draw.chance(.5)};
  fault.in_loss = fault.moment.step > 0 && draw.chance(.2);
  fault.is_exit = draw.chance(.5);
  fault.timeout = id == "F2" ? static_cast<int>(load()) : 600;
  return fault;
}
inline std::string describe(const Fault& fault) {
  return concat(fault.id, " seed ", fault.seed, ": rank ", fault.victim, " of ", fault.ranks, " at step ", fault.moment.step,
                fault.in_loss ? ", in the loss" : concat(", collective ", fault.moment.collective, fault.moment.is_after ? ", posted" : ""),
                fault.id == "F4" && fault.is_exit ? ", by exit(0)" : "");
}

/// What ranks tell the process that started them.
struct Told {
  std::atomic<std::int64_t> struck_at{0};                    // nanoseconds of the steady clock
  std::atomic<std::int64_t> struck_step{0};
  std::array<std::atomic<double>, 8> sums{};                 // of a rank's weights, at the end
};

/// Returns from the rank that throws it, as if it had no more batches.
struct Leaves {};

/// The loss with something to do in it.
struct LossThatStrikes {
  static constexpr bool divides = false;
  std::function<void()> strike;
  at::Tensor operator()(const KeyedTensor& pooled, const PooledBatch& batch) const {
    strike();
    return SumOfOutputs{}(pooled, batch);                    // []
  }
};

/// Six steps of a rank, each with messages of 4 MB to and from every other.
template <class Topology> void train_rank(Topology& base, const Fault& fault, Told& told) {
  std::int64_t step_number = 0;
  const auto strike = [&] {
    told.struck_step = step_number;
    told.struck_at = Clock::now().time_since_epoch().count();
    if (fault.id == "F1") std::raise(SIGKILL);
    if (fault.id == "F2") std::raise(SIGSTOP);
    if (fault.id == "F3") fail<DataError>("a bad batch");
    if (fault.id == "F4" && fault.is_exit) std::exit(0);
    if (fault.id == "F4") throw Leaves();
  };
  const bool is_victim = base.rank() == fault.victim;
  Faulty<Topology> topology(base, fault.moment, is_victim && !fault.in_loss ? std::function<void()>(strike) : nullptr);
  const auto strike_in_loss = [&] {
    if (is_victim && fault.in_loss && step_number == fault.moment.step) strike();
  };
  constexpr std::int64_t rows = 16384, table_rows = 5000;    // times 64 columns of 4 bytes
  const Collection declared({{.name = "t", .num_embeddings = table_rows, .embedding_dim = 64, .optimizer = RowwiseAdagrad{}},
                             {.name = "u", .num_embeddings = table_rows, .embedding_dim = 64, .optimizer = Adam{}}});
  auto model = maybe_shard_model(
      ModelAndLoss<OneCollection, LossThatStrikes, PooledBatch>{{declared}, {strike_in_loss}}, topology,
      {.constraints = {{"t", {.kinds = {ShardingKind::row_wise}}}, {"u", {.kinds = {ShardingKind::table_wise}}}}, .seed = 5});
  Optimizer step(model, Sgd{});
  const auto ids = at::remainder(at::arange(2 * rows, at::kLong) * (base.rank() + 7), table_rows);     // [2 * rows]
  const PooledBatch batch{KeyedJaggedTensor::from_lengths({"t", "u"}, ids, at::ones({2 * rows}, at::kLong)),
                          at::full({rows, 128}, 1e-3)};
  while (step.count() < 6) {
    step_number = step.count() + 1;
    auto [loss, pooled] = model(batch);
    loss.backward();
    step();
  }
  const at::NoGradGuard no_grad;
  model.for_each_collection([&](std::string_view, auto& collection, std::size_t) {
    for (const auto& local : collection.shards())
      told.sums[static_cast<std::size_t>(base.rank())] = told.sums[static_cast<std::size_t>(base.rank())] +
                                                         local.storage.weight().sum(at::kDouble).template item<double>();
  });
}

/// A process that is a rank. Does not return.
[[noreturn]] inline void play_rank(const Fault& fault, Told& told, int rank, int port, int output) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::dup2(output, 1);
  ::dup2(output, 2);
  const auto set = [](const char* name, int value) { ::setenv(name, std::to_string(value).c_str(), 1); };
  set("RANK", rank);
  set("WORLD_SIZE", fault.ranks);
  set("LOCAL_WORLD_SIZE", fault.ranks);
  set("MASTER_PORT", port);
  set("ROOKERY_TIMEOUT", fault.timeout);
  int status = 1;
  try {
    status = with_topology<Gloo>(Environment::read(), [&](auto topology) {
      try {
        train_rank(topology, fault, told);
      } catch (const Leaves&) {
      }
      return 0;
    });
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
  }
  std::exit(status);
}

/// How one process ended.
struct RankEnd {
  bool has_ended = false;
  int status = 0;                                            // as waitpid gives it
  double after = 0;                                          // seconds after the fault
  std::string said{};
};
struct Outcome {
  std::vector<RankEnd> ranks;
  std::vector<double> sums;
  std::int64_t struck_step = 0;
  bool was_struck = false;
  double time_to_end = 0;                                    // of the last rank but the victim
  double load = 1;                                           // of the machine
};

/// Starts the ranks, and waits for them, half a minute at most.
inline Outcome play(const Fault& fault) {
  const auto tasks = std::filesystem::directory_iterator("/proc/self/task");
  check<Error>(std::distance(begin(tasks), end(tasks)) == 1, "faults: this process has threads and cannot fork");
  auto* memory = ::mmap(nullptr, sizeof(Told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  check<Error>(memory != MAP_FAILED, "faults: no memory to share");
  auto& told = *new (memory) Told();
  const int port = rookery::detail::listen_somewhere().second;
  std::fflush(nullptr);
  std::vector<pid_t> processes;
  std::vector<rookery::detail::Descriptor> outputs;
  for (int rank = 0; rank < fault.ranks; ++rank) {
    outputs.emplace_back(::memfd_create("output", MFD_CLOEXEC));
    const auto process = ::fork();
    if (process == 0) play_rank(fault, told, rank, port, outputs.back().get());
    processes.push_back(process);
  }
  Outcome outcome{std::vector<RankEnd>(processes.size()), {}};
  auto& ends = outcome.ranks;
  const auto victim = static_cast<std::size_t>(fault.victim);
  bool is_continued = fault.id != "F2";
  const auto since_fault = [&] {
    return told.struck_at == 0 ? 0 : std::chrono::duration<double>(Clock::now().time_since_epoch() - std::chrono::nanoseconds(told.struck_at)).count();
  };
  for (const Stopwatch clock; clock.seconds() < 30;) {
    std::size_t ended = 0, others = 0;
    for (std::size_t rank = 0; rank < ends.size(); ++rank) {
      auto& end = ends[rank];
      if (!end.has_ended && ::waitpid(processes[rank], &end.status, WNOHANG) > 0) {
        end.has_ended = true;
        end.after = since_fault();
        if (rank != victim) outcome.time_to_end = std::max(outcome.time_to_end, end.after);
      }
      ended += end.has_ended;
      others += end.has_ended && rank != victim;
    }
    if (ended == ends.size()) break;
    if (!is_continued && (fault.continued_after > 0 ? since_fault() > fault.continued_after : others + 1 == ends.size())) {
      ::kill(processes[victim], SIGCONT);
      is_continued = true;
    }
    ::usleep(1000);
  }
  outcome.struck_step = told.struck_step;
  outcome.was_struck = told.struck_at != 0;
  outcome.load = load();
  for (std::size_t rank = 0; rank < ends.size(); ++rank) {
    if (!ends[rank].has_ended) {
      ::kill(processes[rank], SIGKILL);
      ::waitpid(processes[rank], nullptr, 0);
    }
    char bytes[4096];
    const auto count = ::pread(outputs[rank].get(), bytes, sizeof bytes, 0);
    ends[rank].said.assign(bytes, static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
    outcome.sums.push_back(told.sums[rank]);
  }
  told.~Told();
  ::munmap(memory, sizeof(Told));
  return outcome;
}

/// What is wrong with how one rank ended; empty when nothing is.
inline std::string judge_rank(const Fault& fault, const Outcome& outcome, std::size_t rank) {
  const auto& end = outcome.ranks[rank];
  const bool is_victim = static_cast<int>(rank) == fault.victim;
  const auto contains = [&](const std::string& part) { return end.said.find(part) != std::string::npos; };
  if (!end.has_ended) return "did not end";
  if (is_victim && fault.id == "F1") return WIFSIGNALED(end.status) && end.said.empty() ? "" : "was not killed";
  if (is_victim && fault.id == "F4" && fault.is_exit) return end.said.empty() ? "" : "spoke at exit";
  if (!WIFEXITED(end.status) || WEXITSTATUS(end.status) != 1) return concat("ended with wait status ", end.status);
  if (std::count(end.said.begin(), end.said.end(), '\n') != 1 || end.said.back() != '\n') return "did not say one line";
  const auto at_step = [&](std::int64_t step) { return end.said.starts_with(concat("rank ", rank, ", step ", step, ", ")); };
  const auto struck = outcome.struck_step;                    // others may still wait for the last sum of the step before
  if (!at_step(struck - 1) && !at_step(struck) && !at_step(struck + 1)) return "does not say its rank and step";
  if (!contains(" number ") && !contains("before any collective")) return "does not say the collective";
  if (!is_victim && end.after > (fault.id == "F2" ? fault.timeout : 0) + 2 * outcome.load) return concat("ended after ", end.after, " s");
  const auto victim = concat("rank ", fault.victim);
  if (fault.id == "F1" || (fault.id == "F4" && fault.is_exit))
    return end.said.ends_with(victim + " ended without a word\n") ? "" : "does not say who died";
  if (fault.id == "F2") return is_victim || contains(concat(" waited ", fault.timeout, "000 ms for ", victim, ", which does not answer")) ? "" : "does not say who is late";
  if (fault.id == "F3") return contains(concat(victim, ", step ", outcome.struck_step, ", ")) && end.said.ends_with(": a bad batch\n") ? "" : "does not say the cause";
  return contains(concat(victim, " returned before it; did every rank see the same number of batches?")) ? "" : "does not say who left";
}
inline std::string judge(const Fault& fault, const Outcome& outcome) {
  std::string wrong;
  for (std::size_t rank = 0; rank < outcome.ranks.size(); ++rank) {
    const auto one = judge_rank(fault, outcome, rank);
    if (!one.empty()) wrong += concat("  rank ", rank, " ", one, "; it said: ", outcome.ranks[rank].said, "\n");
  }
  return wrong;
}

/// `runs` faults of each kind on each number of ranks, and a line for each that is wrong. Gives how many are.
inline int run_faults(const std::vector<std::string>& ids, const std::vector<int>& worlds, int runs, std::uint64_t seed) {
  int failed = 0, total = 0;
  for (const auto& id : ids) {
    double longest = 0, load = 1;
    for (const int ranks : worlds)
      for (int run = 0; run < runs; ++run, ++total) {
        auto fault = draw_fault(id, ranks, seed + static_cast<std::uint64_t>(total));
        auto outcome = play(fault);
        for (int again = 0; again < 3 && id == "F2" && !outcome.was_struck; ++again) {       // too loaded to start by the deadline
          fault.timeout *= 2;
          outcome = play(fault);
        }
        const auto wrong = judge(fault, outcome);
        longest = std::max(longest, outcome.time_to_end);
        load = std::max(load, outcome.load);
        if (wrong.empty()) continue;
        ++failed;
        std::printf("%s\n%s  again: tests/run faults --fault %s --ranks %d --runs 1 --seed %llu\n", describe(fault).c_str(), wrong.c_str(),
                    id.c_str(), ranks, static_cast<unsigned long long>(fault.seed));
      }
    std::printf("%s: from seed %llu on, the other ranks had ended %.2f s after the fault at the latest, at a load of %.1f per core at most\n",
                id.c_str(), static_cast<unsigned long long>(seed), longest, load);
  }
  std::printf("runs %d, failed %d\n", total, failed);
  return failed;
}

}  // namespace rookery::cases
