/* Nodes, threads, clocks and loops of the simulation's kernel, without any of mailraft on them. */
#include "chaos-tests/sim/sim_kernel.h"
#include "proto/base/mailbox.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static char said[4000];
static struct sim_result result;
static struct sim_options options;

/* What steps did, in their order. */
__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
    size_t n = strlen(said);
    va_list args;
    va_start(args, format);
    (void)vsnprintf(said + n, sizeof(said) - n, format, args);
    va_end(args);
}

static unsigned power_cuts;

void sim_disk_power(unsigned node)
{
    (void)node;
    power_cuts++;
}

void sim_net_node_ended(unsigned node, enum sim_end how)
{
    (void)node;
    (void)how;
}

static void on_end(unsigned node, enum sim_end how, const char *text)
{
    say("end(%u,%d,%s) ", node, (int)how, text);
}

/* One world a process: each test has its own. A failed assertion of the child fails the test. */
static void in_child(void (*test)(void))
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        options.seed = options.seed == 0 ? 7 : options.seed;
        sim_kernel_init(&options, &result);
        sim_on_end = on_end;
        test();
        (void)fflush(NULL);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            (void)fprintf(stderr, "%s:%d: %s; said: %s\n", __FILE__, __LINE__, #condition, said);                      \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)
#define EXPECT_SAID(text) EXPECT(strcmp(said, text) == 0)

#define MS MR_NS_PER_MS

static bool near(uint64_t ns, uint64_t expected)
{
    /* libuv's millisecond, and the scheduler's latency of some steps */
    return ns + MS >= expected && ns < expected + 100 * MS;
}

/* ---- events, time ---- */

static void say_arg(void *arg)
{
    say("%s@%llu ", (const char *)arg, (unsigned long long)(sim_now() / MS));
}

static void events_test(void)
{
    sim_at(3 * MS, say_arg, "c");
    sim_at(1 * MS, say_arg, "a");
    sim_at(1 * MS, say_arg, "b");
    sim_at(9 * MS, say_arg, "late");
    sim_run_until(5 * MS);
    EXPECT_SAID("a@1 b@1 c@3 ");
    EXPECT(sim_now() == 5 * MS);
    sim_at(2 * MS, say_arg, "past");
    sim_run_until(10 * MS);
    EXPECT_SAID("a@1 b@1 c@3 past@5 late@9 ");
}

static void test_events(void **state)
{
    (void)state;
    in_child(events_test);
}

/* ---- timers ---- */

static void say_timer(uv_timer_t *timer)
{
    say("%s ", (const char *)timer->data);
}

static void timers_main(void *arg)
{
    (void)arg;
    uv_loop_t loop;
    uv_timer_t t[4];
    const char *names[] = {"second", "first", "third", "again"};
    EXPECT(uv_loop_init(&loop) == 0);
    uint64_t begin = sim_now();
    for (int i = 0; i < 4; i++) {
        uv_timer_init(&loop, &t[i]);
        t[i].data = (void *)(uintptr_t)names[i];
    }
    uv_timer_start(&t[2], say_timer, 50, 0);
    uv_timer_start(&t[0], say_timer, 20, 0);
    uv_timer_start(&t[1], say_timer, 10, 0);
    uv_timer_start(&t[3], say_timer, 50, 1000);
    uv_unref((uv_handle_t *)&t[3]);
    uv_timer_start(&t[2], say_timer, 50, 0); /* restarted: after what has the same time */
    EXPECT(uv_run(&loop, UV_RUN_DEFAULT) == 0);
    EXPECT(near(sim_now() - begin, 50 * MS));
    EXPECT(uv_is_active((uv_handle_t *)&t[3]) && !uv_is_active((uv_handle_t *)&t[0]));
    EXPECT(uv_loop_close(&loop) == UV_EBUSY);
    for (int i = 0; i < 4; i++)
        uv_close((uv_handle_t *)&t[i], NULL);
    EXPECT(uv_run(&loop, UV_RUN_DEFAULT) == 0);
    EXPECT(uv_loop_close(&loop) == 0);
}

static void timers_test(void)
{
    sim_node_start(1, timers_main, NULL);
    sim_run_until(1000 * MS);
    EXPECT_SAID("first second again third end(1,2,) ");
}

static void test_timers(void **state)
{
    (void)state;
    in_child(timers_test);
}

/* ---- the order of a loop's turn ---- */

static unsigned turns;

static void on_prepare(uv_prepare_t *h)
{
    say("prepare ");
    if (++turns < 2)
        return;
    uv_prepare_stop(h);
    uv_stop(h->loop); /* else the poll would wait for ever */
}

static void on_check(uv_check_t *h)
{
    (void)h;
    say("check ");
}

static void on_idle(uv_idle_t *h)
{
    say("idle ");
    uv_idle_stop(h);
}

static void on_closed(uv_handle_t *h)
{
    say("closed(%d) ", (int)h->type);
}

static void on_turn_timer(uv_timer_t *timer)
{
    say("timer ");
    uv_close((uv_handle_t *)timer, on_closed);
}

static void turn_main(void *arg)
{
    (void)arg;
    uv_loop_t loop;
    uv_prepare_t prepare;
    uv_check_t check;
    uv_idle_t idle;
    uv_timer_t timer;
    uv_loop_init(&loop);
    uv_prepare_init(&loop, &prepare);
    uv_check_init(&loop, &check);
    uv_idle_init(&loop, &idle);
    uv_timer_init(&loop, &timer);
    uv_prepare_start(&prepare, on_prepare);
    uv_check_start(&check, on_check);
    uv_idle_start(&idle, on_idle);
    uv_timer_start(&timer, on_turn_timer, 0, 0);
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_close((uv_handle_t *)&prepare, on_closed);
    uv_close((uv_handle_t *)&check, on_closed);
    uv_close((uv_handle_t *)&idle, on_closed);
    uv_run(&loop, UV_RUN_DEFAULT);
    EXPECT(uv_loop_close(&loop) == 0);
}

static void turn_test(void)
{
    char expected[200];
    (void)snprintf(expected, sizeof(expected),
                   "timer idle prepare check closed(%d) prepare check closed(%d) closed(%d) closed(%d) end(1,2,) ",
                   (int)UV_TIMER, (int)UV_IDLE, (int)UV_CHECK, (int)UV_PREPARE);
    sim_node_start(1, turn_main, NULL);
    sim_run_until(1000 * MS);
    EXPECT_SAID(expected);
}

static void test_turn(void **state)
{
    (void)state;
    in_child(turn_test);
}

/* ---- mail between threads ---- */

struct letter {
    struct mail mail;
    int number;
};

static struct mailbox *box;
static uv_loop_t box_loop;
static int received;

static void on_letter(struct mail *mail)
{
    struct letter *l = MR_CONTAINER(mail, struct letter, mail);
    EXPECT(l->number == received);
    free(l);
    if (++received == 100)
        mailbox_close(box, NULL, NULL);
}

static void *poster(void *arg)
{
    (void)arg;
    for (int i = 0; i < 100; i++) {
        struct letter *l = mr_calloc(1, sizeof(*l));
        l->mail.run = on_letter;
        l->number = i;
        mailbox_post(box, &l->mail);
        if (i % 7 == 0)
            sim_block(1000 * (uint64_t)i);
    }
    return (void *)(uintptr_t)17;
}

static void mail_main(void *arg)
{
    (void)arg;
    pthread_t thread;
    void *back = NULL;
    uv_loop_init(&box_loop);
    mailbox_open(&box, &box_loop, 1000);
    EXPECT(pthread_create(&thread, NULL, poster, NULL) == 0);
    uv_run(&box_loop, UV_RUN_DEFAULT);
    EXPECT(pthread_join(thread, &back) == 0 && back == (void *)(uintptr_t)17);
    EXPECT(uv_loop_close(&box_loop) == 0);
    say("received %d ", received);
}

static void mail_test(void)
{
    sim_node_start(2, mail_main, NULL);
    sim_run_until(1000 * MS);
    EXPECT_SAID("received 100 end(2,2,) ");
}

static void test_mail(void **state)
{
    (void)state;
    in_child(mail_test);
}

/* ---- conditions ---- */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond;

static void *signaller(void *arg)
{
    (void)arg;
    sim_block(300 * MS);
    pthread_mutex_lock(&mutex);
    pthread_cond_signal(&cond);
    pthread_mutex_unlock(&mutex);
    return NULL;
}

static void cond_main(void *arg)
{
    (void)arg;
    pthread_condattr_t attr;
    pthread_t thread;
    struct timespec until;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&cond, &attr);
    pthread_create(&thread, NULL, signaller, NULL);
    uint64_t begin = sim_now();
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += 100 * (long)MS;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&mutex);
    EXPECT(pthread_cond_timedwait(&cond, &mutex, &until) == ETIMEDOUT);
    EXPECT(near(sim_now() - begin, 100 * MS));
    until.tv_sec++;
    EXPECT(pthread_cond_timedwait(&cond, &mutex, &until) == 0);
    EXPECT(near(sim_now() - begin, 300 * MS));
    pthread_mutex_unlock(&mutex);
    pthread_join(thread, NULL);
    pthread_cond_destroy(&cond);
    pthread_mutex_destroy(&mutex);
}

