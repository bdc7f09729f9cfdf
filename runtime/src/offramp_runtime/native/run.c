/* Runs lists of steps for some images, alone or with threads that share the images, or for few images every step. */

enum { SPINS = 20000, SPINS_BEFORE_OTHERS = 2000, PARTS_OF_A_THREAD = 4 };

typedef struct {
    long which;
    float *const *memories; /* of the images */
    float *scratch;
    float *logits;
    const float *weights;
    long images;
    const volatile int *stop;
} job;

typedef struct {
    long threads;
    pid_t owner;
    pthread_t *workers;
    pthread_mutex_t busy;  /* one job at a time */
    pthread_mutex_t sleep; /* guards all that follows up to the job, where it is written */
    pthread_cond_t wake;
    long sleepers;
    long jobs; /* that have been begun */
    long started;
    int closing;
    job job;
    long next; /* image */
    long arrived;
    long turn;
    int stopped;
    int halt[2];
    long left[2];
} pool;

static void relax(long spins) {
    if (spins % SPINS_BEFORE_OTHERS == SPINS_BEFORE_OTHERS - 1) sched_yield();
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

/* Wait for all threads. */
static void meet(pool *p) {
    long turn = __atomic_load_n(&p->turn, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&p->arrived, 1, __ATOMIC_ACQ_REL) == p->threads) {
        __atomic_store_n(&p->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&p->turn, turn + 1, __ATOMIC_RELEASE);
        return;
    }
    for (long spins = 0; __atomic_load_n(&p->turn, __ATOMIC_ACQUIRE) == turn; spins++) relax(spins);
}

static void one_step(const job *j, long step, long image, float *scratch, long part, long parts) {
    steps[order[step]](j->memories[image], scratch, j->logits + image * CLASSES, j->weights, part, parts);
}

/* Whole images, until there are none. */
static void share_images(pool *p, float *scratch) {
    const job *j = &p->job;
    for (;;) {
        long image = __atomic_fetch_add(&p->next, 1, __ATOMIC_RELAXED);
        if (image >= j->images) return;
        for (long i = first[j->which]; i < first[j->which + 1]; i++) {
            if (*j->stop) {
                __atomic_store_n(&p->stopped, 1, __ATOMIC_RELAXED);
                return;
            }
            one_step(j, i, image, scratch, 0, 1);
        }
    }
}

/* A part of every step, and of what is left of it whatever comes next, lest all wait for a thread that was interrupted.
   The first thread decides for all whether to go on; nobody is two steps ahead of another. */
static void share_steps(pool *p, long me) {
    const job *j = &p->job;
    const long parts = PARTS_OF_A_THREAD * p->threads;
    long beat = 0;
    for (long image = 0; image < j->images; image++)
        for (long i = first[j->which]; i < first[j->which + 1]; i++, beat++) {
            for (long part = 0; part < PARTS_OF_A_THREAD - 1; part++)
                one_step(j, i, image, j->scratch, PARTS_OF_A_THREAD * me + part, parts);
            long left;
            while ((left = __atomic_fetch_add(&p->left[beat & 1], 1, __ATOMIC_RELAXED)) < p->threads)
                one_step(j, i, image, j->scratch, PARTS_OF_A_THREAD * left + PARTS_OF_A_THREAD - 1, parts);
            if (me == 0) {
                p->halt[beat & 1] = *j->stop;
                __atomic_store_n(&p->left[~beat & 1], 0, __ATOMIC_RELAXED);
            }
            meet(p);
            if (p->halt[beat & 1]) {
                if (me == 0) p->stopped = 1;
                return;
            }
        }
}

static void work(pool *p, long me) {
    if (p->job.images >= p->threads)
        share_images(p, p->job.scratch + me * SCRATCH);
    else
        share_steps(p, me);
    meet(p);
}

static void *worker(void *given) {
    pool *p = given;
    long me = __atomic_add_fetch(&p->started, 1, __ATOMIC_ACQ_REL), done = 0;
    for (;;) {
        for (long spins = 0; spins < SPINS && __atomic_load_n(&p->jobs, __ATOMIC_ACQUIRE) == done; spins++) relax(spins);
        pthread_mutex_lock(&p->sleep);
        p->sleepers++;
        while (p->jobs == done && !p->closing) pthread_cond_wait(&p->wake, &p->sleep);
        p->sleepers--;
        int closing = p->closing;
        done = p->jobs;
        pthread_mutex_unlock(&p->sleep);
        if (closing) return NULL;
        work(p, me);
    }
}

