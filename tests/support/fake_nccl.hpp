// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// FakeNccl: NCCL and the CUDA runtime in the memory of the host, for ranks that are threads. By the rules of both:
//
// - A group is one launch, and its sends and receives are matched pair by pair, in order, with those of the launch that the other rank is
//   at. One without its counterpart, or of another size, is never done, and neither is what comes after it on its stream.
// - A collective is matched with those of all ranks, and is never done when one is of another kind, size, dtype, operation or root.
// - A communicator does not block: a launch is taken in after it was asked for twice, and an event recorded before does not cover it.
// - A stream reaches its launches in order. What was launched without a wait for the current stream since the last mark sends poison.
// - A receiving buffer holds poison until the current stream, which is the thread, has waited for an event after the launch.
//
// Calls are recorded in words.

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <rookery/concepts/communicator.hpp>
#include <rookery/core/error.hpp>
#include <rookery/topology/basic_nccl.hpp>
#include <rookery/topology/rank_rows.hpp>
#include <rookery/topology/sockets.hpp>

#include "support/equivalence.hpp"

namespace rookery::cases {

/// What a rank calls, and how it goes for it. Ranks may share one.
struct FakeNcclScript {
  int library = 22809;
  int devices = 8;
  bool (*is_on_device)(const at::Tensor& tensor) = [](const at::Tensor&) { return true; };
  c10::Device device{c10::DeviceType::CPU};      // of every rank
  void* (*memory)(void*) = [](void* shown) { return shown; };   // where a tensor of the device has its numbers
  int failing_launch = -1;                       // the launch of a rank's at which its communicator fails
  bool fails_late = false;                       // on the device, once it was taken in, and not before
  std::vector<std::string> calls{};              // of all ranks that share it
};

class FakeNccl {
  struct Member;
  struct Queue;

 public:
  using Communicator = Member*;
  using Stream = std::shared_ptr<Queue>;         // none: the current one, which is the thread
  struct Event {
    Stream queue{};
    std::size_t launches = 0;                    // that come before it
  };
  struct Guard {
    explicit Guard(c10::Device) {}
  };
  static constexpr int header_version = 22809;
  static constexpr int success = 0, internal_error = 3, invalid_usage = 5, in_progress = 7;

  FakeNccl() : script_(std::make_shared<FakeNcclScript>()) {}
  explicit FakeNccl(std::shared_ptr<FakeNcclScript> script) : script_(std::move(script)) {}

  int library_version(int& found) const { return found = script_->library, success; }
  std::string what(int code) const { return code == internal_error ? "internal error" : "invalid usage"; }
  c10::Device take_device(int local_rank) const {
    check<ConfigError>(local_rank < script_->devices, "it has number ", local_rank, " on its node, which has ", script_->devices, " GPUs");
    return script_->device;
  }
  bool is_on_device(const at::Tensor& tensor) const { return script_->is_on_device(tensor); }

  Stream make_stream(c10::Device) const { return std::make_shared<Queue>(); }
  Stream current_stream(c10::Device) const { return nullptr; }
  void record(Event& event, const Stream& stream) const {
    const std::lock_guard lock(mutex_);
    event = {stream, stream ? stream->launches.size() : 0};
    if (stream) stream->after_current = false;
  }
  /// The current stream is the thread: it waits for what comes before the event, and finds it in its buffers.
  void wait(const Stream& stream, Event& event) const {
    std::unique_lock lock(mutex_);
    said("wait");
    if (stream) stream->after_current = true;                // for an event of the current stream, which has come to it
    if (stream || !event.queue) return;
    auto& queue = *event.queue;
    do {
      progress(queue);
      changed_.wait_for(lock, std::chrono::milliseconds(1), [&] { return queue.ended || queue.done >= event.launches; });
    } while (!queue.ended && queue.done < event.launches);
    for (; queue.delivered < std::min(queue.done, event.launches); ++queue.delivered) {
      auto& launch = queue.launches[queue.delivered];
      for (auto& one : launch.operations) std::copy(one.arrived.begin(), one.arrived.end(), one.out);
      launch.operations.clear();
    }
  }
  bool is_done(const Event& event) const {
    const std::lock_guard lock(mutex_);
    if (event.queue) progress(*event.queue);
    return !event.queue || event.queue->ended || event.queue->done >= event.launches;
  }
  void copy(void* to, const void* from, std::size_t bytes, const Stream& stream) const {
    add(nullptr, {.kind = Kind::copy, .in = bytes_at(from), .out = bytes_at(to), .sent = bytes, .received = bytes}, stream);
  }

