/* pool.pml: the list of a pool's shards (core/pool.h): one shard, its owners one after the other,
 * and searches.
 *
 * An owner takes the slot and puts items, after it has listed the shard if needed, and returns the
 * slot. A search that finds the shard listed takes its item. If there is none and the slot is not
 * taken, the search unlists the shard. Each step is one access to one word. An owner may vanish in
 * the middle of a listing, as it does for the child of a fork, where its slot is free at once.
 * Memory is sequentially consistent here. The one place that needs fences is a litmus test (the
 * flags are cleared, then the slot is read; the slot is taken, then the flags are read).
 *
 * Properties
 *   an item's shard is listed   whenever there is an item, the bit is set (assert)
 *   the list gets short         at the end, one more search unlists the shard (assert)
 *
 * Each of these variants fails. NO_COUNT: a search that cleared the flags clears the bit, whatever
 * came between. KEEPS_FLAGS: the search leaves the flags, so the new owner does not notice.
 * LISTED_AT_ONCE: the owner does not notice that its flags were cleared while it listed.
 * LISTED_FIRST: LISTED is set before the bit is. TAKEN_ONCE and EMPTY_ONCE: the search does not
 * check the slot, or the shard, a second time. STORES_FIRST: the item is stored before the shard is
 * listed.
 */
#ifndef OWNERS
#define OWNERS 2
#endif
#ifndef PUTS
#define PUTS 2 /* of each owner */
#endif
#ifndef SEARCHES
#define SEARCHES 2 /* at the same time */
#endif

#define NOTHING 0
#define LISTING 1
#define LISTED 2

bit taken, item, listed;
byte count, flags = NOTHING;
byte gone;

#define INVARIANT assert(!item || listed)

inline list() {
	do
	:: true ->
#ifdef LISTED_FIRST
		flags = LISTED;
#else
		flags = LISTING;
#endif
		if
		:: goto over
		:: true
		fi;
		atomic { listed = 1; count++ };
#ifdef LISTED_FIRST
		break
#elif defined(LISTED_AT_ONCE)
		flags = LISTED;
		break
#else
		if
		:: atomic { flags == LISTING -> flags = LISTED; break }
		:: else /* start again */
		fi
#endif
	od
}

proctype owner() {
	byte n;
	atomic { !taken -> taken = 1 };
	do
	:: n < PUTS ->
		n++;
		if
		:: item -> skip /* the deque is not in the model */
		:: else ->
#ifdef STORES_FIRST
			atomic { item = 1; INVARIANT };
			if
			:: flags != LISTED -> list()
			:: else
			fi
#else
			if
			:: flags != LISTED -> list()
			:: else
			fi;
			atomic { item = 1; INVARIANT }
#endif
		fi;
		if
		:: item = 0 /* takes it back */
		:: true
		fi
	:: else -> break
	od;
over:
	taken = 0;
	gone++
}

inline unlist() {
	if
	:: !taken && !item ->
		d_step { word = listed; before = count };
		if
		:: word ->
#ifndef KEEPS_FLAGS
			flags = NOTHING;
#endif
			if
#ifdef TAKEN_ONCE
			:: true ->
#else
			:: !taken ->
#endif
				if
#ifdef EMPTY_ONCE
				:: true ->
#else
				:: !item ->
#endif
					if
#ifdef NO_COUNT
					:: true -> atomic { listed = 0; INVARIANT }
#else
					:: atomic { count == before -> listed = 0; INVARIANT }
#endif
					:: else
					fi
				:: else
				fi
			:: else
			fi
		:: else
		fi
	:: else
	fi
}

proctype search() {
	byte before;
	bit word;
	do
	:: gone < OWNERS ->
		if
		:: listed ->
			if
			:: item = 0 /* takes it, if there is one */
			:: true
			fi;
			unlist()
		:: else
		fi
	:: gone >= OWNERS -> break
	od;
	gone++
}

init {
	byte n, before;
	bit word;
	atomic {
		do
		:: n < OWNERS -> run owner(); n++
		:: else -> break
		od;
		n = 0;
		do
		:: n < SEARCHES -> run search(); n++
		:: else -> break
		od
	}
	gone == OWNERS + SEARCHES;
	item = 0;
	unlist();
	assert(!listed)
}
