// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Mpi: ranks as processes that mpirun or srun starts, over MPI-3's non-blocking collectives. CPU tensors.
//
// Every wait but MPI's own to begin and to finalize has a deadline, and sleeps between its looks: MPI's waits spin, which takes the core
// from whom they wait for. A rank that dies or fails ends the others at once (topology/liveness.hpp), which MPI alone leaves to the
// launcher, if it has one that cares. In the check level `communicating` ranks compare what they are about to do before each collective
// (topology/fingerprint.hpp).
// Sums are taken here, in rank order: MPI promises that all ranks get the same bits of a sum, but not that two runs do.
// Needs mpi.h (topology/mpi_communicator.hpp).  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <signal.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <mutex>
#include <numeric>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <rookery/concepts/communicator.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/mix.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/topology/liveness.hpp>
#include <rookery/topology/mpi_communicator.hpp>
#include <rookery/topology/process_environment.hpp>
#include <rookery/topology/process_group.hpp>
#include <rookery/topology/rank_rows.hpp>

namespace rookery {

namespace detail {

/// Gives the process one second to say why it ends when mpirun, for which another process has died or failed, ends it by SIGTERM.
/// A second SIGTERM ends it at once; a program with a handler of its own keeps that.
inline void take_leave_on_sigterm() {
  static timer_t timer;
  static const bool installed = [] {
    struct sigaction now {};
    if (::sigaction(SIGTERM, nullptr, &now) != 0 || now.sa_handler != SIG_DFL) return false;
    sigevent again{};
    again.sigev_notify = SIGEV_SIGNAL;
    again.sigev_signo = SIGTERM;
    if (::timer_create(CLOCK_MONOTONIC, &again, &timer) != 0) return false;
    now.sa_handler = [](int) {
      const itimerspec in_a_second{{}, {1, 0}};
      ::timer_settime(timer, 0, &in_a_second, nullptr);
    };
    now.sa_flags = static_cast<int>(SA_RESETHAND) | SA_RESTART;
    return ::sigaction(SIGTERM, &now, nullptr) == 0;
  }();
  (void)installed;
}

/// Bytes of so many rows of `like` [n, ...].
inline Counts bytes_of(Counts rows, const at::Tensor& like) {
  auto bytes = static_cast<std::int64_t>(like.element_size());
  for (const auto size : like.sizes().slice(1)) bytes *= size;
  for (auto& one : rows) one *= bytes;
  return rows;
}

/// The processes of a group.
class MpiGroup : public ProcessGroup {
 public:
  explicit MpiGroup(const ProcessEnvironment& environment) : ProcessGroup(environment) {
    environment_.rank = mpi_.world_rank();
    const int started = std::exchange(environment_.world_size, mpi_.world_size());
    check<ConfigError>(started == 1 || environment_.world_size > 1, "mpi: the launcher started ", started,
                       " processes, but MPI knows of one only; is it the launcher of the MPI that this program is linked with?");
    join("mpi", "", [&] {
      const auto work = mpi_.start();
      wait_at_start(*work);
      mpi_.started(*work);
      moving_on_ = std::jthread([this](std::stop_token stop) { keep_moving(stop); });
      find_node();
      meet(meeting());
    });
    take_leave_on_sigterm();
  }

  /// The work that `fn(mpi)` posts for collective `number`. Errors: CommunicationError as in `wait`.
  template <class Fn> MpiWork::Pointer post(std::string_view verb, std::int64_t number, const Fn& fn) {
    try {
      return fn(mpi_);
    } catch (const CommunicationError& error) {
      fail<CommunicationError>(in(verb, number), ": ", error.what());
    }
  }
  /// Every rank gets by `op` what all ranks bring of the shares [bytes] that each combines: what `work` exchanges.
  void combine_shares(const MpiWork::Pointer& work, Counts shares, ReduceOp op, std::int64_t number) {
    work->shares = std::move(shares);
    work->op = op;
    work->number = number;
    const std::lock_guard lock(moving_);
    in_shares_.push_back(work);
  }