  int make_id(std::string& id) const {
    const std::lock_guard lock(mutex_);
    id = concat("fake ", ++ids_);
    return success;
  }
  int start(Communicator& made, int ranks, const std::string& id, int rank) const {
    const std::lock_guard lock(mutex_);
    auto& meeting = meetings_[id];
    meeting.members.resize(static_cast<std::size_t>(ranks));
    auto& member = meeting.members.at(static_cast<std::size_t>(rank));
    check<Error>(!member, "two are rank ", rank);
    member = std::make_unique<Member>();
    member->meeting = &meeting;
    member->rank = static_cast<std::size_t>(rank);
    made = member.get();
    return in_progress;
  }
  int state(Communicator member) const {
    const std::lock_guard lock(mutex_);
    const bool fails = script_->failing_launch >= 0 && member->launched > script_->failing_launch;
    if (fails && (!script_->fails_late || member->stuck)) return internal_error;
    if (!is_complete(*member->meeting)) return in_progress;
    if (member->taking.empty()) return success;
    if (++member->asked < 3) return in_progress;
    for (auto& launch : member->taking) member->queue->launches.push_back(std::move(launch));
    member->taking.clear();
    member->stuck = fails;
    changed_.notify_all();
    return success;
  }
  int finalize(Communicator) const { return in_progress; }
  int destroy(Communicator member) const { return abort(member); }
  int abort(Communicator member) const {
    const std::lock_guard lock(mutex_);
    member->ended = true;
    if (member->queue) member->queue->ended = true;
    changed_.notify_all();
    std::erase_if(meetings_, [](const auto& one) {
      return std::all_of(one.second.members.begin(), one.second.members.end(), [](const auto& other) { return other && other->ended; });
    });
    return success;
  }

  int group_start() const {
    const std::lock_guard lock(mutex_);
    said("group_start");
    ++open_group().depth;
    return success;
  }
  int group_end() const {
    const std::lock_guard lock(mutex_);
    said("group_end");
    auto& open = open_group();
    if (open.depth == 0) return invalid_usage;
    if (--open.depth > 0) return success;
    auto operations = std::exchange(open.operations, {});
    if (operations.empty()) return success;
    return launch(open.member, std::move(operations), open.stream);
  }
  int send(const void* from, std::size_t bytes, int to, Communicator member, const Stream& stream) const {
    return add(member, {.kind = Kind::send, .in = bytes_at(from), .sent = bytes, .peer = to}, stream);
  }
  int receive(void* to, std::size_t bytes, int from, Communicator member, const Stream& stream) const {
    return add(member, {.kind = Kind::receive, .out = bytes_at(to), .received = bytes, .peer = from}, stream);
  }
  int all_to_all(const void* from, void* to, std::size_t bytes_each, Communicator member, const Stream& stream) const {
    const auto bytes = bytes_each * member->meeting->members.size();
    return add(member, {.kind = Kind::all_to_all, .in = bytes_at(from), .out = bytes_at(to), .sent = bytes, .received = bytes}, stream);
  }
  int all_gather(const void* from, void* to, std::size_t bytes, Communicator member, const Stream& stream) const {
    return add(member,
               {.kind = Kind::all_gather, .in = bytes_at(from), .out = bytes_at(to), .sent = bytes,
                .received = bytes * member->meeting->members.size()},
               stream);
  }
  int all_reduce(const void* from, void* to, std::size_t count, at::ScalarType dtype, ReduceOp op, Communicator member,
                 const Stream& stream) const {
    const auto bytes = count * c10::elementSize(dtype);
    return add(member,
               {.kind = Kind::all_reduce, .in = bytes_at(from), .out = bytes_at(to), .sent = bytes, .received = bytes, .dtype = dtype,
                .op = op},
               stream);
  }
  int broadcast(const void* from, void* to, std::size_t bytes, int root, Communicator member, const Stream& stream) const {
    return add(member, {.kind = Kind::broadcast, .in = bytes_at(from), .out = bytes_at(to), .sent = bytes, .received = bytes, .peer = root},
               stream);
  }

 private:
  enum class Kind { copy, send, receive, all_to_all, all_gather, all_reduce, broadcast };
  static constexpr std::byte poison{0xff};       // NaN, and -1

  struct Operation {
    Kind kind{};
    const std::byte* in = nullptr;
    std::byte* out = nullptr;
    std::size_t sent = 0, received = 0;          // bytes
    int peer = 0;                                // or root
    at::ScalarType dtype = at::kByte;
    ReduceOp op = ReduceOp::sum;
    bool done = false;
    std::vector<std::byte> arrived{};

    bool is_collective() const { return kind > Kind::receive; }
    bool goes_with(const Operation& other) const {
      return kind == other.kind && sent == other.sent && received == other.received && peer == other.peer && dtype == other.dtype &&
             op == other.op;
    }
  };
  struct Launch {
    std::vector<Operation> operations{};
    bool after_current = false;                  // what it sends has been computed

