// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Faults of processes over Gloo or MPI: ranks train a sharded model with messages of 4 MB, one is killed, stopped, throws or leaves at a
// moment drawn from a seed, and the others are judged: when they ended, with what status, and what they said. Limits of time are those of
// a machine that has a core for whoever wants one; one that is n times as loaded gets n times as long.
//
// Every rank is forked from a process that waits for it, writes down how it ended and ends likewise, for the launcher to see. Over Gloo
// that one is forked too, from this process, which has loaded LibTorch and must not have started a thread; over MPI it is this program
// again, started by examples/mpirun in the role `fault_rank` (support/roles.hpp).

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/remainder.h>

#include <rookery/core/clock.hpp>
#include <rookery/core/error.hpp>
#include <rookery/topology/environment.hpp>
#include <rookery/topology/process_environment.hpp>
#include <rookery/topology/sockets.hpp>
#include <rookery/topology/with_topology.hpp>

#include <fcntl.h>
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
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "embedding/one_collection.hpp"
#include "faults/faulty.hpp"
#include "support/random_batches.hpp"
#include "support/roles.hpp"

namespace rookery::cases {

enum class FaultKind { none, killed, stopped, throws, leaves };
inline constexpr std::array<const char*, 5> fault_ids{"none", "F1", "F2", "F3", "F4"};

/// One rank goes wrong in one way, at one moment.
struct Fault {
  FaultKind kind = FaultKind::none;
  std::uint64_t seed = 0;
  int ranks = 2, victim = 1;
  Moment moment{};
  bool in_loss = false;                                      // of that step, instead of at a collective
  bool is_exit = false;                                      // leaves by exit(0), instead of returning
  double continued_after = 0;                                // a stopped one: seconds; 0: when the others have ended
  int timeout = 600;                                         // seconds, of every wait; with a stopped one 1 on a machine that is idle
  bool ends_silently() const { return kind == FaultKind::killed || (kind == FaultKind::leaves && is_exit); }
};
inline const char* id_of(FaultKind kind) { return fault_ids[static_cast<std::size_t>(kind)]; }

/// How many processes want a core, for each core; 1 where there are enough.
inline double load() {
  double wanting = 0;
  if (::getloadavg(&wanting, 1) != 1) return 1;
  return std::max(1., wanting / std::max(1u, std::thread::hardware_concurrency()));
}

/// A fault of a kind on a number of ranks, from its seed.
inline Fault draw_fault(FaultKind kind, int ranks, std::uint64_t seed) {
  Draw draw(seed);
  Fault fault{.kind = kind, .seed = seed, .ranks = ranks, .victim = static_cast<int>(draw.integer(0, ranks - 1))};
  fault.moment = {draw.integer(0, 4), draw.integer(0, 3), draw.chance(.5)};
  fault.in_loss = fault.moment.step > 0 && draw.chance(.2);
  fault.is_exit = draw.chance(.5);
  fault.timeout = kind == FaultKind::stopped ? static_cast<int>(load()) : 600;
  return fault;
}
inline std::string describe(const Fault& fault) {
  return concat(id_of(fault.kind), " seed ", fault.seed, ": rank ", fault.victim, " of ", fault.ranks, " at step ", fault.moment.step,
                fault.in_loss ? ", in the loss" : concat(", collective ", fault.moment.collective, fault.moment.is_after ? ", posted" : ""),
                fault.kind == FaultKind::leaves && fault.is_exit ? ", by exit(0)" : "");
}

/// What ranks and the process that starts them tell each other, in memory that they share.
struct Stage {
  struct Rank {
    int output = -1;                                         // a file of the process that starts them
    std::atomic<pid_t> process{0};
    std::atomic<std::int64_t> ended_at{0};                   // nanoseconds of the steady clock
    std::atomic<int> status{SIGKILL};                        // as waitpid gives it; that of a rank whose end nobody lived to write down
    std::atomic<double> sum{0};                              // of its weights, at the end
  };
  Fault fault;
  pid_t starter = ::getpid();
  int port = 0;
  std::atomic<std::int64_t> struck_at{0}, struck_step{0};
  std::array<Rank, 8> ranks{};

