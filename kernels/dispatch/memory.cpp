#include "memory.h"

#include <ATen/EmptyTensor.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <span>

namespace nfkern {
namespace {

#if defined(__SANITIZE_ADDRESS__)
// Not a byte more than was asked for, and never what another call has left: so that a step too far is found.
constexpr bool kExact = true;
constexpr int64_t kScratchStep = 1;
#else
constexpr bool kExact = false;
constexpr int64_t kScratchStep = 4096;
#endif

// Freed memory: no more than eight blocks of kSmallest to kSmall bytes and two of up to kLargest, as many as a training
// step has projected contexts and gradients of them. Older blocks give way. Without locks, which a fork could leave held.
class Recycling final : public c10::Allocator {
 public:
  static constexpr size_t kSmallest = size_t{1} << 18, kSmall = size_t{1} << 25, kLargest = size_t{1} << 29;

  c10::DataPtr allocate(size_t bytes) override {
    c10::Allocator* source = c10::GetAllocator(c10::kCPU);
    std::unique_ptr<Block> found;
    for (Slot& slot : slots_for(bytes))
      if (!found) found = take(slot, bytes);
    if (!found) found = std::make_unique<Block>(Block{source->allocate(bytes), bytes});
    void* data = found->data.get();
    return {data, found.release(), &release, c10::kCPU};
  }

  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }

 private:
  struct Block {
    c10::DataPtr data;
    size_t bytes;
  };
  using Slot = std::atomic<Block*>;

  static inline Slot small_[8] = {}, large_[2] = {};
  static inline std::atomic<unsigned> oldest_{0};

  static std::span<Slot> slots_for(size_t bytes) { return bytes > kSmall ? std::span<Slot>(large_) : small_; }

  // Takes what waits there, if it is of about the size.
  static std::unique_ptr<Block> take(Slot& slot, size_t bytes) {
    std::unique_ptr<Block> block(slot.exchange(nullptr));
    if (block && bytes <= block->bytes && block->bytes <= 2 * bytes) return block;
    if (block) wait(std::move(block));
    return nullptr;
  }

  static void release(void* block) { wait(std::unique_ptr<Block>(static_cast<Block*>(block))); }

  static void wait(std::unique_ptr<Block> block) {
    const std::span<Slot> slots = slots_for(block->bytes);
    for (Slot& slot : slots) {
      Block* expected = nullptr;
      if (slot.compare_exchange_strong(expected, block.get())) return static_cast<void>(block.release());
    }
    const std::unique_ptr<Block> given_up(slots[oldest_++ % slots.size()].exchange(block.release()));
  }
};

}  // namespace

void* scratch(Scratch which, int64_t bytes) {
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  thread_local std::unique_ptr<void, Free> memories[2];
  thread_local int64_t sizes[2] = {0, 0};
  std::unique_ptr<void, Free>& memory = memories[static_cast<int>(which)];
  int64_t& size = sizes[static_cast<int>(which)];
  if (size < bytes || kExact) {
    size = 0;
    memory.reset();
    const int64_t rounded = (bytes + kScratchStep - 1) / kScratchStep * kScratchStep;
    void* found = nullptr;
    // Unlike aligned_alloc, it takes any size.
    TORCH_CHECK(!posix_memalign(&found, 64, rounded), "nfkern: no memory for ", rounded, " bytes of scratch");
    memory.reset(found);
    size = rounded;
  }
  return memory.get();
}

at::Tensor recycled(at::IntArrayRef sizes, const at::TensorOptions& options) {
  const size_t bytes = static_cast<size_t>(c10::multiply_integers(sizes)) * options.dtype().itemsize();
  if (kExact || bytes < Recycling::kSmallest || bytes > Recycling::kLargest) return at::empty(sizes, options);
  static Recycling* const allocator = new Recycling;  // outlives every tensor
  return at::detail::empty_generic(sizes, allocator, c10::DispatchKeySet(c10::DispatchKey::CPU),
                                   c10::typeMetaToScalarType(options.dtype()), std::nullopt);
}

}  // namespace nfkern
