// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Gloo: ranks as processes, on one machine or many, over LibTorch's own Gloo. CPU tensors.
//
// A launcher starts the processes and says who they are (topology/process_environment.hpp). Every wait has a deadline, and ends within
// seconds when another rank dies or fails, whatever the deadline: a link of our own watches for that (topology/liveness.hpp). In the
// check level `communicating` ranks compare what they are about to do before each collective (topology/fingerprint.hpp). Without it a
// message that is longer than its receiver expects ends the receiver, with a line that says so, and the others by it; a shorter one is
// taken, and the rest of what it was to fill holds anything.
// Answers to torch.distributed with the gloo backend, without Python.  Include cost: c10d, 9 s.

#if !__has_include(<gloo/context.h>)
#error "rookery/topology/gloo.hpp: Gloo's headers are not in LibTorch; add -idirafter <rookery>/include/rookery/shim"
#endif
#ifndef USE_C10D_GLOO                            // a file that includes c10d's Gloo itself defines it before
#define USE_C10D_GLOO
#endif

#include <ATen/core/Tensor.h>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <rookery/concepts/communicator.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/topology/one_line.hpp>
#include <rookery/topology/process_environment.hpp>
#include <rookery/topology/process_group.hpp>
#include <rookery/topology/rank_rows.hpp>
#include <rookery/topology/store.hpp>

namespace rookery {

namespace detail {

/// Rings when a wait may be over. Whoever may ring it late holds it.
struct Bell {
  std::mutex mutex;
  std::condition_variable changed;
  void ring() {
    const std::lock_guard lock(mutex);
    changed.notify_all();
  }
};

/// A peer that is gone is an error, not the end of this process; a program's own handler stays.
inline void ignore_broken_pipes() {
  struct sigaction now {};
  ::sigaction(SIGPIPE, nullptr, &now);
  if (!(now.sa_flags & SA_SIGINFO) && now.sa_handler == SIG_DFL) std::signal(SIGPIPE, SIG_IGN);
}

/// The connections of one process to its group.
class GlooGroup : public ProcessGroup {
 public:
  explicit GlooGroup(const ProcessEnvironment& environment) : ProcessGroup(environment) {
    ignore_broken_pipes();
    explain_terminate();
    join("gloo", concat(" at ", environment.master_address, ":", environment.master_port), [&] {
      store_ = join_store(environment);
      meet(meeting_in(store_, environment), [bell = bell_] { bell->ring(); });
      connect();
    });
    const std::lock_guard lock(posting_);
    joined_.push_back(this);
  }
  /// A broken group's threads may wait for ever, so that one is not taken down.
  ~GlooGroup() {
    {
      const std::lock_guard lock(posting_);
      std::erase(joined_, this);
    }
    if (broken_) group_.release();
  }

  /// Calls `fn(backend)`, which posts collective `number`. One at a time in a process that is several ranks: LibTorch's flight recorder,
  /// one for all groups, is not safe otherwise. Errors: CommunicationError naming rank, step, collective and cause.
  template <class Fn> c10::intrusive_ptr<c10d::Work> post(std::string_view verb, std::int64_t number, const Fn& fn) {
    const std::lock_guard lock(posting_);
    try {
      return fn(static_cast<c10d::Backend&>(*group_));
    } catch (const std::exception& error) {
      fail<CommunicationError>(in(verb, number), ": ", one_line(error));
    }
  }
  /// Waits for the work of collective `number`. Errors: CommunicationError naming rank, step, collective and cause.
  void wait(c10d::Work& work, std::string_view verb, std::int64_t number) {
    const auto future = work.getFuture();
    future->addCallback([bell = bell_](auto&) { bell->ring(); });
    {
      std::unique_lock lock(bell_->mutex);
      bell_->changed.wait_for(lock, environment_.timeout, [&] { return future->completed() || is_in_vain(number); });
    }
    if (!future->completed()) give_up(verb, number);
    try {
      work.wait();
    } catch (const std::exception& error) {
      fail_in(verb, number, error);
    }
  }

 protected:
  StorePointer store_;

