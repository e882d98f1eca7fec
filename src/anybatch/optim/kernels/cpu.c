/* The step of LAMB and LARS on a CPU, fused: each array is read as few times as the algorithm allows.

   Plain C11 and POSIX threads: addresses come in, numbers change in place. Python is met in one function, `ab_fetch`, and
   only through DLPack's table of C functions, so that one build serves every version of PyTorch.

   first    u for every element, moments advance; |x|^2 and |u|^2 as by-products
   settle   ratio = phi(|x|) / |u| of a layer, from the sums of its chunks in their order
   second   x <- x - lr * ratio * u, with u from the scratch, or computed again

   A result depends neither on the number of threads nor on the instruction set: an element's arithmetic is fp32 in the
   order written here, a sum runs over fixed lanes of fixed chunks. Build without contraction and fast-math. */

#include <float.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if FLT_EVAL_METHOD != 0 || defined(__FAST_MATH__)
#error "fp32 arithmetic that is exactly fp32 is needed"
#endif

#if !defined(CLONES)
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define CLONES __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
#endif

#define EXPORT __attribute__((visibility("default")))

#ifndef SOURCE
#define SOURCE "unknown"
#endif
EXPORT const char *ab_source = SOURCE; /* what this was built from */

#ifndef BLOCK
#define BLOCK 1024 /* elements that stay in the first-level cache between their update and its sum */
#endif
#ifndef CHUNK
#define CHUNK 32768 /* elements of one partial sum */
#endif
#ifndef TURN
#define TURN 65536 /* elements that a thread takes at a time where layers are small */
#endif
#ifndef SMALL
#define SMALL 131072 /* the largest layer that fits the second-level cache between its passes: one thread finishes it */
#endif
#ifndef LARGE
#define LARGE (1 << 22) /* the largest layer that one thread finishes where there are enough layers for all threads */
#endif
#ifndef LAG
#define LAG (1 << 20) /* elements of other work between a layer's two passes, so that nobody waits for the first */
#endif
#ifndef RING
#define RING (160 * CHUNK) /* elements of scratch: u of larger layers is computed twice */
#endif
#ifndef PER_THREAD
#define PER_THREAD (1 << 17) /* elements that are worth starting a thread for */
#endif
#define SPINS 2000 /* looks at a flag before the core is offered to others */

enum kind { LAMB, LARS_AVERAGE, LARS_SUM };
enum role { WEIGHT, GRADIENT, FIRST_MOMENT, SECOND_MOMENT, MASTER, STEP, ROLES };
enum phase { WHOLE, FIRST, SECOND };

/* The hyperparameters of a parameter group. */
typedef struct {
    int32_t kind;     /* LARS_AVERAGE is Algorithm 1; LARS_SUM has the ratio inside the momentum buffer */
    int32_t nesterov; /* look-ahead in the first moment; 2: in both */
    int32_t bias_correction, adapt;
    int32_t joint_norm, rate_inside; /* LARS_SUM: |g + wd x|; the rate of the day stays in the buffer */
    double scale;                    /* of the gradient: clipping, and the sign where the group maximizes */
    double lr, beta1, beta2, eps, weight_decay, coefficient, ratio_eps;
    double phi[2], trust_clip[2];
} rule;

typedef struct {
    int64_t rule;
    int64_t narrow; /* parameter and gradient are bf16 */
    int64_t numel;
} tensor;

/* A contiguous piece of a tensor that belongs to one layer. */
typedef struct {
    int64_t tensor, begin, numel, layer;
} segment;

/* ------------------------------------------------------------------------------------------------ arithmetic */

typedef struct {
    float scale, beta1, weight1, beta2, weight2, eps, weight_decay;
    float of_m, of_g, of_v, of_gg; /* m_hat = of_m m + of_g g; v_hat = of_v v + of_gg g g */
    int nesterov;
} factors;

#define LANES 8
typedef float f8 __attribute__((vector_size(4 * LANES)));
typedef int32_t i8 __attribute__((vector_size(4 * LANES)));
typedef double d8 __attribute__((vector_size(8 * LANES)));

#define INLINE static inline __attribute__((always_inline))

/* torch's lerp, a + weight (b - a) from the nearer end; rest = 1 - weight. */
INLINE float lerp(float a, float b, float weight, float rest, int near)
{
    return near ? a + weight * (b - a) : b + rest * (a - b);
}

INLINE float lamb_u(float x, float g, float m, float v, factors f, int nesterov)
{
    float m_hat = m * f.of_m, v_hat = v * f.of_v;
    if (nesterov > 0)
        m_hat += g * f.of_g;
    if (nesterov > 1)
        v_hat += g * g * f.of_gg;
    return m_hat / (sqrtf(v_hat) + f.eps) + f.weight_decay * x;
}

/* Advances the moments of an element; returns u. */
INLINE float lamb_element(float x, float g, float *m, float *v, factors f, int nesterov, int near)
{
    *m = lerp(*m, g, f.weight1, f.beta1, near);
    *v = *v * f.beta2 + f.weight2 * g * g;
    return lamb_u(x, g, *m, *v, f, nesterov);
}

/* Sums of squares. In a strip each of 16 lanes adds up to six squares in fp32, which costs less than half of what doubles do;
   strips are added up in double. So a norm errs by 7e-8 at most, as measured where all elements are equal, and where they
   differ errors cancel. A strip where fp32 would overflow or lose digits is added in double throughout: there the square of
   an fp32 number is exact. */
#define STRIP 96
#define NARROW_LANES 16
#define SURE_FROM 1e-28f /* a lane's sum from which squares that were flushed to zero do not count */

INLINE long strip_of(long rest)
{
    return rest < STRIP ? rest / NARROW_LANES * NARROW_LANES : STRIP;
}

INLINE void add_exactly(const float *a, long n, double *lanes)
{
    for (long i = 0; i < n; i++)
        lanes[i % LANES] += (double)a[i] * a[i];
}

