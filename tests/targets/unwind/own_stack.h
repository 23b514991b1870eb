/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a target of the unwinding tests says to its harness (own_stack.c): it gives its work, the harness speaks
 * the protocol of ../truth.h and notes the stack of each allocation as the target's own unwinder sees it.
 */
#ifndef OWN_STACK_H
#define OWN_STACK_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* READY, then: `go` does the work once and answers with the stacks of that time, again and again. */
void own_stack_serve(void (*work)(void));

/* A block that stays, from a call that no compiler can leave out. */
void *own_stack_keep(size_t size);

#ifdef __cplusplus
}
#endif

/* A function with a frame of its own, and work after its call, so that the call is none of the last kind. */
#define OWN __attribute__((noinline))
#define AFTER __asm__ volatile("" ::: "memory")

#endif
