// Switching between stacks. On x86-64 in a few instructions; elsewhere by ucontext, which asks the
// kernel to swap the signal mask too, and takes some twenty times as long.
#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define EMULATOR_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMULATOR_ASAN
#endif
#endif
#if defined(EMULATOR_ASAN)
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {

// A stack and where execution on it stands.
struct Context {
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t registers{};
#endif
  const void* stack_bottom = nullptr;
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;  // AddressSanitizer's
};

#if defined(__x86_64__)

// Pushes what a function must keep, stores the stack pointer in *from, and goes on where `to` left
// off.
extern "C" void emulator_swap_stacks(void** from, void* to);
asm(R"(
  .pushsection .text
  .type emulator_swap_stacks, @function
emulator_swap_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size emulator_swap_stacks, . - emulator_swap_stacks
  .popsection
)");

inline void swap_contexts(Context& from, Context& to) {
  emulator_swap_stacks(&from.stack_pointer, to.stack_pointer);
}

inline void enter_on_first_swap(Context& context, void (*entry)()) {
  char* bottom = static_cast<char*>(const_cast<void*>(context.stack_bottom));
  auto* top = reinterpret_cast<uintptr_t*>(bottom + context.stack_bytes);
  *--top = 0;  // where `entry`, which never returns, would return to
  *--top = reinterpret_cast<uintptr_t>(entry);
  for (int i = 0; i < 6; ++i) *--top = 0;
  context.stack_pointer = top;
}

#else

inline void swap_contexts(Context& from, Context& to) {
  swapcontext(&from.registers, &to.registers);
}

inline void enter_on_first_swap(Context& context, void (*entry)()) {
  getcontext(&context.registers);
  context.registers.uc_stack.ss_sp = const_cast<void*>(context.stack_bottom);
  context.registers.uc_stack.ss_size = context.stack_bytes;
  makecontext(&context.registers, entry, 0);
  // Keeps AddressSanitizer from forgetting, at each swap, the red zones on the stack.
  context.registers.uc_stack.ss_size = 0;
}

#endif

// Leaves `from` for `to`; returns when `to` switches back.
inline void switch_context(Context& from, Context& to) {
#if defined(EMULATOR_ASAN)
  __sanitizer_start_switch_fiber(&from.fake_stack, to.stack_bottom, to.stack_bytes);
#endif
  swap_contexts(from, to);
#if defined(EMULATOR_ASAN)
  __sanitizer_finish_switch_fiber(from.fake_stack, &to.stack_bottom, &to.stack_bytes);
#endif
}

// Completes the switch by which `from` first entered a context.
inline void entered_from([[maybe_unused]] Context& from) {
#if defined(EMULATOR_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, &from.stack_bottom, &from.stack_bytes);
#endif
}

}  // namespace emulator
