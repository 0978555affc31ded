/* slots.pml: a walk over the thread slots sees every thread that has one.
 *
 * A word of the bitmap has one bit here. A thread sets the lowest clear bit. Then it completes its
 * claim: in one compare-and-swap count and version go up, and `words` includes its bit. When it
 * ends it clears the bit, reads the state, drops empty words off the end, and changes the state by
 * compare-and-swap.
 *
 * Properties
 *   no thread is overlooked     a walk sees each thread whose claim was complete before the walk
 *   and that keeps its slot until the walk is over (assert)
 *   the cost follows the living when all threads are gone, a walk reads no word (assert at the end)
 *
 * NO_VERSION fails: one thread claims and another leaves between a leaver's check and its
 * compare-and-swap, and the state is the same again. LOOKS_FIRST fails, in which the leaver reads
 * the words before the state. So does BIT_LATE, in which a claim is completed before the bit is
 * set.
 */
#ifndef N
#define N 3 /* threads */
#endif
#ifndef TURNS
#define TURNS 1 /* of each */
#endif
#ifndef WORDS
#define WORDS 2
#endif
#define NONE 255

bit taken[WORDS];
#ifdef BIT_LATE
bit reserved[WORDS]; /* whose bits are about to be set */
#endif
byte count, words, version;

/* For the property only; no thread of the program reads these. */
/* the thread's slot + 1, from the completion of its claim until it begins to leave */
byte holds[N];
byte watched = NONE; /* the thread that the walker must see, as long as it stays */
byte gone;

#ifdef NO_VERSION
#define SAME (count == c && words == w)
#else
#define SAME (count == c && words == w && version == v)
#endif

inline read_state() {
	d_step { c = count; w = words; v = version }
}

inline drop_empty() {
	n = w;
	do
	:: n > 0 ->
		if
		:: taken[n - 1] -> break
		:: else -> n--
		fi
	:: n == 0 -> break
	od
}

proctype thread(byte me) {
	byte mine, c, w, v, n, turns;
	do
	:: turns == TURNS -> break
	:: else ->
		turns++;
		/* Claims. Any clear bit would do; with the lowest, rare cases would be rarer. */
		mine = NONE;
#ifdef BIT_LATE
		atomic {
			if
			:: !reserved[0] -> mine = 0; reserved[0] = 1
			:: !reserved[1] -> mine = 1; reserved[1] = 1
			:: reserved[0] && reserved[1] -> skip
			fi
		}
#else
		atomic {
			if
			:: !taken[0] -> mine = 0; taken[0] = 1
			:: !taken[1] -> mine = 1; taken[1] = 1
			:: taken[0] && taken[1] -> skip
			fi
		}
#endif
		if
		:: mine != NONE ->
			d_step {
				count++;
				version++;
				words = (words < mine + 1 -> mine + 1 : words);
				holds[me] = mine + 1
			}
#ifdef BIT_LATE
			taken[mine] = 1;
#endif
			/* Leaves. */
			d_step {
				holds[me] = 0;
				watched = (watched == me -> NONE : watched);
				taken[mine] = 0
#ifdef BIT_LATE
				;
				reserved[mine] = 0
#endif
			}
again:
#ifdef LOOKS_FIRST
			w = words;
			drop_empty();
			read_state();
			n = (n < w -> n : w);
#else
			read_state();
			drop_empty();
#endif
			skip;
			d_step {
				if
				:: SAME -> words = n; count--; n = 0
				:: else -> n = NONE
				fi
			}
			if
			:: n == NONE -> goto again
			:: else
			fi;
			d_step { c = 0; w = 0; v = 0; mine = 0 }
		:: else
		fi
	od;
	gone++
}

proctype walker() {
	byte n, slot, i;
	bit seen;
	do
	:: d_step { holds[i] > 0 -> watched = i; slot = holds[i] - 1; i = 0 }; break
	:: i + 1 < N -> i++
	:: goto over
	od;
	n = words;
	if
	:: slot < n -> seen = taken[slot]
	:: else
	fi;
	assert(seen || watched == NONE);
	d_step { n = 0; slot = 0; seen = 0; watched = NONE }
over:	gone == N;
	assert(count == 0 && words == 0)
}

init {
	byte n;
	atomic {
		do
		:: n < N -> run thread(n); n++
		:: else -> break
		od;
		run walker()
	}
}
