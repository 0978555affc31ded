/* hash.h: how the hashes of a table's keys are mixed, with a secret of this process. */
#ifndef NS_HASH_H
#define NS_HASH_H

#include "atomics.h"

/* What the hashes of this process are mixed with: see ns_hash_mix. */
extern struct ns_hash_seed {
    _Alignas(NS_CACHE_LINE) uint64_t addend;
    uint64_t factor;
} ns_hash_seed;

/* Sets the seed from two words that nobody outside the process can know. Must run before the first
 * use of a table; later calls do nothing. */
void ns_hash_seed_set(uint64_t first, uint64_t second);

/* Mixes a hash: a multiplication by a secret, whose halves are then combined (as wyhash and
 * foldhash mix). An attacker who does not know the secrets cannot choose keys that share a segment,
 * a group or a tag more often than random keys do, except by choosing equal hashes.
 *
 * The low seven bits of the input stay out of the multiplication, and change only the group and the
 * tag. So 128 neighbours lie in one segment, share its groups evenly and have different tags, and a
 * program that counts its keys up stays in the processor's caches. There are no more than 128 such
 * keys, so nobody gains by choosing them. */
static inline uint64_t
ns_hash_mix(uint64_t h)
{
    const uint64_t a = h >> 7 ^ ns_hash_seed.addend;
    const uint64_t b = ns_hash_seed.factor;
#ifdef __SIZEOF_INT128__
    __extension__ typedef unsigned __int128 wide;
    const wide product = (wide)a * b;
    const uint64_t run = (uint64_t)(product >> 64) ^ (uint64_t)product;
#else
    uint64_t run = a * b;
    run = (run ^ run >> 32) * b;
    run ^= run >> 32;
#endif
    return run ^ (h & 0x7f) ^ (h & 0x7f) << 25;
}

#endif
