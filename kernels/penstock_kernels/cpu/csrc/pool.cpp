#include "pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace penstock {
namespace {

// How long an idle worker watches for the next job before it sleeps: covers the caller's Python between two calls of a
// step, and leaves the core to others between steps.
constexpr auto kWatch = std::chrono::microseconds(50);
constexpr int kLooksPerClock = 32;
constexpr int kLooksBeforeYield = 2000;

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

// State of the current job in one word, so that a claim is one compare-and-swap and a worker that comes late can never
// claim an item of one job by the bounds of another: epoch (16 bits) | items (24 bits) | next item (24 bits).
constexpr int kCountBits = 24;
constexpr uint64_t kCountMask = (uint64_t{1} << kCountBits) - 1;

class Pool {
 public:
  explicit Pool(int workers) {
    for (int i = 0; i < workers; ++i) std::thread([this] { work(); }).detach();
    workers_ = workers;
  }

  void run(int items, ItemFunction function, void* context) {
    function_ = function;
    context_ = context;
    done_.store(0, std::memory_order_relaxed);
    ++epoch_;
    state_.store(uint64_t{epoch_} << (2 * kCountBits) | static_cast<uint64_t>(items) << kCountBits);
    signal_.fetch_add(1);
    if (sleepers_.load() > 0) signal_.notify_all();
    while (take_item()) {
    }
    for (int looks = 0; done_.load(std::memory_order_acquire) < items; ++looks) {
      looks < kLooksBeforeYield ? relax() : static_cast<void>(sched_yield());
    }
  }

  int workers() const { return workers_; }
  void retire() {
    is_retired_.store(true);
    signal_.fetch_add(1);
    signal_.notify_all();
  }

 private:
  bool has_items() const {
    const uint64_t state = state_.load();
    return (state & kCountMask) < ((state >> kCountBits) & kCountMask);
  }

  bool take_item() {
    uint64_t state = state_.load();
    do {
      if ((state & kCountMask) >= ((state >> kCountBits) & kCountMask)) return false;
    } while (!state_.compare_exchange_weak(state, state + 1));
    // The job cannot end before this item is done, so its function is the one that is read here.
    function_(context_, static_cast<int>(state & kCountMask));
    done_.fetch_add(1, std::memory_order_release);
    return true;
  }

  void work() {
    while (!is_retired_.load()) {
      while (take_item()) {
      }
      if (!watch()) sleep();
    }
  }

  bool watch() const {
    const auto end = std::chrono::steady_clock::now() + kWatch;
    do {
      for (int i = 0; i < kLooksPerClock; ++i) {
        if (has_items()) return true;
        relax();
      }
    } while (std::chrono::steady_clock::now() < end);
    return false;
  }

  void sleep() {
    const uint32_t seen = signal_.load();
    sleepers_.fetch_add(1);
    if (!has_items() && !is_retired_.load()) signal_.wait(seen);
    sleepers_.fetch_sub(1);
  }

  ItemFunction function_ = nullptr;
  void* context_ = nullptr;
  uint16_t epoch_ = 0;
  int workers_ = 0;
  std::atomic<bool> is_retired_{false};
  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<int> done_{0};
  alignas(64) std::atomic<uint32_t> signal_{0};
  std::atomic<int> sleepers_{0};
};

// Never deleted: its detached threads may outlive the static destructors, and a forked child has none of them.
Pool* current = nullptr;
int wanted = 0;

void forget_in_child() { current = nullptr; }

Pool& pool() {
  const int workers = num_threads() - 1;
  if (current != nullptr && current->workers() != workers) {
    current->retire();
    current = nullptr;
  }
  if (current == nullptr) {
    static const int registered = pthread_atfork(nullptr, nullptr, forget_in_child);
    static_cast<void>(registered);
    current = new Pool(workers);
  }
  return *current;
}

}  // namespace

void set_num_threads(int count) { wanted = count; }

int num_threads() {
  if (wanted < 1) wanted = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  return wanted;
}

void run_items(int items, ItemFunction function, void* context) {
  if (items <= 1 || num_threads() == 1) {
    for (int i = 0; i < items; ++i) function(context, i);
    return;
  }
  pool().run(items, function, context);
}

}  // namespace penstock
