// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Gloo: ranks as processes, on one machine or many, over LibTorch's own Gloo. CPU tensors.
//
// A launcher starts the processes and says who they are (topology/process_environment.hpp). Every wait has a deadline, and ends within
// seconds when another rank dies or fails, whatever the deadline: a link of our own watches for that (topology/liveness.hpp). In the
// check level `communicating` ranks compare what they are about to do before each collective (topology/fingerprint.hpp).
// Answers to torch.distributed with the gloo backend, without Python.  Include cost: c10d, 9 s.

#if !__has_include(<gloo/context.h>)
#error "rookery/topology/gloo.hpp: Gloo's headers are not in LibTorch; add -idirafter <rookery>/include/rookery/shim"
#endif
#ifndef USE_C10D_GLOO                            // a file that includes c10d's Gloo itself defines it before
#define USE_C10D_GLOO
#endif

#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <rookery/concepts/communicator.hpp>
#include <rookery/core/clock.hpp>
#include <rookery/core/error.hpp>
#include <rookery/topology/error_file.hpp>
#include <rookery/topology/fingerprint.hpp>
#include <rookery/topology/liveness.hpp>
#include <rookery/topology/one_line.hpp>
#include <rookery/topology/process_environment.hpp>

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
class GlooGroup {
 public:
  explicit GlooGroup(ProcessEnvironment environment) : environment_(std::move(environment)) {
    ignore_broken_pipes();
    try {
      c10d::TCPStoreOptions at;
      at.port = static_cast<std::uint16_t>(environment_.master_port);
      at.isServer = environment_.rank == 0 && !environment_.agent_store;
      at.waitWorkers = false;
      at.timeout = environment_.timeout;
      at.multiTenant = true;
      const auto store = c10::make_intrusive<c10d::TCPStore>(environment_.master_address, at);
      store_ = c10::make_intrusive<c10d::PrefixStore>(concat("rookery/", environment_.attempt), store);
      liveness_ = std::make_unique<Liveness>(environment_.rank, environment_.world_size, meeting(), environment_.timeout,
                                             [bell = bell_] { bell->ring(); });
      connect();
    } catch (const std::exception& error) {
      const auto cause = concat("gloo: rank ", environment_.rank, " of ", environment_.world_size, " did not join the group at ",
                                environment_.master_address, ":", environment_.master_port, ": ", one_line(error));
      if (liveness_) liveness_->fail(cause);
      write_error_file(environment_.error_file, cause);
      fail<CommunicationError>(cause);
    }
  }
  GlooGroup(const GlooGroup&) = delete;
  GlooGroup& operator=(const GlooGroup&) = delete;
  /// A broken group's threads may wait for ever, so that one is not taken down.
  ~GlooGroup() {
    if (broken_) group_.release();
  }

  const ProcessEnvironment& environment() const { return environment_; }
  /// Calls `fn(backend)`, which posts a collective. One at a time in a process that is several ranks: LibTorch's flight recorder, one for
  /// all groups, is not safe otherwise.
  template <class Fn> auto post(Fn&& fn) {
    const std::lock_guard lock(posting_);
    return fn(static_cast<c10d::Backend&>(*group_));
  }
  void at_step(std::int64_t step) { step_ = step; }
  /// Ends when ranks are about to do different things, in the check level `communicating`; `said()` is what this one is.
  template <class Fn> void compare(std::string_view verb, Fn&& said) {
    if (environment_.check_level != CheckLevel::communicating) return;
    const auto all = liveness_->gather(said(), posted_ + 1, environment_.timeout);
    if (all.empty()) give_up(verb, posted_);
    const auto wrong = disagreement(posted_, all);
    check<CommunicationError>(wrong.empty(), "rank ", environment_.rank, ", step ", step_, ": ", wrong);
  }
  /// Counts a collective and gives its number.
  std::int64_t next_number(std::string_view verb) {
    verb_ = verb;
    liveness_->come_to(posted_ + 1);
    return posted_++;
  }