    std::vector<std::byte> sent(const Operation& one) const {
      return after_current ? std::vector(one.in, one.in + one.sent) : std::vector(one.sent, poison);
    }
  };
  struct Queue {
    std::deque<Launch> launches{};
    std::size_t done = 0, delivered = 0;         // of them
    bool after_current = false, ended = false;
  };
  struct Meeting;
  struct Member {
    Meeting* meeting = nullptr;
    std::size_t rank = 0;
    Stream queue{};
    std::vector<Launch> taking{};                // which are not on their stream yet
    int asked = 0, launched = 0;
    bool stuck = false, ended = false;

    /// What its stream has come to.
    Launch* head() const {
      return stuck || ended || !queue || queue->done == queue->launches.size() ? nullptr : &queue->launches[queue->done];
    }
  };
  struct Meeting {
    std::vector<std::unique_ptr<Member>> members{};
  };
  /// The group that a thread has begun.
  struct OpenGroup {
    int depth = 0;
    Member* member = nullptr;
    Stream stream{};
    std::vector<Operation> operations{};
  };

  static OpenGroup& open_group() {
    static thread_local OpenGroup open;
    return open;
  }
  const std::byte* bytes_at(const void* memory) const { return bytes_at(const_cast<void*>(memory)); }
  std::byte* bytes_at(void* memory) const { return static_cast<std::byte*>(script_->memory(memory)); }
  void said(std::string words) const { script_->calls.push_back(std::move(words)); }

  int add(Member* member, Operation one, const Stream& stream) const {
    static constexpr const char* names[]{"copy", "send", "receive", "all_to_all", "all_gather", "all_reduce", "broadcast"};
    const std::lock_guard lock(mutex_);
    said(concat(names[static_cast<int>(one.kind)], " ", one.out ? one.received : one.sent));
    std::fill_n(one.out, one.received, poison);
    if (one.kind == Kind::copy) return launch(nullptr, {std::move(one)}, stream);
    auto& open = open_group();
    if (open.depth == 0) return launch(member, {std::move(one)}, stream);
    open.member = member;
    open.stream = stream;
    open.operations.push_back(std::move(one));
    return in_progress;
  }
  /// A copy of the runtime's has no communicator, and is on its stream at once.
  static int launch(Member* member, std::vector<Operation> operations, const Stream& stream) {
    Launch made{.operations = std::move(operations), .after_current = stream->after_current};
    if (!member) return stream->launches.push_back(std::move(made)), success;
    member->queue = stream;
    member->asked = 0;
    ++member->launched;
    member->taking.push_back(std::move(made));
    return in_progress;
  }

  static bool is_complete(const Meeting& meeting) {
    return std::none_of(meeting.members.begin(), meeting.members.end(), [](const auto& member) { return member == nullptr; });
  }
  /// Lets every stream come as far as it can.
  static void progress(Queue& own) {
    bool changed = false;
    for (bool moved = true; moved; changed |= moved) {
      moved = advance(own);
      for (auto& [id, meeting] : meetings_) {
        if (!is_complete(meeting)) continue;
        for (auto& member : meeting.members)
          if (member->queue) moved |= advance(*member->queue);
        moved |= messages(meeting) || collective(meeting);
      }
    }
    if (changed) changed_.notify_all();
  }
  /// Over copies, which wait for nothing, and what is done.
  static bool advance(Queue& queue) {
    const auto before = queue.done;
    for (; queue.done < queue.launches.size(); ++queue.done) {
      auto& launch = queue.launches[queue.done];
      for (auto& one : launch.operations) {
        if (one.kind == Kind::copy) one.arrived = launch.sent(one);
        else if (!one.done) return queue.done > before;
      }
    }
    return queue.done > before;
  }
  static bool messages(Meeting& meeting) {
    bool moved = false;
    for (const auto& sender : meeting.members)
      for (const auto& receiver : meeting.members) {
        auto *from = sender->head(), *to = receiver->head();
        if (!from || !to) continue;
        auto* send = first(*from, Kind::send, static_cast<int>(receiver->rank));
        auto* receive = first(*to, Kind::receive, static_cast<int>(sender->rank));
        if (!send || !receive || send->sent != receive->received) continue;
        receive->arrived = from->sent(*send);
        send->done = receive->done = moved = true;
      }
    return moved;
  }
  static Operation* first(Launch& launch, Kind kind, int peer) {
    const auto found = std::find_if(launch.operations.begin(), launch.operations.end(),
                                    [&](const Operation& one) { return !one.done && one.kind == kind && one.peer == peer; });
    return found == launch.operations.end() ? nullptr : &*found;
  }
  static bool collective(Meeting& meeting) {
    std::vector<Operation*> ready;
    std::vector<std::vector<std::byte>> sent;
    for (const auto& member : meeting.members) {
      auto* launch = member->head();
      if (!launch) return false;
      const auto found = std::find_if(launch->operations.begin(), launch->operations.end(),
                                      [](const Operation& one) { return !one.done && one.is_collective(); });
      if (found == launch->operations.end() || (!ready.empty() && !found->goes_with(*ready.front()))) return false;
      ready.push_back(&*found);
      sent.push_back(launch->sent(*found));
    }
    for (std::size_t rank = 0; rank < ready.size(); ++rank) {
      ready[rank]->arrived = result(*ready[rank], sent, rank);
      ready[rank]->done = true;
    }
    return true;
  }
  static std::vector<std::byte> result(const Operation& one, std::vector<std::vector<std::byte>>& sent, std::size_t self) {
    if (one.kind == Kind::broadcast) return sent.at(static_cast<std::size_t>(one.peer));
    std::vector<std::byte> all;
    const auto share = static_cast<std::ptrdiff_t>(one.sent / sent.size()), begin = share * static_cast<std::ptrdiff_t>(self);
    for (const auto& bytes : sent) {
      if (one.kind == Kind::all_to_all) all.insert(all.end(), bytes.begin() + begin, bytes.begin() + begin + share);
      else all.insert(all.end(), bytes.begin(), bytes.end());
    }
    if (one.kind != Kind::all_reduce) return all;
    const auto ranks = static_cast<std::int64_t>(sent.size());
    const auto count = static_cast<std::int64_t>(one.sent / c10::elementSize(one.dtype));
    const auto total = detail::in_rank_order(at::from_blob(all.data(), {ranks, count}, one.dtype), one.op);   // [n]
    const auto* first = static_cast<const std::byte*>(total.const_data_ptr());
    return {first, first + total.nbytes()};
  }