/* Adds a strip to the lanes: `a`, of whose squares each narrow lane's sum is in `sum`. */
INLINE void add_strip(const float *a, long n, const float *sum, double *lanes)
{
    f8 low, high;
    d8 all;
    int64_t sure[4];
    memcpy(&low, sum, sizeof low);
    memcpy(&high, sum + LANES, sizeof high);
    i8 each = (low >= SURE_FROM) & (low <= FLT_MAX) & (high >= SURE_FROM) & (high <= FLT_MAX);
    memcpy(sure, &each, sizeof sure);
    if ((sure[0] & sure[1] & sure[2] & sure[3]) == -1) {
        memcpy(&all, lanes, sizeof all);
        all += __builtin_convertvector(low, d8) + __builtin_convertvector(high, d8);
        memcpy(lanes, &all, sizeof all);
    } else {
        add_exactly(a, n, lanes);
    }
}

/* u, and the sums of squares in the same loop: arithmetic goes on while memory is waited for. */
INLINE void lamb_loop(
    long n, const float *restrict x, const float *restrict g, float *restrict m, float *restrict v, float *restrict u,
    double *restrict of_x, double *restrict of_u, factors f, int nesterov, int near)
{
    long i = 0;
    for (long strip; (strip = strip_of(n - i)); i += strip) {
        float sum_x[NARROW_LANES] = {0}, sum_u[NARROW_LANES] = {0};
        for (long j = i; j < i + strip; j += NARROW_LANES)
            for (int lane = 0; lane < NARROW_LANES; lane++) {
                long k = j + lane;
                float uk = lamb_element(x[k], g[k] * f.scale, m + k, v + k, f, nesterov, near);
                u[k] = uk;
                sum_x[lane] += x[k] * x[k];
                sum_u[lane] += uk * uk;
            }
        add_strip(x + i, strip, sum_x, of_x);
        add_strip(u + i, strip, sum_u, of_u);
    }
    for (long k = i; k < n; k++)
        u[k] = lamb_element(x[k], g[k] * f.scale, m + k, v + k, f, nesterov, near);
    add_exactly(x + i, n - i, of_x);
    add_exactly(u + i, n - i, of_u);
}

CLONES static void lamb_first(
    long n, const float *x, const float *g, float *m, float *v, float *u, double *of_x, double *of_u, factors f)
{
    if (f.weight1 < 0.5f) {
        if (f.nesterov == 0)
            lamb_loop(n, x, g, m, v, u, of_x, of_u, f, 0, 1);
        else if (f.nesterov == 1)
            lamb_loop(n, x, g, m, v, u, of_x, of_u, f, 1, 1);
        else
            lamb_loop(n, x, g, m, v, u, of_x, of_u, f, 2, 1);
    } else {
        if (f.nesterov == 0)
            lamb_loop(n, x, g, m, v, u, of_x, of_u, f, 0, 0);
        else if (f.nesterov == 1)
            lamb_loop(n, x, g, m, v, u, of_x, of_u, f, 1, 0);
        else
            lamb_loop(n, x, g, m, v, u, of_x, of_u, f, 2, 0);
    }
}

/* The second pass where u was not kept. */
CLONES static void lamb_second(
    long n, float *restrict x, const float *restrict g, const float *restrict m, const float *restrict v, factors f,
    float rate)
{
    if (f.nesterov == 0)
        for (long i = 0; i < n; i++)
            x[i] -= rate * lamb_u(x[i], 0, m[i], v[i], f, 0);
    else if (f.nesterov == 1)
        for (long i = 0; i < n; i++)
            x[i] -= rate * lamb_u(x[i], g[i] * f.scale, m[i], v[i], f, 1);
    else
        for (long i = 0; i < n; i++)
            x[i] -= rate * lamb_u(x[i], g[i] * f.scale, m[i], v[i], f, 2);
}

/* The second pass where it was, or where u is m. */
CLONES static void move(long n, float *restrict x, const float *restrict u, float rate)
{
    for (long i = 0; i < n; i++)
        x[i] -= rate * u[i];
}

/* d = g + wd x */
CLONES static void direction(long n, const float *restrict x, const float *restrict g, float *restrict d, factors f)
{
    for (long i = 0; i < n; i++)
        d[i] = g[i] * f.scale + f.weight_decay * x[i];
}

/* m <- mu m + (1-mu) d */
CLONES static void average(long n, const float *restrict d, float *restrict m, factors f)
{
    if (f.weight1 < 0.5f)
        for (long i = 0; i < n; i++)
            m[i] = lerp(m[i], d[i], f.weight1, f.beta1, 1);
    else
        for (long i = 0; i < n; i++)
            m[i] = lerp(m[i], d[i], f.weight1, f.beta1, 0);
}

/* d becomes mu m + (1-mu) d */
CLONES static void look_ahead(long n, float *restrict d, const float *restrict m, factors f)
{
    if (f.beta1 < 0.5f)
        for (long i = 0; i < n; i++)
            d[i] = lerp(d[i], m[i], f.beta1, f.weight1, 1);
    else
        for (long i = 0; i < n; i++)
            d[i] = lerp(d[i], m[i], f.beta1, f.weight1, 0);
}

/* m <- mu m + inside d; x <- x - outside m, or outside (mu m + inside d) */
CLONES static void lars_sum_second(
    long n, float *restrict x, const float *restrict d, float *restrict m, factors f, float inside, float outside)
{
    if (f.nesterov)
        for (long i = 0; i < n; i++) {
            m[i] = m[i] * f.beta1 + d[i] * inside;
            x[i] -= outside * (d[i] * inside + f.beta1 * m[i]);
        }
    else
        for (long i = 0; i < n; i++) {
            m[i] = m[i] * f.beta1 + d[i] * inside;
            x[i] -= outside * m[i];
        }
}

/* Adds the squares of a block to the lanes. */
CLONES static void add_squares(long n, const float *a, double *lanes)
{
    long i = 0;
    for (long strip; (strip = strip_of(n - i)); i += strip) {
        float sum[NARROW_LANES] = {0};
        for (long j = i; j < i + strip; j += NARROW_LANES)
            for (int lane = 0; lane < NARROW_LANES; lane++)
                sum[lane] += a[j + lane] * a[j + lane];
        add_strip(a + i, strip, sum, lanes);
    }
    add_exactly(a + i, n - i, lanes);
}