  /// Waits for the work of collective `number`. Errors: CommunicationError naming rank, step, collective and cause.
  void wait(const c10::intrusive_ptr<c10d::Work>& work, std::string_view verb, std::int64_t number) {
    const auto future = work->getFuture();
    future->addCallback([bell = bell_](auto&) { bell->ring(); });
    {
      std::unique_lock lock(bell_->mutex);
      bell_->changed.wait_for(lock, environment_.timeout, [&] {
        return future->completed() || liveness_->left_before(number + 1) >= 0 || !liveness_->cause().empty();
      });
    }
    if (!future->completed()) give_up(verb, number);
    try {
      work->wait();
    } catch (const std::exception& error) {
      broken_ = true;
      const auto cause = cause_soon();
      fail<CommunicationError>(in(verb, number), ": ", cause.empty() ? one_line(error) : cause);
    }
  }

  /// Tells all ranks why this one ends.
  void abort(std::string_view cause) {
    broken_ = true;
    write_error_file(environment_.error_file, cause);
    liveness_->fail(cause);
  }
  /// Ends in order: waits until all ranks have. Errors: CommunicationError when one has failed.
  void leave() {
    liveness_->leave(posted_);
    std::unique_lock lock(bell_->mutex);
    bell_->changed.wait_for(lock, environment_.timeout, [&] { return liveness_->all_left() || !liveness_->cause().empty(); });
    check<CommunicationError>(liveness_->all_left() || liveness_->cause().empty(), where(), ": ", liveness_->cause());
  }
  /// "rank 1, step 12, after all_reduce number 40": where this rank is, for messages.
  std::string where() const {
    return concat("rank ", environment_.rank, ", step ", step_, ", ",
                  verb_.empty() ? "before any collective" : concat("after ", verb_, " number ", posted_ - 1));
  }

 private:
  Liveness::Meeting meeting() {
    return {.host = environment_.master_address,
            .publish = [this](int port) { store_->set("liveness", std::to_string(port)); },
            .look_up = [this] { return std::stoi(store_->get_to_str("liveness")); }};
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
      const auto over = [&] { return connecting->over || !liveness_->cause().empty(); };
      bell_->changed.wait_for(lock, environment_.timeout, over);
      group_ = std::move(connecting->group);
      failed = connecting->failed;
    }
    if (group_ && !liveness_->gather("connected", 0, environment_.timeout).empty()) return;  // and so are all
    const auto cause = failed ? cause_soon() : liveness_->cause();
    check<CommunicationError>(cause.empty(), cause);
    if (failed) std::rethrow_exception(failed);
    fail<CommunicationError>("waited ", environment_.timeout.count(), " ms for ranks that have met to connect");
  }
  std::string in(std::string_view verb, std::int64_t number) const {
    return concat("rank ", environment_.rank, ", step ", step_, ", ", verb, " number ", number);
  }
  /// Says why collective `number` will not be.
  [[noreturn]] void give_up(std::string_view verb, std::int64_t number) {
    broken_ = true;
    const auto cause = liveness_->cause();
    const auto early = liveness_->left_before(number + 1);
    check<CommunicationError>(cause.empty(), in(verb, number), ": ", cause);
    check<CommunicationError>(early < 0, in(verb, number), ": rank ", early, " returned before it", same_batches);
    fail<CommunicationError>(in(verb, number), ": waited ", environment_.timeout.count(), " ms for ", liveness_->late_ranks(number + 1));
  }
  /// What the other ranks say went wrong; a death is often known to Gloo a moment earlier.
  std::string cause_soon() {
    std::unique_lock lock(bell_->mutex);
    bell_->changed.wait_for(lock, std::chrono::seconds(1), [&] { return !liveness_->cause().empty(); });
    return liveness_->cause();
  }

  static inline std::mutex posting_;
  ProcessEnvironment environment_;
  std::shared_ptr<Bell> bell_ = std::make_shared<Bell>();
  c10::intrusive_ptr<c10d::Store> store_;
  std::unique_ptr<Liveness> liveness_;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> group_;
  std::int64_t posted_ = 0, step_ = 0;
  std::string_view verb_;                                    // the last
  bool broken_ = false;
};

}  // namespace detail