 private:
  /// A message that is longer than what it is to fill makes Gloo throw in a thread of its own, where nobody can catch it: the process says
  /// what that means, to the other ranks too, and ends. Whatever else terminates it is left to the handler before.
  static void explain_terminate() {
    static const std::terminate_handler before = std::set_terminate([] {
      try {
        if (const auto failed = std::current_exception()) std::rethrow_exception(failed);
      } catch (const std::exception& error) {
        if (std::string_view(error.what()).find("gloo/transport/") != std::string_view::npos) end_with_line();
      } catch (...) {
      }
      before();
    });
  }
  [[noreturn]] static void end_with_line() {
    std::unique_lock lock(posting_);
    if (joined_.empty()) {                                   // another rank's line came first, and the program is about to say it and end
      lock.unlock();
      std::this_thread::sleep_for(std::chrono::seconds(10));
    }
    for (auto* const group : joined_) {
      const auto cause = concat(group->where(), ": a message is longer than what this rank expects; do all ranks give tensors of one size? "
                                "With ROOKERY_CHECK=communicating they say which do not");
      std::fprintf(stderr, "%s\n", cause.c_str());
      group->abort(cause);
    }
    std::_Exit(1);
  }

  std::shared_ptr<::gloo::transport::Device> device() const {
    const char* named = std::getenv("GLOO_SOCKET_IFNAME");
    if (named && *named) return c10d::ProcessGroupGloo::createDeviceForInterface(named);
    if (environment_.world_size == environment_.local_world_size) return c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1");
    return c10d::ProcessGroupGloo::createDefaultDevice();
  }
  /// Connects Gloo's own links, which waits for every rank: in a thread, which is left behind when one has died before it was through.
  void connect() {
    struct Connecting {
      c10::intrusive_ptr<c10d::ProcessGroupGloo> group;
      std::exception_ptr failed;
      bool over = false;
    };
    const auto connecting = std::make_shared<Connecting>();
    const auto options = c10d::ProcessGroupGloo::Options::create(environment_.timeout + std::chrono::seconds(10));   // ours is first
    options->devices.push_back(device());
    std::thread([connecting, options, bell = bell_, store = store_, rank = environment_.rank, ranks = environment_.world_size] {
      Connecting made;
      try {
        made.group = c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, ranks, options);
      } catch (...) {
        made.failed = std::current_exception();
      }
      {
        const std::lock_guard lock(bell->mutex);
        *connecting = {std::move(made.group), made.failed, true};
      }
      bell->ring();
    }).detach();
    std::exception_ptr failed;
    {
      std::unique_lock lock(bell_->mutex);
      bell_->changed.wait_for(lock, environment_.timeout, [&] { return connecting->over || !cause().empty(); });
      group_ = std::move(connecting->group);
      failed = connecting->failed;
    }
    if (group_ && !liveness_->gather("connected", 0, environment_.timeout).empty()) return;  // and so are all
    const auto why = failed ? cause_soon() : cause();
    check<CommunicationError>(why.empty(), why);
    if (failed) std::rethrow_exception(failed);
    fail<CommunicationError>("waited ", environment_.timeout.count(), " ms for ranks that have met to connect");
  }

  static inline std::mutex posting_;
  static inline std::vector<GlooGroup*> joined_;
  std::shared_ptr<Bell> bell_ = std::make_shared<Bell>();
  c10::intrusive_ptr<c10d::ProcessGroupGloo> group_;
};

}  // namespace detail

/// One process of a group over Gloo.
///
///   auto topology = Gloo::join(ProcessEnvironment::read());    ...    topology.leave();
/// or by with_topology, which also says why a rank failed.
class Gloo : public detail::ProcessTopology<detail::GlooGroup> {
 public:
  static constexpr std::string_view name = "gloo";

  /// Meets the other ranks. Errors: CommunicationError when they do not come before the deadline.
  /// The network interface is that of GLOO_SOCKET_IFNAME, else loopback where all ranks are on one node.
  static Gloo join(const ProcessEnvironment& environment) { return Gloo(environment); }

  c10::Device device() const { return c10::Device(c10::DeviceType::CPU); }

  auto all_to_all_v(at::Tensor send, Counts send_counts, Counts recv_counts);
  auto all_reduce(at::Tensor tensor, ReduceOp op);
  auto reduce_scatter_v(at::Tensor tensor, Counts counts);
  auto all_gather_v(at::Tensor tensor);
  auto broadcast(at::Tensor tensor, int root);
  auto barrier();

 protected:
  using ProcessTopology::ProcessTopology;
};

inline auto Gloo::all_to_all_v(at::Tensor send, Counts send_counts, Counts recv_counts) {
  const auto number = group_->next_number("all_to_all_v", [&] {
    return detail::with_counts(detail::fingerprint_of_all_to_all_v(send), send_counts, recv_counts);
  });
  detail::check_counts("all_to_all_v", send, send_counts, world_size());
  auto in = send.contiguous();
  auto out = detail::empty_rows(in, {detail::sum_of(recv_counts)});                          // [sum(recv_counts), ...]
  const auto post = [&](c10d::Backend& backend) { return backend.alltoall_base(out, in, recv_counts, send_counts); };
  return posted("all_to_all_v", number, post, [in, out](auto&) { return out; });
}

