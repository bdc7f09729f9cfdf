/* Runs lists of steps for some images, alone or with threads that share the images, or for few images every step. */

enum { SPINS = 20000, SPINS_BEFORE_OTHERS = 2000, SPINS_FOR_THOSE_AWAKE = 100, PARTS_OF_A_THREAD = 4 };

/* What is counted in one word: OVER, threads that came, jobs or steps. */
enum { OVER = 1, ONE = 2, NEXT = 1 << 16, MOST_THREADS = NEXT / ONE - 1 };

/* Whether it can be said where threads run. */
#if defined(__linux__) && !defined(__ANDROID__)
#define PLACED 1
#else
#define PLACED 0
#endif

typedef struct {
    long which;
    float *const *memories; /* of the images */
    float *scratch;
    float *logits;
    const float *weights;
    long images;
    const volatile int *stop;
} job;

/* The first thread is the caller's. It begins alone, for waking the others can take as long as a stage; whoever comes
   while the job is on joins in, and is waited for. */
typedef struct {
    long threads;
    pid_t owner;
    pthread_t *workers;
#if PLACED
    cpu_set_t allowed; /* CPUs of whoever opened the pool */
    int off;           /* the one of them that workers are kept off */
#endif
    pthread_mutex_t busy;  /* one job at a time */
    pthread_mutex_t sleep; /* guards sleepers, closing, and the call of a new job */
    pthread_cond_t wake;
    long sleepers;
    int closing;
    int64_t call; /* number of the job, workers that came to it, and whether it is OVER */
    long gone; /* of those that came */
    job job;
    int stopped;
    long image; /* the next one, or the one of the step */
    long step;
    int64_t crew; /* number of the step and threads that share it; none when the job is done */
    long arrived;
    long left;
} pool;