static double total(const double *lanes)
{
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

CLONES static void widen(long n, const uint16_t *restrict from, float *restrict to)
{
    for (long i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)from[i] << 16;
        memcpy(to + i, &bits, sizeof bits);
    }
}

/* To the nearest bf16, ties to even. */
CLONES static void narrow(long n, const float *restrict from, uint16_t *restrict to)
{
    for (long i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, from + i, sizeof bits);
        uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        to[i] = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
    }
}

/* ------------------------------------------------------------------------------------------------ the plan */

typedef struct {
    int64_t segment, begin, n; /* begin: from the start of the segment */
} chunk;

enum work { FINISH, PASS_1, PASS_2 };

/* FINISH takes small layers, and layers without a ratio, through both passes; PASS_1 and PASS_2 take one chunk of a
   large layer. An item waits for earlier items only. */
typedef struct {
    int32_t work;
    int64_t from, to; /* chunks */
    int64_t slot;     /* of the scratch; -1: u is not kept */
    int64_t after;    /* PASS_1: the PASS_2 that used the slot before; -1: none */
} item;

typedef struct plan {
    int64_t tensors, segments, layers, chunks, items, turns, elements;
    rule *rules;
    tensor *tensor;
    segment *segment;
    int64_t *first_chunk; /* of each segment, and one past the last */
    chunk *chunk;
    item *item;                       /* both passes, in the order in which they are begun */
    int64_t *turn;                    /* every chunk once, `TURN` elements at a time: where each turn ends */
    void *(*at)[ROLES];               /* addresses, by tensor */
    factors *factors;                 /* by tensor */
    double (*sums)[2];                /* |x|^2 and |u|^2 by chunk */
    double *record;                   /* |x|, |u|, ratio, clamped; layers each */
    float (*rate)[2];                 /* inside and outside the momentum buffer, by segment */
    atomic_llong *left;               /* chunks of a segment that have not finished the first pass; -1: settled */
    atomic_char *done;                /* by item */
    float *ring, **scratch;           /* scratch shared by all, and of each thread */
    int threads;
    int64_t slots;
    int64_t local;  /* elements of a layer up to which one thread finishes it */
    int moved;      /* a parameter is elsewhere than before */
    int64_t shared; /* a parameter that shares memory with another; -1: none */
} plan;

static void *zeros(int64_t count, size_t size)
{
    return calloc(count > 0 ? (size_t)count : 1, size);
}

static inline const rule *rule_of(const plan *p, int64_t s)
{
    return &p->rules[p->tensor[p->segment[s].tensor].rule];
}

/* A list of work while it is made. */
typedef struct {
    plan *p;
    int64_t emitted;          /* elements of first passes that are listed */
    int64_t *queue, *due;     /* large segments between their passes, and the `emitted` from which the second is due */
    int64_t next, waiting;    /* queue[next .. waiting) */
    int64_t *slot;            /* by chunk; -1: u is not kept */
    int64_t *user;            /* by slot: the item that frees it; -1: none has it; TAKEN: not listed yet */
    int64_t head;             /* slots given out */
    int64_t gathered, size;   /* first chunk of the small layers that are not listed yet, and their elements */
} listing;

#define TAKEN INT64_MAX

static item *list(listing *l, int32_t work, int64_t from, int64_t to)
{
    item *added = &l->p->item[l->p->items++];
    *added = (item){.work = work, .from = from, .to = to, .slot = -1, .after = -1};
    return added;
}

static void list_gathered(listing *l, int64_t to)
{
    if (l->size)
        list(l, FINISH, l->gathered, to);
    l->emitted += l->size;
    l->gathered = to;
    l->size = 0;
}

static void list_next_second_pass(listing *l)
{
    int64_t s = l->queue[l->next++];
    for (int64_t c = l->p->first_chunk[s]; c < l->p->first_chunk[s + 1]; c++) {
        int64_t slot = list(l, PASS_2, c, c + 1)->slot = l->slot[c];
        if (slot >= 0)
            l->user[slot] = l->p->items - 1;
    }
}

static void list_small(listing *l, int64_t s)
{
    const plan *p = l->p;
    int64_t begin = p->first_chunk[s], end = p->first_chunk[s + 1], together = rule_of(p, s)->adapt ? end - begin : 1;
    for (int64_t c = begin; c < end; c += together) {
        for (int64_t k = c; k < c + together; k++)
            l->size += p->chunk[k].n;
        if (l->size >= TURN)
            list_gathered(l, c + together);
    }
}

static void list_large(listing *l, int64_t s)
{
    const plan *p = l->p;
    int64_t begin = p->first_chunk[s], end = p->first_chunk[s + 1];
    int kept = rule_of(p, s)->kind == LAMB && end - begin + LAG / CHUNK <= p->slots;
    list_gathered(l, begin);
    for (int64_t c = begin; c < end; c++) {
        while (l->next < l->waiting && l->emitted >= l->due[l->next])
            list_next_second_pass(l);
        int64_t slot = l->slot[c] = kept ? l->head++ % p->slots : -1;
        while (kept && l->user[slot] == TAKEN)
            list_next_second_pass(l);
        item *first = list(l, PASS_1, c, c + 1);
        first->slot = slot;
        if (kept) {
            first->after = l->user[slot];
            l->user[slot] = TAKEN;
        }
        l->emitted += p->chunk[c].n;
    }
    l->gathered = end;
    l->due[l->waiting] = l->emitted + LAG;
    l->queue[l->waiting++] = s;
}

/* The order of the work. Small layers, and those without a ratio, go through both passes at once. A large layer's second
   pass follows LAG elements of other work after its first, or as soon as the ring needs its place. */