  static std::int64_t now() { return Clock::now().time_since_epoch().count(); }
  std::string file_of_starter(int file) const { return concat("/proc/", starter, "/fd/", file); }
  static Stage* in(int file) {
    auto* memory = ::mmap(nullptr, sizeof(Stage), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    check<Error>(memory != MAP_FAILED, "faults: no memory to share");
    return static_cast<Stage*>(memory);
  }
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
template <class Topology> void train_rank(Topology& base, Stage& stage) {
  const auto& fault = stage.fault;
  std::int64_t step_number = 0;
  const auto strike = [&] {
    stage.struck_step = step_number;
    stage.struck_at = Stage::now();
    if (fault.kind == FaultKind::killed) std::raise(SIGKILL);
    if (fault.kind == FaultKind::stopped) std::raise(SIGSTOP);
    if (fault.kind == FaultKind::throws) fail<DataError>("a bad batch");
    if (fault.kind == FaultKind::leaves && fault.is_exit) std::exit(0);
    if (fault.kind == FaultKind::leaves) throw Leaves();
  };
  const bool is_victim = fault.kind != FaultKind::none && base.rank() == fault.victim;
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
  const auto ids = at::remainder(at::arange(2 * rows, at::kLong).mul(base.rank() + 7), table_rows);  // [2 * rows]
  const PooledBatch batch{KeyedJaggedTensor::from_lengths({"t", "u"}, ids, at::ones({2 * rows}, at::kLong)),
                          at::full({rows, 128}, 1e-3)};
  while (step.count() < 6) {
    step_number = step.count() + 1;
    auto [loss, pooled] = model(batch);
    loss.backward();
    step();
  }
  const at::NoGradGuard no_grad;
  double sum = 0;
  model.for_each_collection([&](std::string_view, auto& collection, std::size_t) {
    for (const auto& local : collection.shards()) sum += local.storage.weight().sum(at::kDouble).template item<double>();
  });
  stage.ranks[static_cast<std::size_t>(base.rank())].sum = sum;
}

/// A process that is a rank.
template <class Topology> [[noreturn]] void play_rank(Stage& stage, int rank) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const auto file = stage.file_of_starter(stage.ranks[static_cast<std::size_t>(rank)].output);
  const auto output = ::open(file.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  ::dup2(output, 1);
  ::dup2(output, 2);
  const auto set = [](const char* name, int value) { ::setenv(name, std::to_string(value).c_str(), 1); };
  set("RANK", rank);
  set("WORLD_SIZE", stage.fault.ranks);
  set("LOCAL_WORLD_SIZE", stage.fault.ranks);
  set("MASTER_PORT", stage.port);
  set("ROOKERY_TIMEOUT", stage.fault.timeout);
  ::setenv("ROOKERY_TOPOLOGY", std::string(Topology::name).c_str(), 1);
  int status = 1;
  try {
    status = with_topology<Topology>(Environment::read(), [&](auto topology) {
      try {
        train_rank(topology, stage);
      } catch (const Leaves&) {
      }
      return 0;
    });
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
  }
  std::exit(status);
}

/// Starts a process that is a rank, writes down how it ends, and ends likewise.
template <class Topology> [[noreturn]] void watch_rank(Stage& stage, int rank) {
  auto& watched = stage.ranks[static_cast<std::size_t>(rank)];
  const auto heeds_sigterm = std::signal(SIGTERM, SIG_IGN);  // which mpirun sends to both
  const auto process = ::fork();
  if (process == 0) {
    std::signal(SIGTERM, heeds_sigterm);
    play_rank<Topology>(stage, rank);
  }
  watched.process = process;
  int status = 0;
  ::waitpid(process, &status, 0);
  watched.status = status;
  watched.ended_at = Stage::now();
  if (!WIFSIGNALED(status)) ::_exit(WEXITSTATUS(status));
  std::signal(WTERMSIG(status), SIG_DFL);
  std::raise(WTERMSIG(status));
  ::_exit(1);
}
/// The role `fault_rank`, of a process that mpirun has started.
template <class Topology> int play_fault_rank() {
  watch_rank<Topology>(*Stage::in(::open(std::getenv("ROOKERY_TEST_STAGE"), O_RDWR | O_CLOEXEC)), ProcessEnvironment::read(false).rank);
}

/// Starts the processes that start the ranks.
template <class Topology> std::vector<pid_t> start_ranks(Stage& stage, int file) {
  std::vector<pid_t> started;
  std::fflush(nullptr);
  if constexpr (Topology::name == "mpi") {
    started.push_back(::fork());
    if (started.back() > 0) return started;
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    const int nowhere = ::open("/dev/null", O_RDWR);         // mpirun's own words
    for (const int standard : {0, 1, 2}) ::dup2(nowhere, standard);
    ::setenv("ROOKERY_TEST_ROLE", "fault_rank", 1);
    ::setenv("ROOKERY_TEST_STAGE", stage.file_of_starter(file).c_str(), 1);
    const auto self = std::filesystem::read_symlink("/proc/self/exe").string();
    const auto* const launcher = ROOKERY_SOURCE_DIR "/examples/mpirun";
    ::execl(launcher, launcher, std::to_string(stage.fault.ranks).c_str(), self.c_str(), nullptr);
    ::_exit(127);
  } else {
    for (int rank = 0; rank < stage.fault.ranks; ++rank) {
      started.push_back(::fork());
      if (started.back() > 0) continue;
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      watch_rank<Topology>(stage, rank);
    }
    return started;
  }
}

/// How one process ended.
struct RankEnd {
  bool has_ended = false;
  int status = 0;                                            // as waitpid gives it
  double after = 0;                                          // seconds after the fault
  std::string said{};
};
struct Outcome {
  std::vector<RankEnd> ranks{};
  std::vector<double> sums{};
  std::int64_t struck_step = 0;
  bool was_struck = false;
  double time_to_end = 0;                                    // of the last rank but the victim
  double load = 1;                                           // of the machine
  bool is_by_mpirun = false;                                 // which ends the ranks that are left by SIGTERM, and a second later by SIGKILL
};

/// Open MPI has lines of its own, "[host:process] ..", for a message that a peer did not live to send.
inline std::string without_lines_of_mpi(const std::string& said) {
  std::string rest;
  std::istringstream lines(said);
  for (std::string line; std::getline(lines, line);)
    if (!line.starts_with('[')) rest += line + '\n';
  return rest;
}

/// Starts the ranks, and waits for them, half a minute at most.
template <class Topology> Outcome play(const Fault& fault) {
  const auto tasks = std::filesystem::directory_iterator("/proc/self/task");
  check<Error>(std::distance(begin(tasks), end(tasks)) == 1, "faults: this process has threads and cannot fork");
  const rookery::detail::Descriptor file(::memfd_create("stage", MFD_CLOEXEC));
  check<Error>(::ftruncate(file.get(), sizeof(Stage)) == 0, "faults: no memory to share");
  auto& stage = *new (Stage::in(file.get())) Stage{.fault = fault, .port = rookery::detail::listen_somewhere().second};
  std::vector<rookery::detail::Descriptor> outputs;
  for (auto& rank : stage.ranks) rank.output = outputs.emplace_back(::memfd_create("output", MFD_CLOEXEC)).get();

  auto started = start_ranks<Topology>(stage, file.get());
  const auto ranks = static_cast<std::size_t>(fault.ranks), victim = static_cast<std::size_t>(fault.victim);
  const auto since_fault = [&](std::int64_t then) {
    return stage.struck_at == 0 ? 0. : static_cast<double>(then - stage.struck_at) * 1e-9;
  };
  bool is_continued = fault.kind != FaultKind::stopped;
  const Stopwatch clock;
  const auto wait_for_started = [&](double seconds) {
    while (clock.seconds() < seconds) {
      std::erase_if(started, [](pid_t process) { return ::waitpid(process, nullptr, WNOHANG) != 0; });
      if (started.empty()) return;
      bool others_ended = true;
      for (std::size_t rank = 0; rank < ranks; ++rank) others_ended = others_ended && (rank == victim || stage.ranks[rank].ended_at > 0);
      if (!is_continued && (fault.continued_after > 0 ? since_fault(Stage::now()) > fault.continued_after : others_ended)) {
        ::kill(stage.ranks[victim].process, SIGCONT);
        is_continued = true;
      }
      ::usleep(1000);
    }
  };
  wait_for_started(30);
  Outcome outcome{.struck_step = stage.struck_step, .was_struck = stage.struck_at != 0, .load = load(),
                  .is_by_mpirun = Topology::name == "mpi"};
  const bool in_time = started.empty();
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    const auto& one = stage.ranks[rank];
    const auto ended_at = in_time && one.ended_at == 0 ? Stage::now() : one.ended_at.load();
    auto& end = outcome.ranks.emplace_back(RankEnd{.has_ended = ended_at > 0, .status = one.status, .after = since_fault(ended_at)});
    if (rank != victim) outcome.time_to_end = std::max(outcome.time_to_end, end.after);
    if (!end.has_ended && one.process > 0) ::kill(one.process, SIGKILL);
    char bytes[4096];
    const auto count = ::pread(one.output, bytes, sizeof bytes, 0);
    end.said.assign(bytes, static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
    if (outcome.is_by_mpirun) end.said = without_lines_of_mpi(end.said);
    outcome.sums.push_back(one.sum);
  }
  wait_for_started(35);                                      // which end as their ranks do
  for (const auto process : started) {
    ::kill(process, SIGKILL);
    ::waitpid(process, nullptr, 0);
  }
  ::munmap(&stage, sizeof stage);
  return outcome;
}

/// What is wrong with how one rank ended; empty when nothing is.
inline std::string judge_rank(const Fault& fault, const Outcome& outcome, std::size_t rank) {
  const auto& end = outcome.ranks[rank];
  const bool is_victim = static_cast<int>(rank) == fault.victim;
  const auto contains = [&](const std::string& part) { return end.said.find(part) != std::string::npos; };
  if (!end.has_ended) return "did not end";
  if (is_victim && fault.kind == FaultKind::killed) return WIFSIGNALED(end.status) && end.said.empty() ? "" : "was not killed";
  if (is_victim && fault.ends_silently()) return end.said.empty() ? "" : "spoke at exit";
  const bool is_ended_by_mpirun = outcome.is_by_mpirun && WIFSIGNALED(end.status);           // as it ended, with its words said
  if (is_victim && is_ended_by_mpirun && fault.kind == FaultKind::stopped) return "";
  if (!is_ended_by_mpirun && (!WIFEXITED(end.status) || WEXITSTATUS(end.status) != 1)) return concat("ended with wait status ", end.status);
  if (std::count(end.said.begin(), end.said.end(), '\n') != 1 || end.said.back() != '\n') return "did not say one line";
  const auto at_step = [&](std::int64_t step) { return end.said.starts_with(concat("rank ", rank, ", step ", step, ", ")); };
  const auto struck = outcome.struck_step;                    // others may still wait for the last sum of the step before
  if (!at_step(struck - 1) && !at_step(struck) && !at_step(struck + 1)) return "does not say its rank and step";
  if (!contains(" number ") && !contains("before any collective")) return "does not say the collective";
  const double limit = (fault.kind == FaultKind::stopped ? fault.timeout : 0) + 2 * outcome.load;
  if (!is_victim && end.after > limit) return concat("ended after ", end.after, " s");
  const auto victim = concat("rank ", fault.victim);
  if (fault.ends_silently()) return end.said.ends_with(victim + " ended without a word\n") ? "" : "does not say who died";
  if (fault.kind == FaultKind::stopped) {
    const auto late = concat(" waited ", fault.timeout, "000 ms for ", victim, ", which does not answer");
    return is_victim || contains(late) ? "" : "does not say who is late";
  }
  if (fault.kind == FaultKind::throws) {
    const auto cause = concat(victim, ", step ", outcome.struck_step, ", ");
    return contains(cause) && end.said.ends_with(": a bad batch\n") ? "" : "does not say the cause";
  }
  const auto early = concat(victim, " returned before it; did every rank see the same number of batches?");
  return contains(early) ? "" : "does not say who left";
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
template <class Topology>
int run_faults(const std::vector<FaultKind>& kinds, const std::vector<int>& worlds, int runs, std::uint64_t seed) {
  int failed = 0, total = 0;
  for (const auto kind : kinds) {
    double longest = 0, load = 1;
    for (const int ranks : worlds)
      for (int run = 0; run < runs; ++run, ++total) {
        auto fault = draw_fault(kind, ranks, seed + static_cast<std::uint64_t>(total));
        auto outcome = play<Topology>(fault);
        for (int again = 0; again < 3 && kind == FaultKind::stopped && !outcome.was_struck; ++again) {  // no start by the deadline
          fault.timeout *= 2;
          outcome = play<Topology>(fault);
        }
        const auto wrong = judge(fault, outcome);
        longest = std::max(longest, outcome.time_to_end);
        load = std::max(load, outcome.load);
        if (wrong.empty()) continue;
        ++failed;
        std::printf("%s\n%s  again: tests/run faults --topology %s --fault %s --ranks %d --runs 1 --seed %llu\n", describe(fault).c_str(),
                    wrong.c_str(), std::string(Topology::name).c_str(), id_of(kind), ranks, static_cast<unsigned long long>(fault.seed));
      }
    std::printf("%s: from seed %llu on, the other ranks had ended %.2f s after the fault at the latest, at a load of %.1f per core at "
                "most\n", id_of(kind), static_cast<unsigned long long>(seed), longest, load);
  }
  std::printf("runs %d, failed %d\n", total, failed);
  return failed;
}

}  // namespace rookery::cases