static void relax(long spins) {
    if (spins % SPINS_BEFORE_OTHERS == SPINS_BEFORE_OTHERS - 1) sched_yield();
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static long came(int64_t call) { return call % NEXT / ONE; }

static void one_step(const job *j, long step, long image, float *scratch, long part, long parts) {
    steps[order[step]](j->memories[image], scratch, j->logits + image * CLASSES, j->weights, part, parts);
}

/* Whole images, until there are none. */
static void share_images(pool *p, float *scratch) {
    const job *j = &p->job;
    for (;;) {
        long image = __atomic_fetch_add(&p->image, 1, __ATOMIC_RELAXED);
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

/* How many threads share the next step: all that have come, or none when there is no next step. */
static long next_step(pool *p) {
    const job *j = &p->job;
    if (*j->stop) {
        p->stopped = 1;
        return 0;
    }
    if (++p->step == first[j->which + 1]) {
        p->step = first[j->which];
        if (++p->image == j->images) return 0;
    }
    return 1 + came(__atomic_load_n(&p->call, __ATOMIC_ACQUIRE));
}

/* Wait for all of the crew; the last one to arrive makes the next. */
static void meet(pool *p, int64_t crew) {
    if (__atomic_add_fetch(&p->arrived, 1, __ATOMIC_ACQ_REL) == crew % NEXT) {
        p->arrived = p->left = 0;
        __atomic_store_n(&p->crew, (crew / NEXT + 1) * NEXT + next_step(p), __ATOMIC_RELEASE);
        return;
    }
    for (long spins = 0; __atomic_load_n(&p->crew, __ATOMIC_ACQUIRE) == crew; spins++) relax(spins);
}

/* A part of the step, and of what is left of it whatever comes next, lest all wait for a thread that was interrupted. */
static void share_step(pool *p, long me, long threads) {
    const job *j = &p->job;
    const long parts = PARTS_OF_A_THREAD * threads;
    for (long part = 0; part < PARTS_OF_A_THREAD - 1; part++)
        one_step(j, p->step, p->image, j->scratch, PARTS_OF_A_THREAD * me + part, parts);
    long left;
    while ((left = __atomic_fetch_add(&p->left, 1, __ATOMIC_RELAXED)) < threads)
        one_step(j, p->step, p->image, j->scratch, PARTS_OF_A_THREAD * left + PARTS_OF_A_THREAD - 1, parts);
}

/* All steps from the one on in which this thread is one of the crew. */
static void share_steps(pool *p, long me) {
    for (long spins = 0;;) {
        int64_t crew = __atomic_load_n(&p->crew, __ATOMIC_ACQUIRE);
        long threads = crew % NEXT;
        if (threads == 0) return;
        if (threads <= me) { /* soon */
            relax(spins++);
            continue;
        }
        if (threads == 1)
            one_step(&p->job, p->step, p->image, p->job.scratch, 0, 1);
        else
            share_step(p, me, threads);
        meet(p, crew);
    }
}

static void work(pool *p, long me) {
    if (p->job.images >= p->threads)
        share_images(p, p->job.scratch + me * SCRATCH);
    else
        share_steps(p, me);
}

/* The worker's number in the job that is on, or 0 when it is over. */
static long come(pool *p, int64_t *done) {
    int64_t call = __atomic_load_n(&p->call, __ATOMIC_ACQUIRE);
    while (!(call & OVER))
        if (__atomic_compare_exchange_n(&p->call, &call, call + ONE, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) break;
    *done = call / NEXT;
    return call & OVER ? 0 : came(call) + 1;
}

static void *worker(void *given) {
    pool *p = given;
    int64_t done = 0;
    for (;;) {
        for (long spins = 0; spins < SPINS && __atomic_load_n(&p->call, __ATOMIC_ACQUIRE) / NEXT == done; spins++) relax(spins);
        pthread_mutex_lock(&p->sleep);
        p->sleepers++;
        while (__atomic_load_n(&p->call, __ATOMIC_RELAXED) / NEXT == done && !p->closing) pthread_cond_wait(&p->wake, &p->sleep);
        p->sleepers--;
        int closing = p->closing;
        pthread_mutex_unlock(&p->sleep);
        if (closing) return NULL;
        long me = come(p, &done);
        if (!me) continue;
        work(p, me);
        __atomic_add_fetch(&p->gone, 1, __ATOMIC_RELEASE);
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
#if PLACED
        if (sched_getaffinity(0, sizeof p->allowed, &p->allowed)) CPU_ZERO(&p->allowed);
        p->off = -1;
#endif
        p->sleepers = 0;
        p->call = OVER;
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
    if (threads > MOST_THREADS) threads = MOST_THREADS;
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

/* Before each memory. */
typedef struct {
    pthread_mutex_t lock;
    long users;
} head;

_Static_assert(sizeof(head) <= HEAD_BYTES, "room for a head");

static head *head_of(float *memory) { return (head *)((char *)memory - HEAD_BYTES); }

static pthread_mutex_t *lock_of(float *memory) { return &head_of(memory)->lock; }

void open_memory(float *memory) {
    pthread_mutex_init(lock_of(memory), NULL);
    head_of(memory)->users = 0;
}

void hold(float *const *memories, long count) {
    for (long n = 0; n < count; n++) __atomic_add_fetch(&head_of(memories[n])->users, 1, __ATOMIC_RELAXED);
}

/* Returns how many nobody uses any more, which are then the first. */
long let_go(float **memories, long count) {
    long unused = 0;
    for (long n = 0; n < count; n++)
        if (!__atomic_sub_fetch(&head_of(memories[n])->users, 1, __ATOMIC_ACQ_REL)) memories[unused++] = memories[n];
    return unused;
}

void copy(float *from, float *to) {
    pthread_mutex_lock(lock_of(from));
    memcpy(to, from, sizeof(float) * MEMORY);
    pthread_mutex_unlock(lock_of(from));
}

/* Keep workers off the caller's CPU: Linux likes to wake them there, where they would wait until the caller is done. If there
   are too few others, they may run on all. */
static void make_way(pool *p) {
#if PLACED
    int here = sched_getcpu();
    if (here == p->off || here < 0 || here >= CPU_SETSIZE || !CPU_COUNT(&p->allowed)) return;
    cpu_set_t others = p->allowed;
    CPU_CLR(here, &others);
    const cpu_set_t *theirs = CPU_COUNT(&others) >= p->threads - 1 ? &others : &p->allowed;
    for (long i = 1; i < p->threads; i++) pthread_setaffinity_np(p->workers[i - 1], sizeof *theirs, theirs);
    p->off = here;
#else
    (void)p;
#endif
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
    p->stopped = 0;
    p->image = p->arrived = p->left = p->gone = 0;
    p->step = first[todo.which];
    p->crew = todo.images ? 1 : 0; /* the others wait for a step */
    make_way(p);
    pthread_mutex_lock(&p->sleep);
    __atomic_store_n(&p->call, (p->call / NEXT + 1) * NEXT, __ATOMIC_RELEASE);
    long asleep = p->sleepers, awake = p->threads - 1 - asleep;
    pthread_mutex_unlock(&p->sleep);
    if (asleep) pthread_cond_broadcast(&p->wake);
    for (long spins = 0; spins < SPINS_FOR_THOSE_AWAKE && came(__atomic_load_n(&p->call, __ATOMIC_RELAXED)) < awake; spins++)
        relax(spins);
    if (todo.images) __atomic_store_n(&p->crew, 1 + came(__atomic_load_n(&p->call, __ATOMIC_ACQUIRE)), __ATOMIC_RELEASE);
    work(p, 0);
    int64_t call = __atomic_fetch_or(&p->call, OVER, __ATOMIC_ACQ_REL);
    for (long spins = 0; __atomic_load_n(&p->gone, __ATOMIC_ACQUIRE) != came(call); spins++) relax(spins);
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
