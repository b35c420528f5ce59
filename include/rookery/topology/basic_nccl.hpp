// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// BasicNccl: ranks as processes with a GPU each, over NCCL as `Api` gives it. Programs use topology/nccl.hpp, tests a stand-in.
//
// Where a tensor lies says which way it goes. Those of the device go over NCCL, on a stream of its own beside that of the computation.
// Those of the host go over Gloo: a step's counts and lengths are there, are exchanged there, and say how much the device will receive,
// so that no step copies from the device to learn a number. Ranks meet over Gloo first, and its liveness link watches for both.
// wait() lets the current stream wait, not the thread. A thread of its own watches: a rank that dies or fails, an error of NCCL, or a
// collective past its deadline ends the communicator, which frees the device; the next verb or wait says why, as does leave().
// Include cost: c10d, 9 s.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include <rookery/concepts/communicator.hpp>
#include <rookery/core/clock.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/topology/gloo.hpp>
#include <rookery/topology/nccl_communicator.hpp>
#include <rookery/topology/one_line.hpp>
#include <rookery/topology/process_environment.hpp>
#include <rookery/topology/rank_rows.hpp>

namespace rookery {

namespace detail {

/// A collective on its way over NCCL, and the tensors that it reads and writes, which stay until it is waited for or done.
template <class Api> struct NcclWork {
  std::string_view verb;
  std::int64_t number = 0;
  Clock::time_point deadline;
  std::vector<at::Tensor> held{};
  typename Api::Event done{};
};

/// The GPU of one process and the connections of both kinds to its group.
template <class Api> class NcclGroup : public GlooGroup {
 public:
  using Communicator = NcclCommunicator<Api>;
  using Work = std::shared_ptr<NcclWork<Api>>;

  NcclGroup(const ProcessEnvironment& environment, Api api) : GlooGroup(environment), nccl_(std::move(api)) {
    join("nccl", "", [&] {
      nccl_.check_version();
      nccl_.take_device(environment.local_rank);
      nccl_.start(environment.world_size, shared_id(), environment.rank);
      wait_for_others([&] { return nccl_.is_taken(); });
    });
    watching_ = std::jthread([this](std::stop_token stop) { watch(stop); });
  }

  c10::Device device() const { return nccl_.device(); }
  bool is_on_device(const at::Tensor& tensor) const { return nccl_.is_on_device(tensor); }

  /// Posts as collective `number` what `fn(communicator)` calls with the tensors in `held`.
  /// Errors: CommunicationError naming rank, step, collective and cause, also for an earlier collective that failed.
  template <class Fn> Work post(std::string_view verb, std::int64_t number, std::vector<at::Tensor> held, const Fn& fn) {
    rethrow();
    auto work = std::make_shared<NcclWork<Api>>();
    work->verb = verb;
    work->number = number;
    work->deadline = Clock::now() + environment_.timeout;
    work->held = std::move(held);
    bool taken = false;
    try {
      nccl_.enqueue(fn);
      taken = look([&] { return nccl_.is_taken(); }, [&] { return has_failed_ || is_in_vain(number); }, 0);
      if (taken) nccl_.mark(work->done);
    } catch (const std::exception& error) {
      end([&] { fail_in(verb, number, error); });
    }
    if (!taken) end([&] { give_up(verb, number); });
    {
      const std::lock_guard lock(mutex_);
      under_way_.push_back(work);
    }
    changed_.notify_all();
    return work;
  }
  /// Lets the current stream wait for the work.
  void wait(NcclWork<Api>& work) {
    rethrow();
    nccl_.let_current_wait(work.done);
    rethrow();
    const std::lock_guard lock(mutex_);
    work.held.clear();
  }

  /// Tells all ranks why this one ends.
  void abort(std::string_view cause) {
    nccl_.abort();
    GlooGroup::abort(cause);
  }
  /// Ends in order, when all ranks do and all is done. Errors: CommunicationError when a rank or a collective fails.
  void leave() {
    const auto is_idle = [&] {
      const std::lock_guard lock(mutex_);
      return under_way_.empty();
    };
    look(is_idle, [&] { return has_failed_.load(); }, 0);    // the watch knows the deadline of each
    rethrow();
    watching_ = {};
    try {
      nccl_.finalize();
      wait_for_others([&] { return nccl_.is_taken(); });
      nccl_.destroy();
    } catch (const std::exception& error) {
      broken_ = true;
      fail<CommunicationError>(where(), ": ", one_line(error));
    }
    GlooGroup::leave();
  }

 private:
  /// The id that rank 0 has put in the store.
  std::string shared_id() {
    if (environment_.rank == 0) {
      const auto id = nccl_.make_id();
      store_->set("nccl", std::vector<std::uint8_t>(id.begin(), id.end()));
      return id;
    }
    wait_for_others([&] { return store_->check({"nccl"}); });
    const auto id = store_->get("nccl");
    return std::string(id.begin(), id.end());
  }
  template <class Done> void wait_for_others(const Done& is_done) {
    if (look(is_done, [&] { return !cause().empty(); }, 0)) return;
    check<CommunicationError>(cause().empty(), cause());
    fail<CommunicationError>("waited ", environment_.timeout.count(), " ms for the other ranks");
  }

  void rethrow() {
    if (!has_failed_) [[likely]] return;
    const std::lock_guard lock(mutex_);
    std::rethrow_exception(failure_);
  }
  /// Ends the communicator for the error that `fn()` throws; the first one stays.
  template <class Fn> void note(const Fn& fn) {
    try {
      fn();
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
    has_failed_ = true;
    nccl_.abort();
  }
  template <class Fn> [[noreturn]] void end(const Fn& fn) {
    note(fn);
    const std::lock_guard lock(mutex_);
    std::rethrow_exception(failure_);
  }

  /// Looks after collectives under way until one is in vain.
  void watch(const std::stop_token& stop) {
    constexpr auto between_looks = std::chrono::milliseconds(5);
    std::unique_lock lock(mutex_);
    while (changed_.wait(lock, stop, [&] { return !under_way_.empty(); })) {
      const auto first = under_way_.front();
      lock.unlock();
      bool done = false;
      try {
        done = nccl_.is_done(first->done);
        if (!done) nccl_.is_taken();
      } catch (const std::exception& error) {
        return note([&] { fail_in(first->verb, first->number, error); });
      }
      if (!done && (is_in_vain(first->number) || Clock::now() > first->deadline))
        return note([&] { give_up(first->verb, first->number); });
      lock.lock();
      if (done) under_way_.pop_front();
      else changed_.wait_for(lock, stop, between_looks, [] { return false; });
      if (stop.stop_requested()) return;
    }
  }

  Communicator nccl_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<Work> under_way_;
  std::exception_ptr failure_;
  std::atomic<bool> has_failed_ = false;
  std::jthread watching_;
};

/// A handle of one way or of the other.
template <class Host, class Device> struct EitherHandle {
  std::variant<Host, Device> one;
  auto wait() {
    return std::visit([](auto& handle) { return handle.wait(); }, one);
  }
};

}  // namespace detail

/// One process of a group over NCCL, and over Gloo for tensors of the host. All ranks give tensors of the same kind of device to a verb.
template <class Api> class BasicNccl : public Gloo {
 public:
  static constexpr std::string_view name = "nccl";
  static constexpr bool has_device = true;
  static constexpr bool is_on_gpus = true;

  /// Meets the other ranks and takes a GPU: that of the rank's number on its node, or the only one that there is.
  /// Errors: CommunicationError when ranks do not come before the deadline, or one has no GPU or a library that is too old.
  static BasicNccl join(const ProcessEnvironment& environment, Api api = {}) {
    return BasicNccl(std::make_shared<detail::NcclGroup<Api>>(environment, std::move(api)));
  }

  c10::Device device() const { return device_->device(); }
  /// Ends all ranks, which give `cause` as their reason, and leaves it in the launcher's error file.
  void abort(std::string_view cause) { device_->abort(cause); }
  /// Ends in order, when all ranks do. Errors: CommunicationError when a rank or a collective fails.
  void leave() { device_->leave(); }

  auto all_to_all_v(at::Tensor send, Counts send_counts, Counts recv_counts) {
    return carry(
        send, [&] { return Gloo::all_to_all_v(send, send_counts, recv_counts); },
        [&] {
          const auto number = device_->next_number("all_to_all_v", [&] {
            return detail::with_counts(detail::fingerprint_of_all_to_all_v(send), send_counts, recv_counts);
          });
          detail::check_counts("all_to_all_v", send, send_counts, world_size());
          auto in = send.detach().contiguous();
          auto out = detail::empty_rows(in, {detail::sum_of(recv_counts)});                  // [sum(recv_counts), ...]
          const auto post = [&](auto& nccl) { exchange(nccl, in, send_counts, out, recv_counts); };
          return posted("all_to_all_v", number, {in, out}, post, [out] { return out; });
        });
  }

  /// Bit-equal on all ranks, and in NCCL's order: not that of the ranks.
  auto all_reduce(at::Tensor tensor, ReduceOp op) {
    return carry(
        tensor, [&] { return Gloo::all_reduce(tensor, op); },
        [&] {
          const auto number = device_->next_number("all_reduce", [&] { return detail::fingerprint_of_all_reduce(tensor, op); });
          auto in = tensor.detach().contiguous();
          auto out = ops::empty(in.sizes(), in.options());
          const auto post = [&](auto& nccl) { if (in.numel() > 0) nccl.all_reduce(in, out, op); };
          return posted("all_reduce", number, {in, out}, post, [out] { return out; });
        });
  }

  /// Parts go to their ranks, which sum them in rank order. All ranks know the counts, and so whether they are equal: a rank's own of an
  /// all_to_all_v do not tell it.
  auto reduce_scatter_v(at::Tensor tensor, Counts counts) {
    return carry(
        tensor, [&] { return Gloo::reduce_scatter_v(tensor, counts); },
        [&] {
          const auto number =
              device_->next_number("reduce_scatter_v", [&] { return detail::fingerprint_of_reduce_scatter_v(tensor, counts); });
          detail::check_counts("reduce_scatter_v", tensor, counts, world_size());
          const auto rows = counts[static_cast<std::size_t>(rank())];
          auto in = tensor.detach().contiguous();
          const auto brought = detail::empty_rows(in, {world_size(), rows});                 // [W, rows, ...]
          const auto post = [&](auto& nccl) {
            if (!all_equal(counts)) exchange(nccl, in, counts, brought, Counts(counts.size(), rows));
            else if (in.numel() > 0) nccl.exchange_equal(in.const_data_ptr(), brought.mutable_data_ptr(), in.nbytes() / counts.size());
          };
          return posted("reduce_scatter_v", number, {in, brought}, post,
                        [brought] { return detail::in_rank_order(brought, ReduceOp::sum); });
        });
  }

  /// Numbers of rows first, from host to host.
  auto all_gather_v(at::Tensor tensor) {
    return carry(
        tensor, [&] { return Gloo::all_gather_v(tensor); },
        [&] {
          const auto number = device_->next_number("all_gather_v", [&] { return detail::fingerprint_of_all_gather_v(tensor); });
          const auto arriving = rows_of_all(tensor.size(0));
          auto in = tensor.detach().contiguous();
          auto out = detail::empty_rows(in, {detail::sum_of(arriving)});                     // [sum(arriving), ...]
          const auto post = [&](auto& nccl) { gather(nccl, in, out, arriving); };
          return posted("all_gather_v", number, {in, out}, post, [out, arriving] { return detail::rows_of_ranks(out, arriving); });
        });
  }

  auto broadcast(at::Tensor tensor, int root) {
    return carry(
        tensor, [&] { return Gloo::broadcast(tensor, root); },
        [&] {
          const auto number = device_->next_number("broadcast", [&] { return detail::fingerprint_of_broadcast(tensor, root); });
          auto in = tensor.detach().contiguous();
          auto out = ops::empty(in.sizes(), in.options());
          const auto post = [&](auto& nccl) {
            if (in.numel() > 0) nccl.broadcast(in.const_data_ptr(), out.mutable_data_ptr(), in.nbytes(), root);
          };
          return posted("broadcast", number, {in, out}, post, [out] { return out; });
        });
  }

 private:
  using Group = detail::NcclGroup<Api>;

  explicit BasicNccl(std::shared_ptr<Group> group) : Gloo(group), device_(std::move(group)) {}

  /// A posted collective; `finish()` gives its result, in which the current stream finds what has arrived.
  template <class Finish> struct Handle {
    std::shared_ptr<Group> group;
    typename Group::Work work;
    Finish finish;
    auto wait() {
      check<Error>(group != nullptr, "a handle of ", work->verb, " is waited for twice");
      std::exchange(group, nullptr)->wait(*work);
      return finish();
    }
  };
  template <class Post, class Finish>
  Handle<Finish> posted(std::string_view verb, std::int64_t number, std::vector<at::Tensor> held, const Post& post, Finish finish) {
    return {device_, device_->post(verb, number, std::move(held), post), std::move(finish)};
  }
  /// The way of a tensor is that of the memory in which it lies.
  template <class Host, class Device> auto carry(const at::Tensor& tensor, const Host& host, const Device& device) {
    using Either = detail::EitherHandle<decltype(host()), decltype(device())>;
    return device_->is_on_device(tensor) ? Either{device()} : Either{host()};
  }

  static bool all_equal(const Counts& counts) {
    return std::all_of(counts.begin(), counts.end(), [&](std::int64_t one) { return one == counts.front(); });
  }
  static std::size_t bytes_of_row(const at::Tensor& tensor) {
    auto bytes = tensor.element_size();
    for (const auto size : tensor.sizes().slice(1)) bytes *= static_cast<std::size_t>(size);
    return bytes;
  }
  static void exchange(typename Group::Communicator& nccl, const at::Tensor& in, const Counts& sent, const at::Tensor& out,
                       const Counts& received) {
    const auto bytes = bytes_of_row(in);
    nccl.exchange(in.const_data_ptr(), detail::parts_of(sent, bytes), out.mutable_data_ptr(), detail::parts_of(received, bytes));
  }
  static void gather(typename Group::Communicator& nccl, const at::Tensor& in, const at::Tensor& out, const Counts& arriving) {
    if (out.numel() == 0) return;
    if (all_equal(arriving)) return nccl.gather_equal(in.const_data_ptr(), out.mutable_data_ptr(), in.nbytes());
    const std::vector<detail::NcclPart> own_to_each(arriving.size(), {0, in.nbytes()});
    nccl.exchange(in.const_data_ptr(), own_to_each, out.mutable_data_ptr(), detail::parts_of(arriving, bytes_of_row(in)));
  }
  /// How many rows each rank has.
  Counts rows_of_all(std::int64_t rows) {
    const Counts ones(static_cast<std::size_t>(world_size()), 1);
    const auto all = Gloo::all_to_all_v(ops::full({world_size()}, rows, at::kLong), ones, ones).wait();   // [W]
    return Counts(all.template const_data_ptr<std::int64_t>(), all.template const_data_ptr<std::int64_t>() + all.numel());
  }

  std::shared_ptr<Group> device_;
};

}  // namespace rookery