static void cond_test(void)
{
    sim_node_start(1, cond_main, NULL);
    sim_run_until(2000 * MS);
    EXPECT_SAID("end(1,2,) ");
}

static void test_condition(void **state)
{
    (void)state;
    in_child(cond_test);
}

/* Whoever waits for a locked mutex gets it when its owner, who slept, lets it go. */
static void *locker(void *arg)
{
    pthread_mutex_lock(&mutex);
    say("%s ", (const char *)arg);
    sim_block(10 * MS);
    pthread_mutex_unlock(&mutex);
    return NULL;
}

static void mutex_main(void *arg)
{
    (void)arg;
    pthread_t thread[3];
    for (int i = 0; i < 3; i++)
        pthread_create(&thread[i], NULL, locker, "held");
    for (int i = 0; i < 3; i++)
        pthread_join(thread[i], NULL);
    EXPECT(near(sim_now(), 30 * MS));
}

static void mutex_test(void)
{
    sim_node_start(1, mutex_main, NULL);
    sim_run_until(2000 * MS);
    EXPECT_SAID("held held held end(1,2,) ");
}

static void test_mutex(void **state)
{
    (void)state;
    in_child(mutex_test);
}

/* ---- the pool ---- */

static void on_work(uv_work_t *req)
{
    (void)req;
    sim_block(5 * MS);
    say("work ");
}