  static inline std::mutex mutex_;
  static inline std::condition_variable changed_;
  static inline int ids_ = 0;
  static inline std::map<std::string, Meeting> meetings_;

  std::shared_ptr<FakeNcclScript> script_;
};

/// Runs `fn(topology)` on ranks that are threads here, with a device each, but know of each other by their sockets and NCCL only. Gives
/// what each threw. The environment says all but who a rank is.
template <class Fn>
std::vector<std::string> on_fake_devices(int ranks, Fn&& fn, ProcessEnvironment environment = {},
                                         std::shared_ptr<FakeNcclScript> script = std::make_shared<FakeNcclScript>()) {
  environment.world_size = ranks;
  environment.local_world_size = environment.local_world_size > 1 ? environment.local_world_size : ranks;
  environment.master_port = detail::listen_somewhere().second;
  std::vector<std::string> thrown(static_cast<std::size_t>(ranks));
  std::vector<std::jthread> running;
  for (int rank = 0; rank < ranks; ++rank)
    running.emplace_back([&, environment, rank]() mutable {
      environment.rank = rank;
      environment.local_rank = rank % environment.local_world_size;
      try {
        auto topology = BasicNccl<FakeNccl>::join(environment, FakeNccl(script));
        fn(topology);
      } catch (const std::exception& error) {
        thrown[static_cast<std::size_t>(rank)] = error.what();
      }
    });
  running.clear();
  return thrown;
}

/// The law on the plan of a seed, on 1 to 8 ranks: what rank 0 finds to differ, or what a rank threw. Without a script everything is on the
/// host, but travels as if it were on devices: for every other seed whole numbers too, which are counts, lengths and ids.
inline std::string check_equivalence_on_fake_devices(std::uint64_t seed, at::ScalarType dtype,
                                                     std::shared_ptr<FakeNcclScript> script = {}) {
  const auto trial = draw_trial(seed, 1 + static_cast<int>(seed % 8), dtype);
  if (!script) {
    script = std::make_shared<FakeNcclScript>();
    if (seed / 8 % 2 == 0) script->is_on_device = [](const at::Tensor& tensor) { return tensor.scalar_type() != at::kLong; };
  }
  std::string wrong;
  const auto thrown = on_fake_devices(trial.ranks, [&](auto& topology) {
    const auto found = check_equivalence_on(topology, trial);
    if (topology.rank() == 0) wrong = found;
    topology.leave();
  }, {.local_world_size = trial.local_world_size, .timeout = std::chrono::seconds(30)}, script);
  for (const auto& one : thrown)
    if (!one.empty()) return concat("  the trial of seed ", seed, " on ", trial.ranks, " ranks ended: ", one);
  return wrong;
}

}  // namespace rookery::cases