  /// Waits for the work of collective `number`. Errors: CommunicationError naming rank, step, collective and cause.
  void wait(MpiWork& work, std::string_view verb, std::int64_t number) {
    bool in_time = false;
    try {
      in_time = look_for(work, [&] { return is_in_vain(number); });
    } catch (const std::exception& error) {
      fail_in(verb, number, error);
    }
    if (!in_time) give_up(verb, number);
  }

  /// Ends in order: waits until all ranks have. Errors: CommunicationError when one has failed, or has not come at the deadline.
  void leave() {
    ProcessGroup::leave();
    const auto all_here = mpi_.barrier();
    const bool in_time = look_for(*all_here, [] { return false; });
    check<CommunicationError>(in_time, where(), ": waited ", environment_.timeout.count(), " ms for ranks that were to end too");
    moving_on_ = {};
    mpi_.free();
  }

 private:
  /// What came of this rank's share is combined, and goes to all.
  void spread(MpiWork& work) {
    const auto shares = work.shares;
    const auto sum = in_rank_order(work.out, work.op);                                       // [own]
    work.out = ops::empty(work.in.sizes(), work.in.options());                               // [n]
    const auto before = std::accumulate(shares.begin(), shares.begin() + environment_.rank, std::int64_t{0});
    std::memcpy(static_cast<char*>(work.out.mutable_data_ptr()) + before, sum.const_data_ptr(), sum.nbytes());
    mpi_.spread(work, shares, environment_.rank);
    work.shares.clear();
  }
  /// Spreads what can be of the sums in shares: other ranks may wait for it.
  void spread_all() {
    std::erase_if(in_shares_, [&](const auto& one) {
      try {
        if (!one->done()) return false;
        spread(*one);
      } catch (const std::exception&) {                      // whoever waits for it is told
        one->failed = std::current_exception();
      }
      return true;
    });
  }
  std::size_t bytes_of(const MpiWork& work) {
    const std::lock_guard lock(moving_);                     // its output changes when sums in shares are spread
    return work.bytes();
  }
  /// Moves on. Gives whether the work is done.
  bool moved_on(MpiWork& work) {
    const std::lock_guard lock(moving_);
    spread_all();
    if (work.failed) std::rethrow_exception(work.failed);
    return work.done() && work.shares.empty();
  }
  /// Messages of a rank may lie still until it calls MPI again, also those that it is done with. So it is called now and then, for ranks
  /// that wait for one that computes.
  void keep_moving(const std::stop_token& stop) {
    std::condition_variable_any nap;
    for (std::unique_lock lock(moving_); !stop.stop_requested();) {
      try {
        mpi_.move_on();
      } catch (const std::exception&) {                      // whoever waits for a message meets it again
      }
      spread_all();
      nap.wait_for(lock, stop, std::chrono::milliseconds(2), [] { return false; });
    }
  }