static void after_work(uv_work_t *req, int status)
{
    (void)req;
    say(status == 0 ? "after " : "cancelled ");
}

static void pool_main(void *arg)
{
    (void)arg;
    uv_loop_t loop;
    uv_work_t work[5];
    uv_loop_init(&loop);
    uint64_t begin = sim_now();
    for (int i = 0; i < 5; i++)
        uv_queue_work(&loop, &work[i], on_work, after_work);
    EXPECT(uv_cancel((uv_req_t *)&work[4]) == 0);
    uv_run(&loop, UV_RUN_DEFAULT);
    EXPECT(uv_cancel((uv_req_t *)&work[0]) == UV_EBUSY);
    EXPECT(near(sim_now() - begin, 5 * MS)); /* four at once */
    EXPECT(uv_loop_close(&loop) == 0);
}

static void pool_test(void)
{
    sim_node_start(1, pool_main, NULL);
    sim_run_until(1000 * MS);
    unsigned work = 0, after = 0, cancelled = 0;
    for (const char *at = said; *at != 0; at = strchr(at, ' ') + 1) {
        work += strncmp(at, "work ", 5) == 0;
        after += strncmp(at, "after ", 6) == 0;
        cancelled += strncmp(at, "cancelled ", 10) == 0;
    }
    EXPECT(work == 4 && after == 4 && cancelled == 1);
}

