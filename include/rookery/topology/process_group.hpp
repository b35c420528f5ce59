// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// ProcessGroup: what one process of a group knows and says, whatever carries the group's messages. Topologies of processes build on it.
//
// It counts collectives, compares them over ranks in the check level `communicating` (topology/fingerprint.hpp), hears of ranks that die or
// fail (topology/liveness.hpp), and puts into words why a wait was in vain: rank, step, collective and cause. ProcessTopology is the part
// that programs see. Nothing here is virtual: a group is a ProcessGroup with messages of its own.  Include cost: tensor.

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include <rookery/concepts/communicator.hpp>
#include <rookery/core/clock.hpp>
#include <rookery/core/error.hpp>
#include <rookery/topology/error_file.hpp>
#include <rookery/topology/fingerprint.hpp>
#include <rookery/topology/liveness.hpp>
#include <rookery/topology/one_line.hpp>
#include <rookery/topology/process_environment.hpp>

namespace rookery::detail {

/// One process among those of a group, without what carries its messages.
class ProcessGroup {
 public:
  ProcessGroup(const ProcessGroup&) = delete;
  ProcessGroup& operator=(const ProcessGroup&) = delete;

  const ProcessEnvironment& environment() const { return environment_; }
  void at_step(std::int64_t step) { step_ = step; }
  /// "rank 1, step 12, after all_reduce number 40": where this rank is, for messages.
  std::string where() const {
    return concat("rank ", environment_.rank, ", step ", step_.load(), ", ",
                  verb_.empty() ? "before any collective" : concat("after ", verb_, " number ", posted_ - 1));
  }

  /// Counts a collective that is about to be posted and gives its number. In the check level `communicating` ranks first compare what
  /// they are about to do, of which `said()` is this one's.
  template <class Fn> std::int64_t next_number(std::string_view verb, const Fn& said) {
    if (environment_.check_level == CheckLevel::communicating) compare(verb, said());
    verb_ = verb;
    liveness_->come_to(posted_ + 1);
    return posted_++;
  }

  /// Tells all ranks why this one ends.
  void abort(std::string_view cause) {
    broken_ = true;
    write_error_file(environment_.error_file, cause);
    liveness_->fail(cause);
  }
  /// Ends in order: waits until all ranks have. Errors: CommunicationError when one has failed, or has not come at the deadline.
  void leave() {
    liveness_->leave(posted_);
    const auto wrong = liveness_->wait_for_leave(environment_.timeout);
    broken_ = broken_ || !wrong.empty();
    check<CommunicationError>(wrong.empty(), where(), ": ", wrong);
  }

 protected:
  explicit ProcessGroup(ProcessEnvironment environment) : environment_(std::move(environment)) {}
  ~ProcessGroup() = default;

  /// Joins the group of topology `name` by `fn()`. Errors: CommunicationError in one line that says what `fn` threw; the other ranks hear
  /// it, and the launcher's error file holds it.
  template <class Fn> void join(std::string_view name, std::string_view at, const Fn& fn) {
    try {
      fn();
    } catch (const std::exception& error) {
      auto why = one_line(error);
      if (const auto prefix = concat(name, ": "); why.starts_with(prefix)) why.erase(0, prefix.size());
      const auto cause =
          concat(name, ": rank ", environment_.rank, " of ", environment_.world_size, " did not join the group", at, ": ", why);
      if (liveness_) liveness_->fail(concat("rank ", environment_.rank, ": ", why));
      write_error_file(environment_.error_file, cause);
      fail<CommunicationError>(cause);
    }
  }
  /// Connects the link over which ranks hear of one another. `told()` is called when it has heard something.
  void meet(const Liveness::Meeting& meeting, std::function<void()> told = [] {}) {
    liveness_ = std::make_unique<Liveness>(environment_.rank, environment_.world_size, meeting, environment_.timeout, std::move(told));
  }
  /// Why ranks that are joining cannot go on; empty while they can.
  std::string cause() const { return liveness_ ? liveness_->cause() : ""; }
  /// Whether to wait for collective `number` is in vain.
  bool is_in_vain(std::int64_t number) const { return liveness_->left_before(number + 1) >= 0 || !liveness_->cause().empty(); }

