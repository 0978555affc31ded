/* waitq.pml: the small lock of core/waiting/lock.c, and how it sleeps by park.c.
 *
 * The word is FREE, HELD or CONTENDED. The comparison and the going to sleep are one step, as
 * ns_park promises. A sleep may also end for no reason. That does no harm, and is left out here, so
 * that it cannot hide a lost wake-up.
 *
 * Properties: exclusion (assert); no lost wake-up (an invalid end state); free at the end (assert).
 */
#ifndef N
#define N 3
#endif
#ifndef TURNS
#define TURNS 2
#endif
mtype = { FREE, HELD, CONTENDED };
mtype word = FREE;
bit asleep[N];
byte inside, done;

proctype thread(byte me) {
	byte turns;
	mtype take, old;
	do
	:: turns == TURNS -> break
	:: else ->
		turns++;
		take = HELD;
		do
		:: atomic { word == FREE -> word = take; break }
		:: word != FREE -> /* it spins for a while; then: */
#ifndef FORGETS_THE_OTHERS
			take = CONTENDED;
#endif
			if
#ifdef SLEEPS_UNANNOUNCED
			:: atomic { word == HELD || word == CONTENDED -> asleep[me] = 1 }
#else
			:: atomic { word == HELD -> word = CONTENDED }
			:: word == CONTENDED
#endif
			:: word == FREE -> goto again
			fi;
			atomic {
				if
				:: word == CONTENDED -> asleep[me] = 1
				:: else
				fi
			};
			!asleep[me];
again:			skip
		od;
		inside++;
		assert(inside == 1);
		inside--;
#ifdef LOOKS_THEN_FREES
		old = word;
		word = FREE;
#else
		atomic { old = word; word = FREE };
#endif
		if
		:: old == CONTENDED -> /* wakes any one of the sleepers */
			atomic {
				if
				:: asleep[0] -> asleep[0] = 0
				:: asleep[1] -> asleep[1] = 0
				:: asleep[2] -> asleep[2] = 0
#if N > 3
				:: asleep[3] -> asleep[3] = 0
#endif
				:: else
				fi
			}
		:: else
		fi
	od;
	done++
}

init {
	byte n;
	atomic {
		do
		:: n < N -> run thread(n); n++
		:: else -> break
		od
	};
	done == N;
	assert(word == FREE)
}