static int order(plan *p)
{
    listing l = {.p = p};
    l.queue = zeros(p->segments, sizeof *l.queue);
    l.due = zeros(p->segments, sizeof *l.due);
    l.slot = zeros(p->chunks, sizeof *l.slot);
    l.user = zeros(p->slots, sizeof *l.user);
    int complete = l.queue && l.due && l.slot && l.user;
    if (complete) {
        for (int64_t i = 0; i < p->slots; i++)
            l.user[i] = -1;
        for (int64_t s = 0; s < p->segments; s++)
            if (!rule_of(p, s)->adapt || p->segment[s].numel <= p->local)
                list_small(&l, s);
            else
                list_large(&l, s);
        list_gathered(&l, p->chunks);
        while (l.next < l.waiting)
            list_next_second_pass(&l);
    }
    free(l.queue), free(l.due), free(l.slot), free(l.user);
    return complete ? 0 : -1;
}

EXPORT void ab_free(plan *p)
{
    if (!p)
        return;
    for (int i = 0; i < p->threads; i++)
        free(p->scratch[i]);
    free(p->scratch), free(p->rules), free(p->tensor), free(p->segment), free(p->first_chunk), free(p->chunk);
    free(p->item), free(p->turn), free(p->at), free(p->factors), free(p->sums), free(p->record), free(p->rate);
    free(p->left), free(p->done), free(p->ring), free(p);
}

/* Copies the three tables; plans for a number of threads, on which no result depends. NULL where the memory does not suffice. */
EXPORT plan *ab_plan(
    int64_t rules, const rule *rule_table, int64_t tensors, const tensor *tensor_table, int64_t segments,
    const segment *segment_table, int64_t layers, int threads)
{
    plan *p = zeros(1, sizeof *p);
    if (!p)
        return NULL;
    *p = (plan){.tensors = tensors, .segments = segments, .layers = layers, .shared = -1};
    int64_t kept = 0;
    for (int64_t s = 0; s < segments; s++)
        p->elements += segment_table[s].numel;
    p->local = p->elements / (4 * (threads > 0 ? threads : 1));
    p->local = p->local < SMALL ? SMALL : p->local > LARGE ? LARGE : p->local;
    for (int64_t s = 0; s < segments; s++) {
        int64_t chunks = (segment_table[s].numel + CHUNK - 1) / CHUNK;
        p->chunks += chunks;
        const rule *r = &rule_table[tensor_table[segment_table[s].tensor].rule];
        if (segment_table[s].numel > p->local && r->adapt && r->kind == LAMB)
            kept += chunks;
    }
    p->slots = kept < RING / CHUNK ? kept + LAG / CHUNK : RING / CHUNK + LAG / CHUNK;
    p->rules = zeros(rules, sizeof *p->rules);
    p->tensor = zeros(tensors, sizeof *p->tensor);
    p->segment = zeros(segments, sizeof *p->segment);
    p->first_chunk = zeros(segments + 1, sizeof *p->first_chunk);
    p->chunk = zeros(p->chunks, sizeof *p->chunk);
    p->item = zeros(2 * p->chunks, sizeof *p->item);
    p->turn = zeros(p->chunks, sizeof *p->turn);
    p->at = zeros(tensors, sizeof *p->at);
    p->factors = zeros(tensors, sizeof *p->factors);
    p->sums = zeros(p->chunks, sizeof *p->sums);
    p->record = zeros(4 * layers, sizeof *p->record);
    p->rate = zeros(segments, sizeof *p->rate);
    p->left = zeros(segments, sizeof *p->left);
    p->done = zeros(2 * p->chunks, sizeof *p->done);
    p->ring = kept ? malloc((size_t)p->slots * CHUNK * sizeof(float)) : NULL;
    if (!p->rules || !p->tensor || !p->segment || !p->first_chunk || !p->chunk || !p->item || !p->turn || !p->at ||
        !p->factors || !p->sums || !p->record || !p->rate || !p->left || !p->done || (kept && !p->ring)) {
        ab_free(p);
        return NULL;
    }
    memcpy(p->rules, rule_table, (size_t)rules * sizeof *p->rules);
    memcpy(p->tensor, tensor_table, (size_t)tensors * sizeof *p->tensor);
    memcpy(p->segment, segment_table, (size_t)segments * sizeof *p->segment);
    int64_t c = 0, gathered = 0;
    for (int64_t s = 0; s < segments; s++) {
        p->first_chunk[s] = c;
        for (int64_t begin = 0; begin < p->segment[s].numel; begin += CHUNK, c++) {
            int64_t rest = p->segment[s].numel - begin;
            p->chunk[c] = (chunk){s, begin, rest < CHUNK ? rest : CHUNK};
            gathered += p->chunk[c].n;
            if (gathered >= TURN) {
                p->turn[p->turns++] = c + 1;
                gathered = 0;
            }
        }
    }
    p->first_chunk[segments] = c;
    if (gathered)
        p->turn[p->turns++] = c;
    if (order(p)) {
        ab_free(p);
        return NULL;
    }
    return p;
}

/* ------------------------------------------------------------------------------------------------ addresses */

/* DLPack's view of an array (dlpack.h), and its C function that takes one of a Python object. */
typedef struct {
    void *data;
    struct {
        int32_t type, id;
    } device;
    int32_t ndim;
    struct {
        uint8_t code, bits;
        uint16_t lanes;
    } dtype;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} view;

typedef int (*take_view)(void *object, view *out);

enum { CPU = 1, FLOAT = 2, BFLOAT = 4 };

enum answer { ALL_WELL, NO_VIEW, WRONG_DEVICE, WRONG_DTYPE, WRONG_LAYOUT, WRONG_SIZE, SHARED };

static int same_layout(const view *a, const view *b)
{
    if (a->ndim != b->ndim)
        return 0;
    for (int d = 0; d < a->ndim; d++)
        if (a->shape[d] != b->shape[d] || (a->shape[d] > 1 && a->strides[d] != b->strides[d]))
            return 0;
    return 1;
}

static int64_t elements(const view *a)
{
    int64_t numel = 1;
    for (int d = 0; d < a->ndim; d++)
        numel *= a->shape[d];
    return numel;
}

