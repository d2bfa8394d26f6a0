#include "runtime.h"

#include <ATen/Parallel.h>
#include <pthread.h>
#include <pybind11/stl.h>
#include <sched.h>
#if defined(_OPENMP)
#include <omp.h>
#endif

#include <atomic>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "bindings.h"

namespace nfkern {

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
extern const InstructionSet kAvx512Bf16, kAvx512, kAvx2;
#endif
extern const InstructionSet kPortable;

const InstructionSet* const kInstructionSets[] = {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    &kAvx512Bf16, &kAvx512, &kAvx2,
#endif
    &kPortable, nullptr};

namespace {

const InstructionSet* best() {
  const InstructionSet* const* each = kInstructionSets;
  while (!(*each)->supported()) ++each;
  return *each;
}

std::atomic<const InstructionSet*> chosen{nullptr};

// OpenMP's threads do not survive a fork, and a region that waits for them would hang.
std::atomic<bool> forked{false};

void choose(const std::string& name) {
  std::string known;
  for (const InstructionSet* const* each = kInstructionSets; *each; ++each) {
    if (name == (*each)->name) {
      TORCH_CHECK_VALUE((*each)->supported(), "name: this machine does not have ", name);
      chosen = *each;
      return;
    }
    known += std::string(known.empty() ? "" : ", ") + (*each)->name;
  }
  TORCH_CHECK_VALUE(false, "name: expected one of ", known, ", got ", name);
}

std::vector<std::string> supported() {
  std::vector<std::string> names;
  for (const InstructionSet* const* each = kInstructionSets; *each; ++each)
    if ((*each)->supported()) names.emplace_back((*each)->name);
  return names;
}

}  // namespace

const InstructionSet& instruction_set() {
  const InstructionSet* found = chosen;
  if (!found) chosen = found = best();
  return *found;
}

namespace {
int64_t usable_threads() { return forked || at::in_parallel_region() ? 1 : at::get_num_threads(); }
}  // namespace

void over_parts(int64_t count, c10::function_ref<void(int64_t)> part) {
  const auto range = [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) part(i);
  };
  if (usable_threads() == 1 || count <= 1) return range(0, count);
  at::parallel_for(0, count, 1, range);
}

void over_rows(int64_t rows, int64_t smallest, c10::function_ref<void(int64_t, int64_t)> part) {
  const int64_t vectors = (rows + smallest - 1) / smallest;
  // Not to be asked for a few rows: after a pause, PyTorch's threads are not in a cache.
  const int64_t parts = vectors <= 1 ? 1 : std::min(usable_threads(), vectors);
  if (parts <= 1) return part(0, rows);
  const int64_t each = (vectors + parts - 1) / parts * smallest;
  over_parts((rows + each - 1) / each, [&](int64_t i) { part(i * each, std::min(rows, (i + 1) * each)); });
}

class Meeting {
 public:
  // A member may have lost its processor to someone else: after a while the others give theirs.
  void wait(int members) {
    const uint32_t now = round.load(std::memory_order_relaxed);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == members) {
      arrived.store(0, std::memory_order_relaxed);
      return round.store(now + 1, std::memory_order_release);
    }
    for (int tries = 0; round.load(std::memory_order_acquire) == now; ++tries)
      if (tries > kTries) sched_yield();
  }

 private:
  static constexpr int kTries = 2000;
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<uint32_t> round{0};
};

void Team::wait() const {
  if (size > 1) meeting->wait(size);
}

int64_t team_size() {
#if defined(_OPENMP)
  return usable_threads();
#else
  return 1;
#endif
}

void as_team([[maybe_unused]] int64_t members, c10::function_ref<void(const Team&)> work) {
#if defined(_OPENMP)
  if (members > 1) {
    Meeting meeting;
#pragma omp parallel num_threads(static_cast<int>(members))
    work({omp_get_thread_num(), omp_get_num_threads(), &meeting});
    return;
  }
#endif
  work({});
}

// The number of threads that a call's parts really run on now.
int64_t threads_in_use() {
  std::vector<std::thread::id> ids(static_cast<size_t>(at::get_num_threads()));
  over_parts(static_cast<int64_t>(ids.size()),
             [&](int64_t i) { ids[static_cast<size_t>(i)] = std::this_thread::get_id(); });
  return static_cast<int64_t>(std::set<std::thread::id>(ids.begin(), ids.end()).size());
}

NFKERN_BINDINGS {
  pthread_atfork(nullptr, nullptr, [] { forked = true; });
  module.def("instruction_set", [] { return std::string(instruction_set().name); });
  module.def("threads_in_use", threads_in_use, "On how many threads a call of many rows runs.");
  module.def("instruction_sets", supported, "Those that this machine has, best first.");
  module.def("choose_instruction_set", choose, pybind11::arg("name"),
             "For the whole process: for tests and benchmarks.");
}

}  // namespace nfkern
