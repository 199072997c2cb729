/* Many callers of the pool of threads at once: every task of every job is run exactly once. Built by test_pool.py. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "xnor.h"

#define MOST 64
#define CALLERS 3

static int wrong, rounds;

static void task(void *context, size_t i)
{
    int *seen = context;
    seen[i]++; /* only one thread may get task i: not atomic, so that the sanitizer reports it if two get it */
}

static void one_job(unsigned *random)
{
    int seen[MOST] = {0};
    const size_t count = (size_t)rand_r(random) % MOST;
    parallel(task, seen, count, 1 + rand_r(random) % 6);
    for (size_t i = 0; i < MOST; i++)
        if (seen[i] != (i < count)) __atomic_store_n(&wrong, 1, __ATOMIC_RELAXED);
    if (rand_r(random) % 64 == 0) usleep((unsigned)rand_r(random) % 300); /* sometimes long enough for workers to sleep */
}

static void *caller(void *seed)
{
    unsigned random = (unsigned)(size_t)seed;
    for (int i = 0; i < rounds; i++) one_job(&random);
    return NULL;
}

static int begun;

/* waits for a while until the other of two has begun; a single thread would wait in vain */
static void together(void *context, size_t i)
{
    (void)i;
    __atomic_fetch_add(&begun, 1, __ATOMIC_SEQ_CST);
    for (int ms = 0; ms < 2000 && __atomic_load_n(&begun, __ATOMIC_SEQ_CST) < 2; ms++) usleep(1000);
    if (__atomic_load_n(&begun, __ATOMIC_SEQ_CST) < 2) *(int *)context = 1;
}

static void company(unsigned microseconds)
{
    int alone = 0;
    usleep(microseconds);
    begun = 0;
    parallel(together, &alone, 2, 2);
    if (alone) wrong = 1;
}

int main(int count, char **words)
{
    company(0);      /* the worker is started */
    company(0);      /* it polls for work */
    company(100000); /* it is asleep */
    rounds = atoi(words[1]);
    pthread_t id[CALLERS];
    for (size_t i = 0; i < CALLERS; i++) pthread_create(id + i, NULL, caller, (void *)(i + 1));
    for (size_t i = 0; i < CALLERS; i++) pthread_join(id[i], NULL);
    if (count > 2) { /* and in the child of a fork, which has no workers */
        int status;
        const pid_t child = fork();
        if (child == 0) {
            company(0);
            company(100000);
            caller((void *)9);
            _exit(wrong);
        }
        waitpid(child, &status, 0);
        if (status) wrong = 1;
    }
    return wrong;
}