inline auto Gloo::all_reduce(at::Tensor tensor, ReduceOp op) {
  const auto number = group_->next_number("all_reduce", [&] { return detail::fingerprint_of_all_reduce(tensor, op); });
  std::vector<at::Tensor> held{tensor.detach().contiguous().clone()};
  c10d::AllreduceOptions options;
  options.reduceOp = op == ReduceOp::sum ? c10d::ReduceOp::SUM : op == ReduceOp::max ? c10d::ReduceOp::MAX : c10d::ReduceOp::MIN;
  const auto post = [&](c10d::Backend& backend) { return backend.allreduce(held, options); };
  return posted("all_reduce", number, post, [held](auto&) { return held.front(); });
}

/// Parts go to their ranks, which sum them in rank order: less than the all-reduce that c10d would do, and the same from run to run.
inline auto Gloo::reduce_scatter_v(at::Tensor tensor, Counts counts) {
  const auto number = group_->next_number("reduce_scatter_v", [&] { return detail::fingerprint_of_reduce_scatter_v(tensor, counts); });
  detail::check_counts("reduce_scatter_v", tensor, counts, world_size());
  const auto rows = counts[static_cast<std::size_t>(rank())];
  auto in = tensor.contiguous();
  const auto brought = detail::empty_rows(in, {world_size(), rows});                         // [W, rows, ...]
  auto out = brought.flatten(0, 1);                                                          // [W * rows, ...]
  Counts arriving(counts.size(), rows);
  const auto post = [&](c10d::Backend& backend) { return backend.alltoall_base(out, in, arriving, counts); };
  return posted("reduce_scatter_v", number, post, [in, brought](auto&) { return detail::in_rank_order(brought, ReduceOp::sum); });
}

/// Two exchanges: numbers of rows, then rows; c10d's own gather wants equal numbers.
inline auto Gloo::all_gather_v(at::Tensor tensor) {
  const auto number = group_->next_number("all_gather_v", [&] { return detail::fingerprint_of_all_gather_v(tensor); });
  const auto ranks = static_cast<std::size_t>(world_size());
  Counts ones(ranks, 1);
  auto own_rows = ops::empty({world_size()}, at::kLong).fill_(tensor.size(0));               // [W]
  auto rows = ops::empty(own_rows.sizes(), own_rows.options());                       // [W]
  const auto post_rows = [&](c10d::Backend& backend) { return backend.alltoall_base(rows, own_rows, ones, ones); };
  group_->wait(*group_->post("all_gather_v", number, post_rows), "all_gather_v", number);
  const auto* count = rows.const_data_ptr<std::int64_t>();
  Counts arriving(count, count + ranks), leaving(ranks, tensor.size(0));
  const auto own = tensor.detach().contiguous();
  auto in = ops::cat(std::vector<at::Tensor>(ranks, own));                                   // [W * rows, ...]
  auto out = detail::empty_rows(in, {detail::sum_of(arriving)});                             // [sum(arriving), ...]
  const auto post = [&](c10d::Backend& backend) { return backend.alltoall_base(out, in, arriving, leaving); };
  return posted("all_gather_v", number, post, [in, out, arriving](auto&) { return detail::rows_of_ranks(out, arriving); });
}

inline auto Gloo::broadcast(at::Tensor tensor, int root) {
  const auto number = group_->next_number("broadcast", [&] { return detail::fingerprint_of_broadcast(tensor, root); });
  std::vector<at::Tensor> held{tensor.detach().contiguous().clone()};
  c10d::BroadcastOptions options;
  options.rootRank = root;
  const auto post = [&](c10d::Backend& backend) { return backend.broadcast(held, options); };
  return posted("broadcast", number, post, [held](auto&) { return held.front(); });
}

inline auto Gloo::barrier() {
  const auto number = group_->next_number("barrier", [] { return std::string("barrier"); });
  std::vector<at::Tensor> held{ops::empty({1}, at::kLong).fill_(0)};                         // [1]
  const auto post = [&](c10d::Backend& backend) { return backend.allreduce(held); };
  return posted("barrier", number, post, [held](auto&) { return true; });
}

}  // namespace rookery