/// One process of a group over Gloo.
///
///   auto topology = Gloo::join(ProcessEnvironment::read());    ...    topology.leave();
/// or by with_topology, which also says why a rank failed.
class Gloo {
 public:
  static constexpr bool is_distributed = true;
  static constexpr std::string_view name = "gloo";

  /// Meets the other ranks. Errors: CommunicationError when they do not come before the deadline.
  /// The network interface is that of GLOO_SOCKET_IFNAME, else loopback where all ranks are on one node.
  static Gloo join(const ProcessEnvironment& environment) { return Gloo(std::make_shared<detail::GlooGroup>(environment)); }

  int rank() const { return group_->environment().rank; }
  int world_size() const { return group_->environment().world_size; }
  int local_world_size() const { return group_->environment().local_world_size; }
  c10::Device device() const { return c10::Device(c10::DeviceType::CPU); }
  /// Tells error messages which step this rank is at.
  void at_step(std::int64_t step) { group_->at_step(step); }
  /// Where this rank is, for messages.
  std::string where() const { return group_->where(); }
  /// Ends all ranks, which give `cause` as their reason, and leaves it in the launcher's error file.
  void abort(std::string_view cause) { group_->abort(cause); }
  /// Ends in order, when all ranks do.
  void leave() { group_->leave(); }

  auto all_to_all_v(at::Tensor send, Counts send_counts, Counts recv_counts);
  auto all_reduce(at::Tensor tensor, ReduceOp op);
  auto reduce_scatter_v(at::Tensor tensor, Counts counts);
  auto all_gather_v(at::Tensor tensor);
  auto broadcast(at::Tensor tensor, int root);
  auto barrier();

 private:
  explicit Gloo(std::shared_ptr<detail::GlooGroup> group) : group_(std::move(group)) {}

  /// A posted collective; `Finish` makes the result of what it holds.
  template <class Finish> struct Handle {
    std::shared_ptr<detail::GlooGroup> group;
    c10::intrusive_ptr<c10d::Work> work;
    std::string_view verb;
    std::int64_t number;
    Finish finish;
    auto wait() {
      check<Error>(group != nullptr, "a handle of ", verb, " is waited for twice");
      std::exchange(group, nullptr)->wait(std::exchange(work, nullptr), verb, number);
      return finish();
    }
  };
  template <class Finish> Handle<Finish> posted(c10::intrusive_ptr<c10d::Work> work, std::string_view verb, Finish finish) {
    return {group_, std::move(work), verb, group_->next_number(verb), std::move(finish)};
  }
  c10::intrusive_ptr<c10d::Work> post_exchange(at::Tensor& out, at::Tensor& in, Counts recv_counts, Counts send_counts) {
    return group_->post([&](c10d::Backend& backend) { return backend.alltoall_base(out, in, recv_counts, send_counts); });
  }
  static at::Tensor rows_like(const at::Tensor& tensor, std::int64_t rows) {
    auto sizes = tensor.sizes().vec();
    sizes[0] = rows;
    return at::empty(sizes, tensor.options());
  }

  std::shared_ptr<detail::GlooGroup> group_;
};

inline auto Gloo::all_to_all_v(at::Tensor send, Counts send_counts, Counts recv_counts) {
  group_->compare("all_to_all_v", [&] {
    return detail::with_counts(detail::fingerprint_of_all_to_all_v(send), send_counts, recv_counts);
  });
  auto in = send.contiguous();
  auto out = rows_like(in, std::accumulate(recv_counts.begin(), recv_counts.end(), std::int64_t{0}));   // [sum(recv_counts), ...]
  auto work = post_exchange(out, in, std::move(recv_counts), std::move(send_counts));
  return posted(std::move(work), "all_to_all_v", [in = std::move(in), out = std::move(out)] { return out; });
}