static void test_pool(void **state)
{
    (void)state;
    in_child(pool_test);
}

/* ---- crashes ---- */

static void *stepper(void *arg)
{
    (void)arg;
    for (int i = 0;; i++) {
        say("s%d ", i);
        sim_step("step");
        sim_block(MS);
    }
    return NULL;
}

static void steps_main(void *arg)
{
    (void)arg;
    pthread_t thread;
    pthread_create(&thread, NULL, stepper, NULL);
    sim_block(3600000 * MS);
}

static void restart(void *arg)
{
    (void)arg;
    say("restart ");
    sim_node_start(1, steps_main, NULL);
    sim_arm(1, 2, SIM_KILL);
}

static void crash_test(void)
{
    sim_node_start(1, steps_main, NULL);
    sim_arm(1, 3, SIM_POWER);
    sim_at(500 * MS, restart, NULL);
    sim_run_until(1000 * MS);
    EXPECT_SAID("s0 s1 s2 end(1,1,) restart s0 s1 end(1,0,) ");
    EXPECT(power_cuts == 1 && !sim_node_alive(1) && sim_node_life(1) == 2);
}

static void test_crash(void **state)
{
    (void)state;
    in_child(crash_test);
}

static void panic_main(void *arg)
{
    (void)arg;
    mr_panic("by %s", "intent");
}

static void panic_test(void)
{
    sim_node_start(3, panic_main, NULL);
    sim_run_until(1000 * MS);
    EXPECT(strstr(said, "end(3,2,panic at ") == said && strstr(said, ": by intent) ") != NULL);
}

static void test_panic(void **state)
{
    (void)state;
    in_child(panic_test);
}

/* What was to come to a dead life never comes. */
static uv_loop_t post_loop;

static void post_main(void *arg)
{
    (void)arg;
    uv_loop_init(&post_loop);
    sim_loop_post(&post_loop, 10 * MS, say_arg, "mine");
    sim_loop_post(&post_loop, 100 * MS, say_arg, "dead");
    uv_run(&post_loop, UV_RUN_DEFAULT);
    say("never ");
}

static void idle_main(void *arg)
{
    (void)arg;
    sim_block(3600000 * MS);
}

static void kill_one(void *arg)
{
    (void)arg;
    sim_node_crash(1, SIM_KILL);
    sim_node_start(1, idle_main, NULL);
}

static void dead_post_test(void)
{
    sim_node_start(1, post_main, NULL);
    sim_at(50 * MS, kill_one, NULL);
    sim_run_until(1000 * MS);
    EXPECT_SAID("mine@10 end(1,0,) ");
}

static void test_dead_post(void **state)
{
    (void)state;
    in_child(dead_post_test);
}

/* ---- pauses ---- */

static void say_tick(uv_timer_t *timer)
{
    say("tick@%llu ", (unsigned long long)((sim_now() + MS) / (100 * MS)));
    if (sim_now() > 2000 * MS)
        uv_close((uv_handle_t *)timer, NULL);
}

static void tick_main(void *arg)
{
    (void)arg;
    uv_timer_t timer;
    uv_loop_init(&post_loop);
    uv_timer_init(&post_loop, &timer);
    uv_timer_start(&timer, say_tick, 500, 500);
    sim_loop_post(&post_loop, 1200 * MS, say_arg, "post");
    uv_run(&post_loop, UV_RUN_DEFAULT);
}

static void pause_one(void *arg)
{
    (void)arg;
    sim_node_pause(1);
}

