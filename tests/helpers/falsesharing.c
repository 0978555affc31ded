/* Threads that each count in a word of their own, at a given distance from the next one's. With
 * this test_transfers.py checks the tool that counts transfers. Three arguments: the number of
 * threads, the bytes between their words, and 1 to read a word that no thread writes instead.
 *
 * The program speaks to the tool by calls of lseek: see tools/transfers/plugin.c.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { MAX_THREADS = 64, WARM_UP = 50, FEW = 50, MANY = 450, COMPANY = 50 };

static _Alignas(4096) char words[MAX_THREADS * 4096];
static int distance, reads;

static void
signal_tool(int n)
{
    lseek(-1, 0x7472616e73660000 + n, 0);
}

/* Takes longer than a thread keeps a line. */
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
    signal_tool(0);
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
        signal_tool(0);
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
    if (n < 1 || n > MAX_THREADS || distance < 0 || distance > 4096 / 2) {
        return 2;
    }
    printf("%p\n", (void *)words);
    fflush(stdout);
    signal_tool(n);
    pthread_t threads[MAX_THREADS];
    for (int i = 0; i < n; i++) {
        if (pthread_create(&threads[i], NULL, count, (void *)(intptr_t)i)) {
            return 1;
        }
    }
    for (int i = 0; i < n; i++) {
        pthread_join(threads[i], NULL);
    }
    signal_tool(0xffff);
    return 0;
}