inline auto Gloo::all_reduce(at::Tensor tensor, ReduceOp op) {
  group_->compare("all_reduce", [&] { return detail::fingerprint_of_all_reduce(tensor, op); });
  std::vector<at::Tensor> held{tensor.detach().contiguous().clone()};
  c10d::AllreduceOptions options;
  options.reduceOp = op == ReduceOp::sum ? c10d::ReduceOp::SUM : op == ReduceOp::max ? c10d::ReduceOp::MAX : c10d::ReduceOp::MIN;
  auto work = group_->post([&](c10d::Backend& backend) { return backend.allreduce(held, options); });
  return posted(std::move(work), "all_reduce", [held = std::move(held)] { return held.front(); });
}

/// Parts go to their ranks, which sum them in rank order: less than the all-reduce that c10d would do, and the same from run to run.
inline auto Gloo::reduce_scatter_v(at::Tensor tensor, Counts counts) {
  group_->compare("reduce_scatter_v", [&] { return detail::fingerprint_of_reduce_scatter_v(tensor, counts); });
  const auto rows = counts.at(static_cast<std::size_t>(rank()));
  auto in = tensor.contiguous();
  auto out = rows_like(in, rows * world_size());                                             // [W * rows, ...]
  auto work = post_exchange(out, in, Counts(static_cast<std::size_t>(world_size()), rows), std::move(counts));
  return posted(std::move(work), "reduce_scatter_v", [in = std::move(in), out = std::move(out), rows, ranks = world_size()] {
    auto total = out.narrow(0, 0, rows).clone();                                             // [rows, ...]
    for (int rank = 1; rank < ranks; ++rank) total.add_(out.narrow(0, rank * rows, rows));
    return total;
  });
}

/// Two exchanges: numbers of rows, then rows; c10d's own gather wants equal numbers.
inline auto Gloo::all_gather_v(at::Tensor tensor) {
  group_->compare("all_gather_v", [&] { return detail::fingerprint_of_all_gather_v(tensor); });
  const auto ranks = static_cast<std::size_t>(world_size());
  const Counts ones(ranks, 1);
  auto own_rows = at::empty({world_size()}, at::kLong).fill_(tensor.size(0));                // [W]
  auto rows = at::empty_like(own_rows);                                                      // [W]
  const auto number = group_->next_number("all_gather_v");
  group_->wait(post_exchange(rows, own_rows, ones, ones), "all_gather_v", number);
  const auto* count = rows.const_data_ptr<std::int64_t>();
  Counts arriving(count, count + ranks);
  const auto own = tensor.detach().contiguous();
  auto in = at::cat(std::vector<at::Tensor>(ranks, own));                                    // [W * rows, ...]
  auto out = rows_like(in, std::accumulate(arriving.begin(), arriving.end(), std::int64_t{0}));
  auto work = post_exchange(out, in, arriving, Counts(ranks, tensor.size(0)));
  const auto finish = [in = std::move(in), out = std::move(out), arriving = std::move(arriving)] {
    std::vector<at::Tensor> of_rank;
    std::int64_t begin = 0;
    for (const auto one : arriving) {
      of_rank.push_back(out.narrow(0, begin, one));
      begin += one;
    }
    return of_rank;
  };
  return Handle<decltype(finish)>{group_, std::move(work), "all_gather_v", number, finish};
}

inline auto Gloo::broadcast(at::Tensor tensor, int root) {
  group_->compare("broadcast", [&] { return detail::fingerprint_of_broadcast(tensor, root); });
  std::vector<at::Tensor> held{tensor.detach().contiguous().clone()};
  c10d::BroadcastOptions options;
  options.rootRank = root;
  auto work = group_->post([&](c10d::Backend& backend) { return backend.broadcast(held, options); });
  return posted(std::move(work), "broadcast", [held = std::move(held)] { return held.front(); });
}

inline auto Gloo::barrier() {
  group_->compare("barrier", [] { return std::string("barrier"); });
  std::vector<at::Tensor> held{at::empty({1}, at::kLong).fill_(0)};                          // [1]
  auto work = group_->post([&](c10d::Backend& backend) { return backend.allreduce(held); });
  return posted(std::move(work), "barrier", [held = std::move(held)] { return true; });
}

}  // namespace rookery
