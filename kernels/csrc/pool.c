/* A pool of threads: started when first wanted, asleep between jobs, gone after a fork. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>

#include "xnor.h"

#define MAX_WORKERS 255
#define SPINS 1000 /* looks at the job number before going to sleep: some 20 microseconds */

#if defined(__x86_64__)
#define RELAX() __builtin_ia32_pause()
#else
#define RELAX() ((void)0)
#endif

static pthread_mutex_t busy = PTHREAD_MUTEX_INITIALIZER; /* held by the caller whose job is running */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards everything below */
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static int workers;          /* started */
static int wanted;           /* how many may still join the job */
static atomic_int active;    /* how many have joined it and not left */
static atomic_uint job_number;

static void (*job_task)(void *, size_t);
static void *job_context;
static size_t job_count;
static atomic_size_t job_next;

static void run_tasks(void)
{
    for (size_t i; (i = atomic_fetch_add(&job_next, 1)) < job_count;) job_task(job_context, i);
}

static void *worker(void *unused)
{
    (void)unused;
    unsigned seen = 0;
    for (;;) {
        for (int i = 0; i < SPINS && atomic_load(&job_number) == seen; i++) RELAX();
        pthread_mutex_lock(&lock);
        while (atomic_load(&job_number) == seen) pthread_cond_wait(&wake, &lock);
        seen = atomic_load(&job_number);
        const int join = wanted > 0;
        if (join) wanted--, active++;
        pthread_mutex_unlock(&lock);
        if (join) {
            run_tasks();
            active--;
        }
    }
    return NULL;
}

static void forget_workers(void) /* in the child of a fork: no worker has come along */
{
    pthread_mutex_init(&busy, NULL);
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&wake, NULL);
    workers = wanted = 0;
    active = 0;
}

static void start_workers(int count) /* called with the lock held */
{
    static int registered;
    if (!registered) registered = pthread_atfork(NULL, NULL, forget_workers) == 0;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals belong to the program's own threads */
    for (pthread_t id; workers < count && pthread_create(&id, NULL, worker, NULL) == 0; workers++) pthread_detach(id);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void parallel(void (*task)(void *context, size_t i), void *context, size_t count, int threads)
{
    if ((size_t)threads > count) threads = (int)count;
    if (threads > MAX_WORKERS + 1) threads = MAX_WORKERS + 1;
    if (threads <= 1 || pthread_mutex_trylock(&busy) != 0) {
        for (size_t i = 0; i < count; i++) task(context, i);
        return;
    }
    pthread_mutex_lock(&lock);
    if (workers < threads - 1) start_workers(threads - 1);
    job_task = task, job_context = context, job_count = count;
    atomic_store(&job_next, 0);
    wanted = threads - 1;
    atomic_fetch_add(&job_number, 1);
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&lock);

    run_tasks();

    pthread_mutex_lock(&lock);
    wanted = 0; /* who has not joined by now is not waited for */
    pthread_mutex_unlock(&lock);
    for (int i = 0; atomic_load(&active) > 0; i++)
        if (i < SPINS) RELAX();
        else sched_yield();
    pthread_mutex_unlock(&busy);
}
