/* Coroutines: a stack each, and a switch that saves what the ABI lets a call keep.
 *
 * Stacks come from mmap with a page without rights below and are used again. A life that ends leaves its threads where
 * they stood: they are never resumed, only their stacks are taken back. */
#include "chaos-tests/sim/sim_kernel.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define STACK_SIZE ((size_t)1 << 20)
#else
#define STACK_SIZE ((size_t)256 << 10)
#endif
#define GUARD_SIZE ((size_t)64 << 10) /* the largest page of the machines we know */

struct sim_stack {
    char *memory; /* above the guard */
    struct sim_stack *next;
};

static struct {
    struct sim_thread *current;
    void *main_sp;
    struct sim_stack *stacks;   /* free ones */
    struct sim_thread *threads; /* free ones, by next */
#if defined(__SANITIZE_ADDRESS__)
    void *main_fake;
    const void *main_bottom;
    size_t main_size;
#endif
} run;

/* Saves the running context into *from and goes on where `to` was saved. */
void sim_switch(void **from, void *to);

#if defined(__x86_64__)
__asm__(".text\n.globl sim_switch\n.type sim_switch,@function\nsim_switch:\n"
        "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
        "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
        "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
        ".size sim_switch,.-sim_switch\n");

static void *first_frame(char *top, void (*entry)(void))
{
    /* Six registers, the entry's address, and a zero in the place of its own return address, where a backtrace ends. */
    void **sp = (void **)(void *)top - 8;
    memset(sp, 0, 8 * sizeof(*sp));
    memcpy(&sp[6], &entry, sizeof(entry));
    return sp;
}
#elif defined(__aarch64__)
__asm__(".text\n.globl sim_switch\n.type sim_switch,%function\nsim_switch:\n"
        "sub sp,sp,#160\n"
        "stp x19,x20,[sp,#0]\nstp x21,x22,[sp,#16]\nstp x23,x24,[sp,#32]\nstp x25,x26,[sp,#48]\n"
        "stp x27,x28,[sp,#64]\nstp x29,x30,[sp,#80]\n"
        "stp d8,d9,[sp,#96]\nstp d10,d11,[sp,#112]\nstp d12,d13,[sp,#128]\nstp d14,d15,[sp,#144]\n"
        "mov x9,sp\nstr x9,[x0]\nmov sp,x1\n"
        "ldp x19,x20,[sp,#0]\nldp x21,x22,[sp,#16]\nldp x23,x24,[sp,#32]\nldp x25,x26,[sp,#48]\n"
        "ldp x27,x28,[sp,#64]\nldp x29,x30,[sp,#80]\n"
        "ldp d8,d9,[sp,#96]\nldp d10,d11,[sp,#112]\nldp d12,d13,[sp,#128]\nldp d14,d15,[sp,#144]\n"
        "add sp,sp,#160\nret\n"
        ".size sim_switch,.-sim_switch\n");

static void *first_frame(char *top, void (*entry)(void))
{
    void **sp = (void **)(void *)top - 20;
    memset(sp, 0, 20 * sizeof(*sp));
    memcpy(&sp[11], &entry, sizeof(entry)); /* x30; x29 is 0, where a backtrace ends */
    return sp;
}
#else
#error "mailraft-sim: no switch of stacks for this machine"
#endif

/* ---- stacks ---- */

static struct sim_stack *stack_take(void)
{
    struct sim_stack *s = run.stacks;
    if (s != NULL) {
        run.stacks = s->next;
        return s;
    }
    s = mr_calloc(1, sizeof(*s));
    char *at = mmap(NULL, GUARD_SIZE + STACK_SIZE, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (at == MAP_FAILED || mprotect(at, GUARD_SIZE, PROT_NONE) != 0)
        sim_violation(SIM_STUCK, "no memory for a stack: %s", strerror(errno));
    s->memory = at + GUARD_SIZE;
    return s;
}

static void stack_give(struct sim_stack *s)
{
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(s->memory, STACK_SIZE); /* frames that were left, not returned from */
#endif
    s->next = run.stacks;
    run.stacks = s;
}

/* ---- to and fro ---- */

static void to_world(struct sim_thread *t, bool for_ever)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(for_ever ? NULL : &t->fake_stack, run.main_bottom, run.main_size);
#else
    (void)for_ever;
#endif
    sim_switch(&t->sp, run.main_sp);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(t->fake_stack, NULL, NULL);
#endif
}

static void first_step(void)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(NULL, &run.main_bottom, &run.main_size);
#endif
    struct sim_thread *t = run.current;
    sim_thread_leave(t->run(t->arg));
}

