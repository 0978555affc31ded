/* alone.pml: the only thread that uses the library frees at once, and newcomers notice in time.
 *
 * The user replaces a pointer, by a store that may stay in its store buffer, and reads `alone`. If
 * that is USER, it frees what the pointer led to. If it is NOBODY and no other thread is counted,
 * the user becomes alone: it sets `alone` and reads the count again, while its store may still be
 * in the buffer. A newcomer is counted, then reads `alone`. If that is USER, it sets ENDING, has a
 * fence put into all threads, and sets NOBODY. If it finds ENDING it does the same. Then it loads
 * the pointer and reads what it leads to.
 *
 * Properties
 *   no use after reclaim   no thread reads an object that was freed (assert)
 *   the user is alone again when the newcomers are gone (assert at the end)
 *
 * Each variant fails. NO_BARRIER: the newcomer relies on its store. TRUSTS_ENDING: it relies on the
 * fence of another newcomer, which may not be over. FENCES_LATE: it reports the fence as over
 * before it is. LOOKS_FIRST: the newcomer reads `alone` before it is counted. BECOMES_BLINDLY: the
 * user does not read the count again. STAYS: the user keeps `alone` though it found a newcomer.
 */
#ifndef NEWCOMERS
#define NEWCOMERS 2
#endif
#ifndef TURNS
#define TURNS 1 /* of each newcomer */
#endif
#ifndef OBJECTS
#define OBJECTS 2 /* replaced one after the other */
#endif
#define NOBODY 0
#define USER 1
#define ENDING 2

byte pointer; /* as all threads see it */
byte pending; /* stores in the user's store buffer */
byte alone, count = 1;
bit freed[OBJECTS + 2];
byte gone;

#define drain d_step { pointer = pointer + pending; pending = 0 }

/* The processor makes the user's oldest store visible, at any time. (Each store is one more than
 * the last.) */
active proctype processor() {
end:	do
	:: d_step { pending > 0 -> pointer++; pending-- }
	od
}

inline retire(old) {
	pending++;
	if
	:: alone == USER -> freed[old] = 1
	:: alone != USER && count == 1 ->
		if
		:: d_step { alone == NOBODY -> alone = USER };
#ifdef BECOMES_BLINDLY
			freed[old] = 1
#else
			if
			:: count == 1 -> freed[old] = 1
			:: else ->
#ifndef STAYS
				d_step {
					if
					:: alone == USER -> alone = NOBODY
					:: else
					fi
				}
#else
				skip
#endif
			fi
#endif
		:: alone != NOBODY
		fi
	:: alone != USER && count != 1
	fi
}

proctype user() {
	byte n;
	do
	:: n == OBJECTS -> break
	:: n < OBJECTS -> retire(n); n++
	od;
	gone == NEWCOMERS;
	retire(OBJECTS);
	assert(freed[OBJECTS])
}

inline end_solitude() {
#ifdef LOOKS_FIRST
	if
	:: found == USER -> alone = ENDING; drain; alone = NOBODY
	:: else
	fi
#else
	do
	:: alone == NOBODY -> break
#ifndef TRUSTS_ENDING
	:: alone == ENDING ->
		drain;
		d_step {
			if
			:: alone == ENDING -> alone = NOBODY
			:: else
			fi
		};
		break
#else
	:: alone == ENDING -> break
#endif
	:: d_step { alone == USER -> alone = ENDING };
#ifdef FENCES_LATE
		alone = NOBODY;
		drain;
#else
#ifndef NO_BARRIER
		drain;
#endif
		d_step {
			if
			:: alone == ENDING -> alone = NOBODY
			:: else
			fi
		};
#endif
		break
	od
#endif
}

proctype newcomer() {
	byte n, p;
#ifdef LOOKS_FIRST
	byte found;
#endif
	do
	:: n == TURNS -> break
	:: n < TURNS ->
		n++;
#ifdef LOOKS_FIRST
		found = alone;
#endif
		count++;
		end_solitude();
		p = pointer;
		assert(!freed[p]);
		assert(!freed[p]);
		p = 0;
		count--
	od;
	gone++
}

init {
	byte n;
	atomic {
		run user();
		do
		:: n < NEWCOMERS -> run newcomer(); n++
		:: else -> break
		od
	}
}
