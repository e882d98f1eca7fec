/* What a step costs in memory alone: the reads and writes of a step in place, with no arithmetic.

   The values stay as they are: `zero` is 0, which the compiler cannot know. Threads take chunks by ticket, so that a
   thread beside a busy neighbor takes fewer. */

#include <stddef.h>
#include <stdint.h>

struct chunk {
    const uint32_t *g;
    uint32_t *p, *m, *v;
    size_t n;
};

#define NEXT(ticket) __atomic_fetch_add(ticket, 1, __ATOMIC_RELAXED)

/* Adam's: 4 words read, 3 written. */
uint32_t four_read_three_written(const struct chunk *chunks, size_t size, size_t *ticket, uint32_t zero)
{
    uint32_t seen = 0;
    for (size_t i; (i = NEXT(ticket)) < size;) {
        const uint32_t *restrict g = chunks[i].g;
        uint32_t *restrict p = chunks[i].p, *restrict m = chunks[i].m, *restrict v = chunks[i].v;
        for (size_t j = 0; j < chunks[i].n; j++) {
            seen |= g[j];
            p[j] ^= zero;
            m[j] ^= zero;
            v[j] ^= zero;
        }
    }
    return seen;
}

/* That of SGD with momentum: 3 words read, 2 written. */
uint32_t three_read_two_written(const struct chunk *chunks, size_t size, size_t *ticket, uint32_t zero)
{
    uint32_t seen = 0;
    for (size_t i; (i = NEXT(ticket)) < size;) {
        const uint32_t *restrict g = chunks[i].g;
        uint32_t *restrict p = chunks[i].p, *restrict m = chunks[i].m;
        for (size_t j = 0; j < chunks[i].n; j++) {
            seen |= g[j];
            p[j] ^= zero;
            m[j] ^= zero;
        }
    }
    return seen;
}