/* Whether the elements lie without gaps or overlaps; `rows`: with dimension 0 outermost, too. */
static int dense(const view *a, int64_t numel, int rows)
{
    if (numel <= 1)
        return 1;
    int64_t covered = 1;
    while (covered < numel) {
        int d = 0;
        while (d < a->ndim && !(a->strides[d] == covered && a->shape[d] > 1))
            d++;
        if (d == a->ndim || (rows && d == 0 && covered * a->shape[0] != numel))
            return 0;
        covered *= a->shape[d];
    }
    return covered == numel;
}

typedef struct {
    const char *begin, *end;
    int64_t tensor;
} range;

static int by_address(const void *a, const void *b)
{
    const char *left = ((const range *)a)->begin, *right = ((const range *)b)->begin;
    return (left > right) - (left < right);
}

/* A parameter that shares memory with another, -1 if none does: their order would matter, and threads have none. */
static int64_t sharing(const plan *p)
{
    range *ranges = zeros(p->tensors, sizeof *ranges);
    int64_t n = 0, found = -1;
    if (!ranges)
        return 0;
    for (int64_t i = 0; i < p->tensors; i++)
        if (p->tensor[i].numel) {
            const char *begin = p->at[i][WEIGHT];
            ranges[n++] = (range){begin, begin + p->tensor[i].numel * (p->tensor[i].narrow ? 2 : 4), i};
        }
    qsort(ranges, (size_t)n, sizeof *ranges, by_address);
    for (int64_t i = 1; i < n; i++)
        if (ranges[i].begin < ranges[i - 1].end)
            found = ranges[i].tensor;
    free(ranges);
    return found;
}

#define OBJECTS_AHEAD 24
#define TENSORS_AHEAD 12

/* Asks memory for what `take` will read: ten thousand tensors lie far apart, and it would wait for each. That an object of
   PyTorch's has its tensor's address behind Python's header is a guess which costs nothing where it is wrong: no address
   is followed. (Inlined by force: gcc drops a call that does nothing but ask.) */
INLINE void ask_for(void *const *objects, int64_t i, int64_t count)
{
    if (i + OBJECTS_AHEAD < count && objects[i + OBJECTS_AHEAD])
        __builtin_prefetch(objects[i + OBJECTS_AHEAD]);
    if (i + TENSORS_AHEAD < count && objects[i + TENSORS_AHEAD]) {
        const char *at = ((char *const *)objects[i + TENSORS_AHEAD])[2];
        __builtin_prefetch(at, 1); /* it counts its references */
        __builtin_prefetch(at + 64);
        __builtin_prefetch(at + 128);
    }
}

/* Writes down where the tensors are: objects[role][tensor], NULL where a rule has no such array or
   a tensor no master. Call with the GIL held.

   Every array must be on the CPU, in the dtype that the plan says, and laid out like its parameter, which must be dense
   and share its memory with no other. Otherwise returns why not, and which array in wrong[0] (role) and wrong[1] (tensor). */
EXPORT int ab_fetch(plan *p, take_view take, void **const *objects, int64_t *wrong)
{
    int64_t s = 0;
    for (int64_t i = 0; i < p->tensors; i++) {
        view weight, other, *seen = &weight;
        int pieces = 0;
        for (; s < p->segments && p->segment[s].tensor == i; s++)
            pieces++;
        for (int role = 0; role < ROLES; role++, seen = &other) {
            void *before = p->at[i][role];
            p->at[i][role] = NULL;
            if (objects[role])
                ask_for(objects[role], i, p->tensors);
            if (!objects[role] || (role == MASTER && !objects[role][i]))
                continue;
            wrong[0] = role;
            wrong[1] = i;
            if (!objects[role][i] || take(objects[role][i], seen) || (!seen->data && elements(seen)))
                return NO_VIEW;
            if (seen->device.type != CPU)
                return WRONG_DEVICE;
            int is_narrow = p->tensor[i].narrow && (role == WEIGHT || role == GRADIENT);
            if (seen->dtype.code != (is_narrow ? BFLOAT : FLOAT) || seen->dtype.bits != (is_narrow ? 16 : 32))
                return WRONG_DTYPE;
            if (role == WEIGHT) {
                int64_t numel = elements(&weight);
                if (numel != p->tensor[i].numel)
                    return WRONG_SIZE;
                if (!dense(&weight, numel, pieces > 1))
                    return WRONG_LAYOUT;
            } else if (role == STEP ? other.ndim != 0 : !same_layout(&weight, &other)) {
                return WRONG_LAYOUT;
            }
            p->at[i][role] = (char *)seen->data + seen->byte_offset;
            p->moved |= role == WEIGHT && p->at[i][role] != before;
        }
    }
    if (p->moved)
        p->shared = sharing(p);
    p->moved = 0;
    wrong[0] = WEIGHT;
    wrong[1] = p->shared;
    return p->shared < 0 ? ALL_WELL : SHARED;
}

/* ------------------------------------------------------------------------------------------------ threads */

/* Tickets down a list. Helpers are started for one job and end with it: there is no pool that a fork could break or that
   two optimizers could contend for. The caller never waits for a helper to begin or to end, only for the items that one
   has taken; a helper that comes late finds no ticket left, and touches nothing but the job. */
typedef struct {
    atomic_llong next, finished;
    atomic_int helpers, references;
    int64_t items;
    void (*work)(void *context, int64_t item, int thread);
    void *context;
} job;

static void release(job *j)
{
    if (atomic_fetch_sub_explicit(&j->references, 1, memory_order_acq_rel) == 1)
        free(j);
}

static void take_tickets(job *j, int thread)
{
    int64_t i;
    while ((i = atomic_fetch_add_explicit(&j->next, 1, memory_order_relaxed)) < j->items) {
        j->work(j->context, i, thread);
        atomic_fetch_add_explicit(&j->finished, 1, memory_order_release);
    }
}

static void *helper(void *argument)
{
    job *j = argument;
    take_tickets(j, atomic_fetch_add_explicit(&j->helpers, 1, memory_order_relaxed));
    release(j);
    return NULL;
}

static inline void rest(int *spins)
{
    if (++*spins > SPINS)
        sched_yield();
#if defined(__x86_64__)
    else
        __builtin_ia32_pause();
#endif
}

