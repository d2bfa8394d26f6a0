// Calls the kernels' functions on tensors by name: reads calls from standard input, writes their results to standard
// output, until the input ends. In place of `kernels/dispatch/{module,runtime,memory}.cpp`: one instruction set, one
// thread, and memory that is neither kept nor a byte more than was asked for.
#include <cstdio>
#include <cstdlib>

#include "kernels/dispatch/bindings.h"
#include "kernels/dispatch/memory.h"
#include "kernels/dispatch/runtime.h"

namespace nfkern {

extern const InstructionSet kPortable;

const InstructionSet& instruction_set() { return kPortable; }
void over_parts(int64_t count, c10::function_ref<void(int64_t)> part) {
  for (int64_t i = 0; i < count; ++i) part(i);
}
void over_rows(int64_t rows, int64_t, c10::function_ref<void(int64_t, int64_t)> part) { part(0, rows); }
int64_t team_size() { return 1; }
void as_team(int64_t, c10::function_ref<void(const Team&)> work) { work({}); }
void Team::wait() const {}

void* scratch(Scratch which, int64_t bytes) {
  static void* memories[2] = {};
  void*& memory = memories[static_cast<int>(which)];
  std::free(memory);
  TORCH_CHECK(!posix_memalign(&memory, 64, static_cast<size_t>(bytes)), "no memory for ", bytes, " bytes");
  std::memset(memory, 0xff, static_cast<size_t>(bytes));
  return memory;
}
at::Tensor recycled(at::IntArrayRef sizes, const at::TensorOptions& options) { return at::empty(sizes, options); }

namespace {

using pybind11::Value;

pybind11::module_& module() {
  static pybind11::module_ found;
  return found;
}

void read(void* to, size_t bytes) {
  if (std::fread(to, 1, bytes, stdin) != bytes) std::exit(0);
}
int64_t read_integer() {
  int64_t value;
  read(&value, sizeof value);
  return value;
}
std::string read_text() {
  std::string text(static_cast<size_t>(read_integer()), ' ');
  read(text.data(), text.size());
  return text;
}

Value read_value() {
  Value value;
  value.kind = static_cast<Value::Kind>(read_integer());
  if (value.kind == Value::kInteger) value.integer = read_integer();
  if (value.kind == Value::kFloat) read(&value.number, sizeof value.number);
  if (value.kind == Value::kText) value.text = read_text();
  if (value.kind == Value::kTensor) {
    const auto dtype = static_cast<at::ScalarType>(read_integer());
    at::IntArrayRef sizes(static_cast<size_t>(read_integer()));
    for (int64_t& size : sizes) size = read_integer();
    value.tensor = at::Tensor(sizes, dtype);
    read(value.tensor.bytes().data(), value.tensor.bytes().size());
  }
  if (value.kind == Value::kList) {
    value.list.resize(static_cast<size_t>(read_integer()));
    for (Value& each : value.list) each = read_value();
  }
  return value;
}

void write(const void* from, size_t bytes) { std::fwrite(from, 1, bytes, stdout); }
void write_integer(int64_t value) { write(&value, sizeof value); }

// A tensor or a list of them.
void write_value(const Value& value) {
  write_integer(value.kind);
  if (value.kind == Value::kTensor) {
    write_integer(static_cast<int64_t>(value.tensor.scalar_type()));
    write_integer(value.tensor.dim());
    for (int64_t size : value.tensor.sizes()) write_integer(size);
    write(value.tensor.bytes().data(), value.tensor.bytes().size());
    return;
  }
  write_integer(static_cast<int64_t>(value.list.size()));
  for (const Value& each : value.list) write_value(each);
}

void answer(const std::string& name, const std::vector<Value>& arguments) {
  try {
    write_value(module().functions.at(name)(arguments));
  } catch (const std::exception& error) {
    const std::string text = error.what();
    write_integer(Value::kError);
    write_integer(static_cast<int64_t>(text.size()));
    write(text.data(), text.size());
  }
  std::fflush(stdout);
}

}  // namespace

Bindings::Bindings(void (*add)(pybind11::module_&)) { add(module()); }

}  // namespace nfkern

int main() {
  while (true) {
    const std::string name = nfkern::read_text();
    nfkern::answer(name, nfkern::read_value().list);
  }
}
