/* Threads that each count in a word of their own, so many bytes from the next one's: what
 * test_transfers.py gives the counter of transfers to find. Three arguments: how many threads, the
 * bytes between their words, and 1 to read a word that nobody writes instead.
 *
 * The calls by which a measured program speaks to the counter are in tools/transfers/plugin.c. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { MOST = 64, WARM_UP = 50, FEW = 50, MANY = 450, COMPANY = 50 };

static _Alignas(4096) char words[MOST * 4096];
static int distance, reads;

static void
tell(int n)
{
    lseek(-1, 0x7472616e73660000 + n, 0);
}

/* Longer than a thread keeps a line for. */
static void
work(void)
{
    for (int i = 0; i < 100; i++) {
        __asm__ volatile("");
    }
}

static void *
count(void *argument)
{
    volatile uint64_t *word = (uint64_t *)(words + (intptr_t)argument * distance);
    volatile uint64_t *shared = (uint64_t *)(words + sizeof(words) / 2);
    static const int sizes[] = {WARM_UP, FEW, MANY, COMPANY};
    uint64_t sum = 0;
    tell(0);
    for (int phase = 0; phase < 4; phase++) {
        for (int i = 0; i < sizes[phase]; i++) {
            if (reads) {
                sum += *shared;
            }
            else {
                ++*word;
            }
            work();
        }
        tell(0);
    }
    return (void *)(intptr_t)sum;
}

int
main(int argc, char **argv)
{
    if (argc != 4) {
        return 2;
    }
    int n = atoi(argv[1]);
    distance = atoi(argv[2]);
    reads = atoi(argv[3]);
    if (n < 1 || n > MOST || distance < 0 || distance > 4096 / 2) {
        return 2;
    }
    printf("%p\n", (void *)words);
    fflush(stdout);
    tell(n);
    pthread_t threads[MOST];
    for (int i = 0; i < n; i++) {
        if (pthread_create(&threads[i], NULL, count, (void *)(intptr_t)i)) {
            return 1;
        }
    }
    for (int i = 0; i < n; i++) {
        pthread_join(threads[i], NULL);
    }
    tell(0xffff);
    return 0;
}