  /// "rank 1, step 12, all_reduce number 40"
  std::string in(std::string_view verb, std::int64_t number) const {
    return concat("rank ", environment_.rank, ", step ", step_.load(), ", ", verb, " number ", number);
  }
  /// Says why collective `number` will not be.
  [[noreturn]] void give_up(std::string_view verb, std::int64_t number) {
    broken_ = true;
    const auto early = liveness_->left_before(number + 1);
    check<CommunicationError>(early < 0, in(verb, number), ": rank ", early, " returned before it", same_batches);
    const auto cause = liveness_->cause();
    check<CommunicationError>(cause.empty(), in(verb, number), ": ", cause);
    fail<CommunicationError>(in(verb, number), ": waited ", environment_.timeout.count(), " ms for ", liveness_->late_ranks(number + 1));
  }
  /// Says why collective `number` failed. What carries the messages often knows of a death a moment before the other ranks say why.
  [[noreturn]] void fail_in(std::string_view verb, std::int64_t number, const std::exception& error) {
    broken_ = true;
    const auto cause = cause_soon();
    fail<CommunicationError>(in(verb, number), ": ", cause.empty() ? one_line(error) : cause);
  }
  /// What the other ranks say went wrong, within a second.
  std::string cause_soon() { return liveness_->cause_within(std::chrono::seconds(1)); }

  /// Looks until `is_done()`, or `stop()` says so or the deadline has come, which gives false. At first between yields of the core, for as
  /// long as so many bytes may take at 1 GB/s, then between naps that grow with the wait.
  template <class Done, class Stop> bool look(const Done& is_done, const Stop& stop, std::size_t bytes) const {
    using namespace std::chrono;
    const auto begin = Clock::now();
    const auto lively = microseconds(100) + nanoseconds(bytes);
    while (!is_done()) {
      const auto waited = Clock::now() - begin;
      if (waited < lively) {
        ::sched_yield();
        continue;
      }
      if (stop() || waited > environment_.timeout) return false;
      std::this_thread::sleep_for(std::min<nanoseconds>(waited / 16, microseconds(500)));
    }
    return true;
  }

  ProcessEnvironment environment_;
  std::unique_ptr<Liveness> liveness_;
  std::atomic<bool> broken_ = false;             // no collective is to be expected of the group

 private:
  void compare(std::string_view verb, const std::string& said) {
    const auto all = liveness_->gather(said, posted_ + 1, environment_.timeout);
    if (all.empty()) give_up(verb, posted_);
    const auto wrong = disagreement(posted_, all);
    check<CommunicationError>(wrong.empty(), "rank ", environment_.rank, ", step ", step_.load(), ": ", wrong);
  }

  std::int64_t posted_ = 0;
  std::atomic<std::int64_t> step_ = 0;           // also said by a thread that watches
  std::string_view verb_;                        // the last
};

/// One process of a `Group`, as a topology: the facts, and how it ends. Verbs are the topology's own.
template <class Group> class ProcessTopology {
 public:
  static constexpr bool is_distributed = true, has_device = false;

  int rank() const { return group_->environment().rank; }
  int world_size() const { return group_->environment().world_size; }
  int local_world_size() const { return group_->environment().local_world_size; }
  /// Tells error messages which step this rank is at.
  void at_step(std::int64_t step) { group_->at_step(step); }
  /// Where this rank is, for messages.
  std::string where() const { return group_->where(); }
  /// Ends all ranks, which give `cause` as their reason, and leaves it in the launcher's error file.
  void abort(std::string_view cause) { group_->abort(cause); }
  /// Ends in order, when all ranks do. Errors: CommunicationError when a rank fails or does not end by the deadline.
  void leave() { group_->leave(); }

 protected:
  explicit ProcessTopology(const ProcessEnvironment& environment) : group_(std::make_shared<Group>(environment)) {}
  explicit ProcessTopology(std::shared_ptr<Group> group) : group_(std::move(group)) {}

  /// A posted collective; `finish(work)` makes the result.
  template <class Work, class Finish> struct Handle {
    std::shared_ptr<Group> group;
    Work work;                                   // a pointer
    std::string_view verb;
    std::int64_t number;
    Finish finish;
    auto wait() {
      check<Error>(group != nullptr, "a handle of ", verb, " is waited for twice");
      const auto own_group = std::exchange(group, nullptr);
      const auto own_work = std::exchange(work, nullptr);
      own_group->wait(*own_work, verb, number);
      return finish(*own_work);
    }
  };
  /// What the group posts by `post(its messages)` as collective `number`.
  template <class Post, class Finish> auto posted(std::string_view verb, std::int64_t number, const Post& post, Finish finish) {
    auto work = group_->post(verb, number, post);
    return Handle<decltype(work), Finish>{group_, std::move(work), verb, number, std::move(finish)};
  }

  std::shared_ptr<Group> group_;
};

}  // namespace rookery::detail