/* Runs work(context, 0 .. items-1) on up to `threads` threads, begun in this order. */
static void run(int64_t items, void (*work)(void *, int64_t, int), void *context, int threads)
{
    job *j = threads > 1 && items > 1 ? malloc(sizeof *j) : NULL;
    if (!j) {
        for (int64_t i = 0; i < items; i++)
            work(context, i, 0);
        return;
    }
    *j = (job){.items = items, .work = work, .context = context};
    atomic_init(&j->next, 0);
    atomic_init(&j->finished, 0);
    atomic_init(&j->helpers, 1);
    atomic_init(&j->references, 1);
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) == 0) {
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        sigset_t all, before; /* signals are Python's, on the threads that it knows */
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        for (int t = 1; t < threads && t < items; t++) {
            pthread_t id;
            atomic_fetch_add_explicit(&j->references, 1, memory_order_relaxed);
            if (pthread_create(&id, &attributes, helper, j)) {
                release(j);
                break;
            }
        }
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&attributes);
    }
    take_tickets(j, 0);
    for (int spins = 0; atomic_load_explicit(&j->finished, memory_order_acquire) < items;)
        rest(&spins);
    release(j);
}

static int worthwhile(int64_t elements, int threads)
{
    int64_t most = elements / PER_THREAD;
    return most < 1 ? 1 : most < threads ? (int)most : threads;
}

/* ------------------------------------------------------------------------------------------------ the step */

static const float *read(const void *at, int64_t begin, long n, int is_narrow, float *buffer)
{
    if (!is_narrow)
        return (const float *)at + begin;
    widen(n, (const uint16_t *)at + begin, buffer);
    return buffer;
}

/* Phase 1 of a chunk: u goes to `kept` where that is not NULL. */
static void first(plan *p, int64_t index, float *kept)
{
    const chunk *c = &p->chunk[index];
    const segment *s = &p->segment[c->segment];
    const tensor *t = &p->tensor[s->tensor];
    const rule *r = &p->rules[t->rule];
    void **at = p->at[s->tensor];
    factors f = p->factors[s->tensor];
    float xs[BLOCK], gs[BLOCK], us[BLOCK];
    double of_x[LANES] = {0}, of_u[LANES] = {0};
    if (r->kind == LARS_SUM && !r->joint_norm)
        f.weight_decay = 0; /* |g| in place of |g + wd x| */
    for (int64_t b = 0; b < c->n; b += BLOCK) {
        long n = c->n - b < BLOCK ? (long)(c->n - b) : BLOCK;
        int64_t i = s->begin + c->begin + b;
        const float *x = at[MASTER] ? (float *)at[MASTER] + i : read(at[WEIGHT], i, n, t->narrow, xs);
        const float *g = read(at[GRADIENT], i, n, t->narrow, gs);
        float *u = kept && r->kind == LAMB ? kept + b : us, *m = (float *)at[FIRST_MOMENT] + i;
        if (r->kind == LAMB) {
            lamb_first(n, x, g, m, (float *)at[SECOND_MOMENT] + i, u, of_x, of_u, f);
            continue;
        }
        direction(n, x, g, u, f);
        if (r->kind == LARS_AVERAGE)
            average(n, u, m, f);
        if (r->kind == LARS_AVERAGE && f.nesterov)
            look_ahead(n, u, m, f);
        add_squares(n, x, of_x);
        add_squares(n, r->kind == LARS_AVERAGE && !f.nesterov ? m : u, of_u);
    }
    p->sums[index][0] = total(of_x);
    p->sums[index][1] = total(of_u);
}

/* Phase 2 of a chunk: u is in `kept`, or made again. */
static void second(plan *p, int64_t index, const float *kept)
{
    const chunk *c = &p->chunk[index];
    const segment *s = &p->segment[c->segment];
    const tensor *t = &p->tensor[s->tensor];
    const rule *r = &p->rules[t->rule];
    void **at = p->at[s->tensor];
    factors f = p->factors[s->tensor];
    float inside = p->rate[c->segment][0], outside = p->rate[c->segment][1];
    float xs[BLOCK], gs[BLOCK], us[BLOCK];
    for (int64_t b = 0; b < c->n; b += BLOCK) {
        long n = c->n - b < BLOCK ? (long)(c->n - b) : BLOCK;
        int64_t i = s->begin + c->begin + b;
        float *x = at[MASTER] ? (float *)at[MASTER] + i : (float *)read(at[WEIGHT], i, n, t->narrow, xs);
        float *m = (float *)at[FIRST_MOMENT] + i;
        if (r->kind == LAMB) {
            if (kept) {
                move(n, x, kept + b, outside);
            } else {
                const float *g = f.nesterov ? read(at[GRADIENT], i, n, t->narrow, gs) : NULL;
                lamb_second(n, x, g, m, (float *)at[SECOND_MOMENT] + i, f, outside);
            }
        } else if (r->kind == LARS_AVERAGE && !f.nesterov) {
            move(n, x, m, outside);
        } else {
            direction(n, x, read(at[GRADIENT], i, n, t->narrow, gs), us, f);
            if (r->kind == LARS_AVERAGE) {
                look_ahead(n, us, m, f);
                move(n, x, us, outside);
            } else {
                lars_sum_second(n, x, us, m, f, inside, outside);
            }
        }
        if (t->narrow)
            narrow(n, x, (uint16_t *)at[WEIGHT] + i);
    }
}

static double within(double value, const double bounds[2])
{
    return value < bounds[0] ? bounds[0] : value > bounds[1] ? bounds[1] : value;
}

static float as_rate(double value)
{
    return value > FLT_MAX ? FLT_MAX : (float)value;
}