  template <class Stop> bool look_for(MpiWork& work, const Stop& stop) {
    return look([&] { return moved_on(work); }, stop, bytes_of(work));
  }
  void wait_at_start(MpiWork& work) {
    if (look_for(work, [&] { return !cause().empty(); })) return;
    const auto why = cause();
    check<CommunicationError>(why.empty(), why);
    fail<CommunicationError>("waited ", environment_.timeout.count(), " ms for the other ranks");
  }
  /// Which ranks are on this node: those that say the same name of a host and of a start of its system.
  void find_node() {
    auto host = mpi_.host();
    std::string start;
    if (std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), start)) host += start;
    auto own = ops::empty({1}, at::kLong).fill_(static_cast<std::int64_t>(hash_bytes(host)));
    const auto ranks = environment_.world_size;
    const Counts bytes(static_cast<std::size_t>(ranks), sizeof(std::int64_t));
    const auto work = mpi_.gather(own, ops::empty({ranks}, at::kLong), bytes);               // [W]
    wait_at_start(*work);
    const auto* const of = work->out.const_data_ptr<std::int64_t>();
    environment_.local_rank = static_cast<int>(std::count(of, of + environment_.rank, of[environment_.rank]));
    environment_.local_world_size = static_cast<int>(std::count(of, of + ranks, of[environment_.rank]));
  }
  /// Rank 0's text, at every rank.
  std::string told_by_first(std::string_view text) {
    auto bytes = ops::empty({256}, at::kByte).fill_(0);                                      // [256]
    auto* characters = bytes.mutable_data_ptr<std::uint8_t>();
    std::copy(text.begin(), text.begin() + std::min<std::ptrdiff_t>(std::ssize(text), 255), characters);
    wait_at_start(*mpi_.broadcast(bytes, 0));
    return reinterpret_cast<const char*>(characters);
  }
  /// Rank 0 tells its host and port over MPI.
  Liveness::Meeting meeting() {
    const char* named = std::getenv("MASTER_ADDR");
    const bool together = environment_.world_size == environment_.local_world_size;
    return {.host = told_by_first(together ? "127.0.0.1" : named ? named : mpi_.host()),
            .publish = [this](int port) { told_by_first(std::to_string(port)); },
            .look_up = [this] { return std::stoi(told_by_first("")); }};
  }

  MpiCommunicator mpi_;
  std::mutex moving_;
  std::vector<MpiWork::Pointer> in_shares_;      // sums that are yet to be spread
  std::jthread moving_on_;
};

}  // namespace detail

/// One process of a group over MPI.
///
///   auto topology = Mpi::join();    ...    topology.leave();
/// or by with_topology, which also says why a rank failed. A program that has initialised MPI finalizes it, after leave().
class Mpi : public detail::ProcessTopology<detail::MpiGroup> {
 public:
  static constexpr std::string_view name = "mpi";

  /// Meets the other ranks: those of MPI_COMM_WORLD, whatever the environment says of them; the deadline is the environment's.
  /// Errors: ConfigError where the launcher is not that of the MPI linked; CommunicationError when ranks do not come before the deadline.
  static Mpi join(const ProcessEnvironment& environment = ProcessEnvironment::read(false)) { return Mpi(environment); }

  c10::Device device() const { return c10::Device(c10::DeviceType::CPU); }

  auto all_to_all_v(at::Tensor send, Counts send_counts, Counts recv_counts);
  auto all_reduce(at::Tensor tensor, ReduceOp op);
  auto reduce_scatter_v(at::Tensor tensor, Counts counts);
  auto all_gather_v(at::Tensor tensor);
  auto broadcast(at::Tensor tensor, int root);
  auto barrier();

 private:
  using ProcessTopology::ProcessTopology;
};

inline auto Mpi::all_to_all_v(at::Tensor send, Counts send_counts, Counts recv_counts) {
  const auto number = group_->next_number("all_to_all_v", [&] {
    return detail::with_counts(detail::fingerprint_of_all_to_all_v(send), send_counts, recv_counts);
  });
  detail::check_counts("all_to_all_v", send, send_counts, world_size());
  auto in = send.detach().contiguous();
  auto out = detail::empty_rows(in, {detail::sum_of(recv_counts)});                          // [sum(recv_counts), ...]
  const auto sent = detail::bytes_of(std::move(send_counts), in), received = detail::bytes_of(std::move(recv_counts), in);
  return posted(
      "all_to_all_v", number, [&](auto& mpi) { return mpi.exchange(std::move(in), sent, std::move(out), received); },
      [](auto& work) { return work.out; });
}