static void resume_one(void *arg)
{
    (void)arg;
    say("resume ");
    sim_node_resume(1);
}

static void pause_test(void)
{
    sim_node_start(1, tick_main, NULL);
    uint64_t boot = sim_node_boot_ns(1);
    sim_at(700 * MS, pause_one, NULL);
    sim_at(2350 * MS, resume_one, NULL);
    sim_run_until(4000 * MS);
    EXPECT(strncmp(said, "tick@5 resume post@23", 21) == 0 && strstr(said, "tick@23 end(1,2,) ") != NULL);
    EXPECT(sim_node_boot_ns(1) - boot == 4000 * MS);
}

static void test_pause(void **state)
{
    (void)state;
    in_child(pause_test);
}

/* ---- clocks ---- */

static void rate_main(void *arg)
{
    uv_loop_t loop;
    uv_timer_t timer;
    uint64_t begin = sim_now(), boot = uv_hrtime();
    uv_loop_init(&loop);
    uv_timer_init(&loop, &timer);
    timer.data = arg;
    uv_timer_start(&timer, say_timer, 10000, 0);
    uv_run(&loop, UV_RUN_DEFAULT);
    EXPECT(near(uv_hrtime() - boot, 10000 * MS));
    say("%llu ", (unsigned long long)((sim_now() - begin + 5 * MS) / (100 * MS)));
}

static void slow_down(void *arg)
{
    (void)arg;
    sim_clock_rate(2, -500000);
}

static void rate_test(void)
{
    sim_clock_rate(1, 1000000);
    sim_node_start(1, rate_main, "fast");
    sim_node_start(2, rate_main, "slow");
    sim_at(5000 * MS, slow_down, NULL);
    sim_run_until(30000 * MS);
    EXPECT_SAID("fast 50 end(1,2,) slow 150 end(2,2,) ");
    uint64_t boot = sim_node_boot_ns(3), wall = sim_node_wall_ms(3);
    sim_clock_jump(3, -3600000);
    EXPECT(sim_node_wall_ms(3) == wall - 3600000 && sim_node_boot_ns(3) == boot);
}

static void test_rates(void **state)
{
    (void)state;
    in_child(rate_test);
}

/* ---- a seed replays ---- */

static void busy_main(void *arg)
{
    (void)arg;
    uint64_t r;
    for (int i = 0; i < 50; i++) {
        EXPECT(getrandom(&r, sizeof(r), 0) == sizeof(r));
        sim_trace("busy", r);
        sim_block(r % 1000000);
    }
}

static uint64_t hash_of(uint64_t seed)
{
    int fds[2];
    uint64_t hash = 0;
    assert_int_equal(pipe(fds), 0);
    pid_t child = fork();
    if (child == 0) {
        options.seed = seed;
        sim_kernel_init(&options, &result);
        for (unsigned i = 1; i <= 5; i++)
            sim_node_start(i, busy_main, NULL);
        sim_run_until(1000 * MS);
        sim_kernel_finish();
        ssize_t n = write(fds[1], &result.trace_hash, sizeof(result.trace_hash));
        _exit(n == sizeof(result.trace_hash) && result.node_ns > 0 ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(read(fds[0], &hash, sizeof(hash)), sizeof(hash));
    close(fds[0]);
    close(fds[1]);
    return hash;
}

static void test_replay(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 10; seed++)
        assert_true(hash_of(seed) == hash_of(seed));
    assert_true(hash_of(1) != hash_of(2));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_events),    cmocka_unit_test(test_timers), cmocka_unit_test(test_turn),
        cmocka_unit_test(test_mail),      cmocka_unit_test(test_mutex),  cmocka_unit_test(test_condition),
        cmocka_unit_test(test_pool),      cmocka_unit_test(test_crash),  cmocka_unit_test(test_panic),
        cmocka_unit_test(test_dead_post), cmocka_unit_test(test_pause),  cmocka_unit_test(test_rates),
        cmocka_unit_test(test_replay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