/* ratio = clip(coefficient * phi(|x|) / (|u| + eps)); 1 where |x| = 0 or |u| = 0, and where the group is not adapted. */
static void settle(plan *p, int64_t s, const double squares[2])
{
    const rule *r = rule_of(p, s);
    double x = sqrt(squares[0]), u = sqrt(squares[1]), ratio = 1;
    int clamped = 0;
    if (r->adapt) {
        if (r->kind == LARS_SUM && !r->joint_norm)
            u = u == 0 ? 0 : u + r->weight_decay * x; /* no rate of its own for a layer without gradient */
        if (x != 0 && u != 0) {
            double raw = r->coefficient * within(x, r->phi) / (u + r->ratio_eps);
            ratio = within(raw, r->trust_clip);
            clamped = x < r->phi[0] || x > r->phi[1] || raw < r->trust_clip[0] || raw > r->trust_clip[1];
        }
    }
    double *record = p->record + p->segment[s].layer;
    record[0] = x;
    record[p->layers] = u;
    record[2 * p->layers] = ratio;
    record[3 * p->layers] = clamped;
    double inside = r->rate_inside ? ratio * r->lr : ratio, outside = r->rate_inside ? 1 : r->lr;
    p->rate[s][0] = as_rate(inside);
    p->rate[s][1] = as_rate(r->kind == LARS_SUM ? outside : ratio * r->lr);
}

static void add_chunks(const plan *p, int64_t s, double squares[2])
{
    for (int64_t c = p->first_chunk[s]; c < p->first_chunk[s + 1]; c++) {
        squares[0] += p->sums[c][0];
        squares[1] += p->sums[c][1];
    }
}

/* The same from what this process alone knows. */
static void settle_here(plan *p, int64_t s)
{
    double squares[2] = {0};
    add_chunks(p, s, squares);
    settle(p, s, squares);
}

/* Both passes over a run of chunks that holds whole layers, or layers without a ratio. */
static void finish(plan *p, int64_t from, int64_t to, float *u)
{
    while (from < to) {
        int64_t s = p->chunk[from].segment;
        int adapt = rule_of(p, s)->adapt;
        int64_t end = adapt ? p->first_chunk[s + 1] : from + 1;
        for (int64_t c = from; c < end; c++)
            first(p, c, u + (c - from) * CHUNK);
        if (adapt)
            settle_here(p, s);
        for (int64_t c = end; c-- > from;) /* what was touched last is in the caches still */
            second(p, c, u + (c - from) * CHUNK);
        from = end;
    }
}

static void whole_item(void *context, int64_t index, int thread)
{
    plan *p = context;
    const item *it = &p->item[index];
    float *kept = it->slot < 0 ? NULL : p->ring + it->slot * CHUNK;
    int64_t s = p->chunk[it->from].segment;
    int spins = 0;
    if (it->work == FINISH) {
        finish(p, it->from, it->to, p->scratch[thread]);
    } else if (it->work == PASS_1) {
        while (it->after >= 0 && !atomic_load_explicit(&p->done[it->after], memory_order_acquire))
            rest(&spins);
        first(p, it->from, kept);
        if (atomic_fetch_sub_explicit(&p->left[s], 1, memory_order_acq_rel) == 1) {
            settle_here(p, s);
            atomic_store_explicit(&p->left[s], -1, memory_order_release);
        }
    } else {
        while (atomic_load_explicit(&p->left[s], memory_order_acquire) >= 0)
            rest(&spins);
        second(p, it->from, kept);
        atomic_store_explicit(&p->done[index], 1, memory_order_release);
    }
}

static void first_turn(void *context, int64_t index, int thread)
{
    plan *p = context;
    (void)thread;
    for (int64_t c = index ? p->turn[index - 1] : 0; c < p->turn[index]; c++)
        first(p, c, NULL);
}

static void second_turn(void *context, int64_t index, int thread)
{
    plan *p = context;
    (void)thread;
    for (int64_t c = index ? p->turn[index - 1] : 0; c < p->turn[index]; c++)
        second(p, c, NULL);
}

/* (a, b) of the estimate a * moment + b * gradient. */
static void estimate(double beta, double t, int bias_correction, int nesterov, float *a, float *b)
{
    double now = bias_correction ? 1 - pow(beta, t) : 1, then = bias_correction ? 1 - pow(beta, t + 1) : 1;
    *a = (float)(nesterov ? beta / then : 1 / now);
    *b = (float)(nesterov ? (1 - beta) / now : 0);
}

/* Advances the step counts where `advance`, and makes every tensor's factors. */
static void prepare(plan *p, int advance)
{
    const rule *last = NULL; /* most tensors are of the same age */
    double age = 0;
    factors f = {0};
    for (int64_t i = 0; i < p->tensors; i++) {
        const rule *r = &p->rules[p->tensor[i].rule];
        float *step = p->at[i][STEP];
        if (step && advance)
            *step += 1;
        double t = step ? *step : 0;
        if (r != last || t != age) {
            f = (factors){
                .scale = (float)r->scale,
                .beta1 = (float)r->beta1,
                .weight1 = (float)(1 - r->beta1),
                .beta2 = (float)r->beta2,
                .weight2 = (float)(1 - r->beta2),
                .eps = (float)r->eps,
                .weight_decay = (float)r->weight_decay,
                .nesterov = r->nesterov,
            };
            if (r->kind == LAMB) {
                estimate(r->beta1, t, r->bias_correction, r->nesterov > 0, &f.of_m, &f.of_g);
                estimate(r->beta2, t, r->bias_correction, r->nesterov > 1, &f.of_v, &f.of_gg);
            }
            last = r;
            age = t;
        }
        p->factors[i] = f;
    }
}

/* Scratch of each thread, for the largest layer that it finishes alone; fewer threads where the memory does not suffice for
   all, 0 where for none. */
static int scratch(plan *p, int threads)
{
    if (threads <= p->threads)
        return threads;
    int64_t chunks = 1;
    for (int64_t s = 0; s < p->segments; s++)
        if (rule_of(p, s)->adapt && p->segment[s].numel <= p->local) {
            int64_t here = p->first_chunk[s + 1] - p->first_chunk[s];
            chunks = here > chunks ? here : chunks;
        }
    float **grown = realloc(p->scratch, (size_t)threads * sizeof *grown);
    if (!grown)
        return p->threads;
    p->scratch = grown;
    for (; p->threads < threads; p->threads++)
        if (!(p->scratch[p->threads] = malloc((size_t)chunks * CHUNK * sizeof(float))))
            break;
    return p->threads;
}