/// For two ranks, and for little data, each gets what all brought and combines it. Else each combines its share for all, so that what
/// moves does not grow with the ranks.
inline auto Mpi::all_reduce(at::Tensor tensor, ReduceOp op) {
  const auto number = group_->next_number("all_reduce", [&] { return detail::fingerprint_of_all_reduce(tensor, op); });
  const std::int64_t ranks = world_size(), size = tensor.numel();
  auto in = tensor.detach().contiguous().view(-1);                                           // [n]
  const bool at_once = ranks <= 2 || static_cast<std::int64_t>(in.nbytes()) * ranks <= 1 << 16;
  Counts shares;                                                                             // [W]
  for (std::int64_t rank = 0; rank < ranks; ++rank) shares.push_back(at_once ? size : size * (rank + 1) / ranks - size * rank / ranks);
  const auto own = shares[static_cast<std::size_t>(rank())];
  auto out = detail::empty_rows(in, {ranks, own});                                           // [W, own]
  const auto arriving = detail::bytes_of(Counts(static_cast<std::size_t>(ranks), own), in);
  auto leaving = detail::bytes_of(std::move(shares), in);
  const auto post = [&](detail::MpiCommunicator& mpi) {
    if (at_once) return mpi.gather(in, std::move(out), arriving);
    auto work = mpi.exchange(in, leaving, std::move(out), arriving);
    group_->combine_shares(work, std::move(leaving), op, number);
    return work;
  };
  return posted("all_reduce", number, post, [at_once, op, shape = tensor.sizes().vec()](auto& work) {
    return (at_once ? detail::in_rank_order(work.out, op) : work.out).view(shape);
  });
}

inline auto Mpi::reduce_scatter_v(at::Tensor tensor, Counts counts) {
  const auto number = group_->next_number("reduce_scatter_v", [&] { return detail::fingerprint_of_reduce_scatter_v(tensor, counts); });
  detail::check_counts("reduce_scatter_v", tensor, counts, world_size());
  auto in = tensor.detach().contiguous();
  const auto own = counts[static_cast<std::size_t>(rank())];
  auto out = detail::empty_rows(in, {world_size(), own});                                    // [W, own, ...]
  const auto arriving = detail::bytes_of(Counts(counts.size(), own), in), leaving = detail::bytes_of(std::move(counts), in);
  return posted(
      "reduce_scatter_v", number, [&](auto& mpi) { return mpi.exchange(std::move(in), leaving, std::move(out), arriving); },
      [](auto& work) { return detail::in_rank_order(work.out, ReduceOp::sum); });
}

/// Numbers of rows first, which are waited for here.
inline auto Mpi::all_gather_v(at::Tensor tensor) {
  const auto number = group_->next_number("all_gather_v", [&] { return detail::fingerprint_of_all_gather_v(tensor); });
  const auto ranks = static_cast<std::size_t>(world_size());
  const auto counted = group_->post("all_gather_v", number, [&](auto& mpi) {
    return mpi.gather(ops::empty({1}, at::kLong).fill_(tensor.size(0)), ops::empty({world_size()}, at::kLong),  // [W]
                      Counts(ranks, sizeof(std::int64_t)));
  });
  group_->wait(*counted, "all_gather_v", number);
  const auto* rows = counted->out.const_data_ptr<std::int64_t>();
  Counts arriving(rows, rows + ranks);
  auto in = tensor.detach().contiguous();
  auto out = detail::empty_rows(in, {detail::sum_of(arriving)});                             // [sum(arriving), ...]
  const auto bytes = detail::bytes_of(arriving, in);
  return posted(
      "all_gather_v", number, [&](auto& mpi) { return mpi.gather(std::move(in), std::move(out), bytes); },
      [arriving](auto& work) { return detail::rows_of_ranks(work.out, arriving); });
}

inline auto Mpi::broadcast(at::Tensor tensor, int root) {
  const auto number = group_->next_number("broadcast", [&] { return detail::fingerprint_of_broadcast(tensor, root); });
  return posted(
      "broadcast", number, [&](auto& mpi) { return mpi.broadcast(tensor.detach().contiguous().clone(), root); },
      [](auto& work) { return work.out; });
}

inline auto Mpi::barrier() {
  const auto number = group_->next_number("barrier", [] { return std::string("barrier"); });
  return posted("barrier", number, [](auto& mpi) { return mpi.barrier(); }, [](auto&) { return true; });
}

}  // namespace rookery