/* Held while the threads of a process are hired; a fork may have happened meanwhile. */
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static void open_gate(void) { pthread_mutex_init(&gate, NULL); }

__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(NULL, NULL, open_gate); }

/* A fork has no threads but the one that forked. */
static void hire(pool *p) {
    pthread_mutex_lock(&gate);
    if (p->owner != getpid()) {
        p->sleepers = p->jobs = p->started = p->arrived = p->turn = 0;
        pthread_mutex_init(&p->busy, NULL);
        pthread_mutex_init(&p->sleep, NULL);
        pthread_cond_init(&p->wake, NULL);
        long hired = 1;
        while (hired < p->threads && !pthread_create(&p->workers[hired - 1], NULL, worker, p)) hired++;
        p->threads = hired;
        __atomic_store_n(&p->owner, getpid(), __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&gate);
}

/* NULL where there is no memory; with fewer threads where there are no more. */
void *open_pool(long threads) {
    pool *p = calloc(1, sizeof(pool));
    if (!p) return NULL;
    p->workers = calloc(threads, sizeof(pthread_t));
    p->threads = p->workers ? threads : 1;
    hire(p);
    return p;
}

void close_pool(void *given) {
    pool *p = given;
    if (p->owner == getpid()) {
        pthread_mutex_lock(&p->sleep);
        p->closing = 1;
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->sleep);
        for (long i = 1; i < p->threads; i++) pthread_join(p->workers[i - 1], NULL);
    }
    free(p->workers);
    free(p);
}

/* Before each memory is room for a lock. */
static pthread_mutex_t *lock_of(float *memory) { return (pthread_mutex_t *)((char *)memory - HEAD_BYTES); }

_Static_assert(sizeof(pthread_mutex_t) <= HEAD_BYTES, "room for a lock");

void open_memory(float *memory) { pthread_mutex_init(lock_of(memory), NULL); }

void copy(float *from, float *to) {
    pthread_mutex_lock(lock_of(from));
    memcpy(to, from, sizeof(float) * MEMORY);
    pthread_mutex_unlock(lock_of(from));
}

/* Returns whether it was stopped. */
static int do_job(pool *p, job todo) {
    if (p->threads == 1) { /* callers need not wait for one another */
        pool alone = {.threads = 1, .job = todo};
        work(&alone, 0);
        return alone.stopped;
    }
    if (__atomic_load_n(&p->owner, __ATOMIC_ACQUIRE) != getpid()) hire(p);
    pthread_mutex_lock(&p->busy);
    p->job = todo;
    p->next = p->stopped = 0;
    p->left[0] = p->left[1] = 0;
    pthread_mutex_lock(&p->sleep);
    __atomic_add_fetch(&p->jobs, 1, __ATOMIC_ACQ_REL);
    if (p->sleepers) pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->sleep);
    work(p, 0);
    int stopped = p->stopped;
    pthread_mutex_unlock(&p->busy);
    return stopped;
}

/* Stages of one memory run one at a time: stepping a state again writes what is there already, bit by bit. Memories are
   locked in the same order everywhere, lest two runs wait for each other; here, where no signal of Python comes between.
   Returns whether it was stopped. */
int run(void *workers, long which, float *const *memories, float *const *ordered, float *scratch, float *logits,
        const float *weights, long images, const volatile int *stop) {
    job todo = {which, memories, scratch, logits, weights, images, stop};
    for (long n = 0; n < images; n++) pthread_mutex_lock(lock_of(ordered[n]));
    int stopped = do_job(workers, todo);
    for (long n = 0; n < images; n++) pthread_mutex_unlock(lock_of(ordered[n]));
    return stopped;
}

/* Copy images to where the first step reads them. */
void begin(const float *images, float *const *memories, long count) {
    enum { PIXELS = IMAGE_HEIGHT * IMAGE_WIDTH };
    for (long n = 0; n < count; n++)
        for (long c = 0; c < IMAGE_CHANNELS; c += PACKED)
            for (long y = 0; y < IMAGE_HEIGHT; y++)
                for (long x = 0; x < IMAGE_WIDTH; x++) {
                    float channels[PACKED] = {0};
                    for (long i = 0; i < PACKED && c + i < IMAGE_CHANNELS; i++)
                        channels[i] = images[(n * IMAGE_CHANNELS + c + i) * PIXELS + y * IMAGE_WIDTH + x];
                    memories[n][IMAGE_START + c / PACKED * IMAGE_PITCH + y * IMAGE_ROW + x] = word(channels);
                }
}