/* A whole step, or one phase of it for layers of which other processes hold the rest. `layers` has four rows.

   WHOLE    writes |x|, |u|, ratio and clamped of every layer
   FIRST    writes |x|^2 and |u|^2 of what is here of every layer
   SECOND   reads the same of all processes together, and writes what WHOLE does

   Returns 0; -1, and nothing has changed, where the memory does not suffice. */
EXPORT int ab_step(plan *p, const rule *rules, int64_t count, int phase, int threads, double *layers)
{
    memcpy(p->rules, rules, (size_t)count * sizeof *rules);
    threads = worthwhile(p->elements, threads);
    if (phase == WHOLE && !(threads = scratch(p, threads)))
        return -1;
    prepare(p, phase != SECOND);
    if (phase == FIRST) {
        run(p->turns, first_turn, p, threads);
        memset(layers, 0, 2 * (size_t)p->layers * sizeof *layers);
        for (int64_t s = 0; s < p->segments; s++) {
            double squares[2] = {0};
            add_chunks(p, s, squares);
            layers[p->segment[s].layer] += squares[0];
            layers[p->layers + p->segment[s].layer] += squares[1];
        }
        return 0;
    }
    if (phase == WHOLE) {
        double none[2] = {0};
        for (int64_t s = 0; s < p->segments; s++) {
            atomic_init(&p->left[s], p->first_chunk[s + 1] - p->first_chunk[s]);
            if (!rule_of(p, s)->adapt)
                settle(p, s, none);
        }
        memset(p->done, 0, (size_t)p->items * sizeof *p->done);
        run(p->items, whole_item, p, threads);
        for (int64_t s = 0; s < p->segments; s++)
            if (!rule_of(p, s)->adapt || !p->segment[s].numel)
                settle_here(p, s);
    } else {
        for (int64_t s = 0; s < p->segments; s++) {
            int64_t layer = p->segment[s].layer;
            settle(p, s, (double[2]){layers[layer], layers[p->layers + layer]});
        }
        run(p->turns, second_turn, p, threads);
    }
    memcpy(layers, p->record, 4 * (size_t)p->layers * sizeof *layers);
    return 0;
}

/* ------------------------------------------------------------------------------------------------ the look */

typedef struct {
    const void *at;
    int64_t numel;
    int32_t narrow;
} array;

typedef struct {
    const array *arrays;
    const int64_t *owner; /* of each piece of TURN elements or less */
    const int64_t *first; /* piece of each array */
    const int64_t *turn;  /* where each turn ends */
    double *sums;         /* by piece */
    int64_t turns;
} look;

static void look_turn(void *context, int64_t index, int thread)
{
    const look *l = context;
    (void)thread;
    index = l->turns - 1 - index; /* from the end: the step begins with what was looked at last */
    for (int64_t k = index ? l->turn[index - 1] : 0; k < l->turn[index]; k++) {
        const array *a = &l->arrays[l->owner[k]];
        int64_t begin = (k - l->first[l->owner[k]]) * CHUNK;
        int64_t end = begin + CHUNK < a->numel ? begin + CHUNK : a->numel;
        double lanes[LANES] = {0};
        float buffer[BLOCK];
        for (int64_t b = begin; b < end; b += BLOCK) {
            long n = end - b < BLOCK ? (long)(end - b) : BLOCK;
            add_squares(n, read(a->at, b, n, a->narrow, buffer), lanes);
        }
        l->sums[k] = total(lanes);
    }
}

/* Writes down where the arrays are. Call with the GIL held. Returns how many are dense and fp32 or bf16 on the CPU, from
   the first on. */
EXPORT int64_t ab_arrays(int64_t count, take_view take, void *const *objects, array *arrays)
{
    for (int64_t i = 0; i < count; i++) {
        view seen;
        ask_for(objects, i, count);
        if (take(objects[i], &seen) || (!seen.data && elements(&seen)) || seen.device.type != CPU)
            return i;
        int is_narrow = seen.dtype.code == BFLOAT && seen.dtype.bits == 16;
        if (!is_narrow && !(seen.dtype.code == FLOAT && seen.dtype.bits == 32))
            return i;
        int64_t numel = elements(&seen);
        if (!dense(&seen, numel, 0))
            return i;
        arrays[i] = (array){(char *)seen.data + seen.byte_offset, numel, is_narrow};
    }
    return count;
}

/* The sum of squares of each array. Returns 0; -1 where the memory does not suffice. */
EXPORT int ab_squares(int64_t count, const array *arrays, int threads, double *squares)
{
    int64_t pieces = 0, all = 0;
    for (int64_t i = 0; i < count; i++) {
        pieces += (arrays[i].numel + CHUNK - 1) / CHUNK;
        all += arrays[i].numel;
    }
    int64_t *owner = zeros(pieces, sizeof *owner), *first = zeros(count, sizeof *first);
    int64_t *turn = zeros(pieces, sizeof *turn), turns = 0;
    double *sums = zeros(pieces, sizeof *sums);
    if (owner && first && turn && sums) {
        int64_t k = 0, gathered = 0;
        for (int64_t i = 0; i < count; i++) {
            first[i] = k;
            for (int64_t begin = 0; begin < arrays[i].numel; begin += CHUNK) {
                owner[k++] = i;
                gathered += arrays[i].numel - begin < CHUNK ? arrays[i].numel - begin : CHUNK;
                if (gathered >= TURN) {
                    turn[turns++] = k;
                    gathered = 0;
                }
            }
        }
        if (gathered)
            turn[turns++] = k;
        look l = {arrays, owner, first, turn, sums, turns};
        run(turns, look_turn, &l, worthwhile(all, threads));
        k = 0;
        for (int64_t i = 0; i < count; i++)
            for (squares[i] = 0; k < pieces && owner[k] == i; k++)
                squares[i] += sums[k];
    }
    int failed = !owner || !first || !turn || !sums;
    free(owner), free(first), free(turn), free(sums);
    return failed ? -1 : 0;
}
