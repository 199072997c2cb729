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
    seen[i]++; /* one thread alone may have task i: no atomic, so that the sanitizer sees it if two have */
}

static void one_job(unsigned *random)
{
    int seen[MOST] = {0};
    const size_t count = (size_t)rand_r(random) % MOST;
    parallel(task, seen, count, 1 + rand_r(random) % 6);
    for (size_t i = 0; i < MOST; i++)
        if (seen[i] != (i < count)) __atomic_store_n(&wrong, 1, __ATOMIC_RELAXED);
    if (rand_r(random) % 64 == 0) usleep((unsigned)rand_r(random) % 300); /* long enough to fall asleep, sometimes */
}

static void *caller(void *seed)
{
    unsigned random = (unsigned)(size_t)seed;
    for (int i = 0; i < rounds; i++) one_job(&random);
    return NULL;
}

int main(int count, char **words)
{
    rounds = atoi(words[1]);
    pthread_t id[CALLERS];
    for (size_t i = 0; i < CALLERS; i++) pthread_create(id + i, NULL, caller, (void *)(i + 1));
    for (size_t i = 0; i < CALLERS; i++) pthread_join(id[i], NULL);
    if (count > 2) { /* and in the child of a fork, where no worker has come along */
        int status;
        const pid_t child = fork();
        if (child == 0) {
            caller((void *)9);
            _exit(wrong);
        }
        waitpid(child, &status, 0);
        if (status) wrong = 1;
    }
    return wrong;
}