void sim_thread_run(struct sim_thread *t)
{
    t->state = SIM_RUNNING;
    run.current = t;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&run.main_fake, t->stack->memory, STACK_SIZE);
#endif
    sim_switch(&run.main_sp, t->sp);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(run.main_fake, NULL, NULL);
#endif
    run.current = NULL;
}

struct sim_thread *sim_self(void)
{
    return run.current;
}

/* ---- life of a thread ---- */

struct sim_thread *sim_thread_new(unsigned node, void *(*body)(void *arg), void *arg)
{
    struct sim_node_state *n = sim_node_get(node);
    struct sim_thread *t = run.threads;
    if (t != NULL)
        run.threads = t->next;
    else
        t = mr_malloc(sizeof(*t));
    *t = (struct sim_thread){.wake = {.kind = SIM_EVENT_WAKE},
                             .stack = stack_take(),
                             .node = node,
                             .number = n->next_thread++,
                             .life = n->life,
                             .run = body,
                             .arg = arg,
                             .state = SIM_SCHEDULED,
                             .deadline = SIM_NEVER};
    t->sp = first_frame(t->stack->memory + STACK_SIZE, first_step);
    t->next = n->threads;
    t->link = &n->threads;
    if (t->next != NULL)
        t->next->link = &t->next;
    n->threads = t;
    sim_event_set(&t->wake, sim_now() + sim_latency());
    return t;
}

void sim_thread_free(struct sim_thread *t)
{
    sim_event_remove(&t->wake);
    *t->link = t->next;
    if (t->next != NULL)
        t->next->link = t->link;
    if (t->stack != NULL)
        stack_give(t->stack);
    t->stack = NULL;
    t->next = run.threads;
    run.threads = t;
}

/* Its stack is still under our feet; the one who joins takes it back, or the end of the life. */
void sim_thread_leave(void *result)
{
    struct sim_thread *t = run.current;
    t->result = result;
    t->state = SIM_DONE;
    if (t->joiner != NULL)
        sim_unpark(t->joiner);
    to_world(t, true);
    __builtin_trap();
}

void sim_thread_abandon(void)
{
    to_world(run.current, true);
    __builtin_trap();
}

void *sim_thread_join(struct sim_thread *t)
{
    mr_assert(t->joiner == NULL && t->node == run.current->node && t->life == run.current->life);
    t->joiner = run.current;
    while (t->state != SIM_DONE)
        (void)sim_park(SIM_NEVER);
    void *result = t->result;
    sim_thread_free(t);
    return result;
}

/* ---- waiting ---- */

bool sim_park(uint64_t deadline_boot)
{
    struct sim_thread *t = run.current;
    mr_assert(t != NULL);
    int error = errno;
    t->state = SIM_PARKED;
    t->woken = false;
    t->deadline = deadline_boot;
    if (deadline_boot != SIM_NEVER)
        sim_event_set(&t->wake, sim_boot_to_world(t->node, deadline_boot) + sim_latency());
    to_world(t, false);
    t->deadline = SIM_NEVER;
    errno = error;
    return t->woken;
}

void sim_unpark(struct sim_thread *t)
{
    if (t->state != SIM_PARKED)
        return;
    t->state = SIM_SCHEDULED;
    t->woken = true;
    if (!t->held) /* else it runs when its node does */
        sim_event_set(&t->wake, sim_now() + sim_latency());
}

void sim_yield(uint64_t ns)
{
    struct sim_thread *t = run.current;
    mr_assert(t != NULL);
    int error = errno;
    t->state = SIM_SCHEDULED;
    sim_event_set(&t->wake, sim_now() + ns + sim_latency());
    to_world(t, false);
    errno = error;
}

void sim_block(uint64_t ns)
{
    if (ns > 0)
        sim_yield(ns);
}

/* ---- lines of waiting threads ---- */

void sim_wait_add(struct sim_waiters *w, struct sim_thread *t)
{
    t->next_waiter = NULL;
    if (w->first == NULL)
        w->first = t;
    else
        w->last->next_waiter = t;
    w->last = t;
}

struct sim_thread *sim_wait_take(struct sim_waiters *w)
{
    struct sim_thread *t = w->first;
    if (t != NULL)
        w->first = t->next_waiter;
    return t;
}

void sim_wait_remove(struct sim_waiters *w, struct sim_thread *t)
{
    struct sim_thread *before = NULL;
    for (struct sim_thread *at = w->first; at != NULL; before = at, at = at->next_waiter) {
        if (at != t)
            continue;
        if (before == NULL)
            w->first = t->next_waiter;
        else
            before->next_waiter = t->next_waiter;
        if (w->last == t)
            w->last = before;
        return;
    }
}
