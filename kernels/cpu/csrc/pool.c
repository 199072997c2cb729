/* A pool of threads. It is started on first use, sleeps between jobs, and is started again in a forked process. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>

#include "xnor.h"

#define MAX_WORKERS 255
#define SPINS 2000 /* checks of the job number before going to sleep: about 50 microseconds */

#if defined(__x86_64__)
#define RELAX() __builtin_ia32_pause()
#else
#define RELAX() ((void)0)
#endif

static pthread_mutex_t busy = PTHREAD_MUTEX_INITIALIZER; /* held by the caller whose job is running */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* held while workers go to sleep, are woken or are started */
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static int workers;         /* started */
static atomic_int sleepers; /* asleep, or about to be and holding the lock */

/* The current job in one word, so that workers join without a lock: its number, the number of workers that may still
 * join, and the number that have joined and not left. */
#define NUMBER 0x10000u
#define SEAT 0x100u
static atomic_uint job;

static void (*job_task)(void *, size_t);
static void *job_context;
static size_t job_count;
static atomic_size_t job_next;

static unsigned number(unsigned of) { return of / NUMBER; }
static unsigned seats(unsigned of) { return of / SEAT % SEAT; }
static unsigned active(unsigned of) { return of % SEAT; }

static void run_tasks(void)
{
    for (size_t i; (i = atomic_fetch_add(&job_next, 1)) < job_count;) job_task(job_context, i);
}

static void *worker(void *unused)
{
    (void)unused;
    unsigned seen = 0; /* no job has this number */
    for (;;) {
        for (int i = 0; i < SPINS && number(atomic_load(&job)) == seen; i++) RELAX();
        if (number(atomic_load(&job)) == seen) {
            pthread_mutex_lock(&lock);
            sleepers++;
            while (number(atomic_load(&job)) == seen) pthread_cond_wait(&wake, &lock);
            sleepers--;
            pthread_mutex_unlock(&lock);
        }
        unsigned now = atomic_load(&job);
        while (seats(now) > 0 && !atomic_compare_exchange_weak(&job, &now, now - SEAT + 1)) continue;
        seen = number(now);
        if (seats(now) > 0) { /* before it was taken */
            run_tasks();
            atomic_fetch_sub(&job, 1);
        }
    }
    return NULL;
}

static void forget_workers(void) /* in the child of a fork, which has no workers */
{
    pthread_mutex_init(&busy, NULL);
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&wake, NULL);
    workers = 0;
    sleepers = 0;
    job = 0;
}

static void start_workers(int count) /* called with the lock held */
{
    static int registered;
    if (!registered) registered = pthread_atfork(NULL, NULL, forget_workers) == 0;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* the program's own threads handle the signals */
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
    if (workers < threads - 1) {
        pthread_mutex_lock(&lock);
        start_workers(threads - 1);
        pthread_mutex_unlock(&lock);
    }
    job_task = task, job_context = context, job_count = count;
    atomic_store(&job_next, 0);
    unsigned next = (number(atomic_load(&job)) + 1) * NUMBER; /* may come round to 0: */
    if (next == 0) next = NUMBER;
    atomic_store(&job, next + (unsigned)(threads - 1) * SEAT);
    if (atomic_load(&sleepers) > 0) {
        pthread_mutex_lock(&lock);
        pthread_cond_broadcast(&wake);
        pthread_mutex_unlock(&lock);
    }

    run_tasks();

    unsigned now = atomic_load(&job); /* workers that have not joined by now are not waited for */
    while (!atomic_compare_exchange_weak(&job, &now, now - seats(now) * SEAT)) continue;
    for (int i = 0; active(atomic_load(&job)) > 0; i++)
        if (i < SPINS) RELAX();
        else sched_yield();
    pthread_mutex_unlock(&busy);
}
