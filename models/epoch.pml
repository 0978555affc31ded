/* epoch.pml: epochs with a reader side without fences, on processors with store buffers.
 *
 * Each thread's stores go through a buffer of its own and become visible in order, some time later
 * (x86's total store order). Its loads look in the buffer first. A locked read-modify-write drains
 * the buffer. The reader stores in its record what the epoch `now` was, loads the pointer, reads
 * what it points to, and clears the record, all without a fence: a poll has the fence put into
 * every thread (membarrier). Model checkers take memory as sequentially consistent unless the
 * buffers are in the model, as here. Without them the broken variants would pass.
 *
 *   writer:  replace the pointer, visibly (a read-modify-write or a fence);  stamp = now, rounded up to even
 *   poll:    even now: now += 1 (a round begins);  a fence in all threads of its own;  now += 1, if no
 *            other poll ended the round;  e = now;  e = min of e and all records that are not 0
 *            what is stamped below e - 1 may be freed
 *
 * Properties
 *   no use after reclaim   no reader reads an object that was freed (assert)
 *   progress               once the readers are gone, two polls free everything (assert at the end)
 *
 * WRITER_WITHOUT_FENCE fails: membarrier reaches one thread after the other. Suppose that a section
 * begins after the reader's turn and before the writer's. It still sees the old pointer, its record
 * is still in the reader's buffer when the poll looks, and the stamp is old enough. So the
 * replacement must be visible before the stamp is read.
 *
 * POLLERS: polls do not exclude each other. A poll that finds a round in progress makes a fence of
 * its own, ends the round and looks. Three variants fail. In JOINS_WITHOUT_FENCE such a poll relies
 * on the fence of the one that began the round. In STAMPS_THE_MIDDLE something that is stamped
 * during a round may be freed after that round and half of the next. In LOOKS_TOO_EARLY a poll
 * reads the records before `now`.
 *
 * FENCES: without membarrier, readers, writers and polls each have a full fence of their own.
 *
 * REFUSED: membarrier may fail at any poll, and from then on all threads have fences of their own.
 * A reader stores its record and then checks whether it needs one. A poll is not sure, and frees
 * nothing, until each store that was in a buffer at the refusal has become visible. Buffers drain
 * in a bounded time, long before park.c relies on it. LOOKS_FIRST, in which the reader checks
 * before it stores, fails. So do polls that do not wait.
 */
#ifdef SMALL
#define READERS 1
#define SECTIONS 1
#define OBJECTS 1
#endif
#ifndef READERS
#define READERS 2
#endif
#ifndef SECTIONS
#define SECTIONS 2 /* of each reader */
#endif
#ifndef OBJECTS
#define OBJECTS 2 /* replaced one after the other */
#endif
#ifndef POLLERS
#define POLLERS 1
#endif
#ifndef POLLS
#define POLLS 2 /* of each, before the readers are gone */
#endif
/* those with store buffers: readers and the writer; polls store by read-modify-writes */
#define THREADS (READERS + 1)
#define WRITER READERS
#define DEPTH 3

/* Addresses: first the readers' records, then this. */
#define PTR READERS
#define WORDS (READERS + 1)

byte memory[WORDS];
byte now = 2; /* only polls write it, by read-modify-writes: it is in no buffer */

typedef buffer { byte address[DEPTH]; byte value[DEPTH]; byte count };
buffer pending[THREADS];

#ifdef REFUSED
bit own; /* all threads have fences of their own */
byte older[THREADS]; /* stores in a thread's buffer from before that */
#endif

bit freed[OBJECTS + 1];
bit retired[OBJECTS + 1];
byte stamp[OBJECTS + 1];
byte gone;
bit written;

inline store(a, v) {
	atomic {
		pending[me].count < DEPTH ->
		pending[me].address[pending[me].count] = a;
		pending[me].value[pending[me].count] = v;
		pending[me].count++
	}
}

/* The thread's own newest store to the address, else the memory. */
inline load(a, to) {
	d_step {
		to = memory[a];
		k = 0;
		do
		:: k < pending[me].count ->
			if
			:: pending[me].address[k] == a -> to = pending[me].value[k]
			:: else
			fi;
			k++
		:: else -> break
		od;
		k = 0
	}
}

inline flush_one(t) {
	memory[pending[t].address[0]] = pending[t].value[0];
	k = 0;
	do
	:: k + 1 < pending[t].count ->
		pending[t].address[k] = pending[t].address[k + 1];
		pending[t].value[k] = pending[t].value[k + 1];
		k++
	:: else -> break
	od;
	pending[t].count--;
#ifdef REFUSED
	older[t] = (older[t] > 0 -> older[t] - 1 : 0);
#endif
	pending[t].address[pending[t].count] = 0;
	pending[t].value[pending[t].count] = 0;
	k = 0
}

inline drain(t) {
	d_step {
		do
		:: pending[t].count > 0 -> flush_one(t)
		:: else -> break
		od
	}
}

/* The processor makes the oldest store of some thread visible, at any time. */
active proctype processor() {
	byte k;
end:	do
	:: d_step { pending[0].count > 0 -> flush_one(0) }
#if READERS > 1
	:: d_step { pending[1].count > 0 -> flush_one(1) }
#endif
	:: d_step { pending[WRITER].count > 0 -> flush_one(WRITER) }
	od
}

proctype reader(byte me) {
	byte e, p, k, n;
	bit fences;
	do
	:: n == SECTIONS -> break
	:: else ->
		n++;
		e = now;
#ifdef RECORDS_LATE
		load(PTR, p);
		store(me, e);
#else
#if defined(REFUSED) && defined(LOOKS_FIRST)
		fences = own;
#endif
		store(me, e);
#ifdef REFUSED
#ifndef LOOKS_FIRST
		fences = own;
#endif
		if
		:: fences -> drain(me)
		:: else
		fi;
		fences = 0;
#endif
#ifdef FENCES
#ifndef READER_WITHOUT_FENCE
		drain(me);
#endif
#endif
		load(PTR, p);
#endif
		assert(!freed[p]); /* the section's reads: at its beginning, and as late as possible */
		assert(!freed[p]);
		store(me, 0);
		e = 0;
		p = 0
	od;
	gone++
}

proctype writer(byte me) {
	byte n, k;
	do
	:: n == OBJECTS -> break
	:: else ->
		store(PTR, n + 1);
#ifndef WRITER_WITHOUT_FENCE
		drain(me);
#endif
#ifdef STAMPS_THE_MIDDLE
		stamp[n] = now;
#else
		stamp[n] = now + now % 2;
#endif
		retired[n] = 1;
		n++
	od;
	written = 1
}

inline look() {
	t = 0;
	do
	:: t < READERS ->
		d_step {
			if
			:: memory[t] != 0 && memory[t] < least -> least = memory[t]
			:: else
			fi
		};
		t++
	:: t == READERS -> break
	od
}

inline fence_all() {
	t = 0;
	do
	:: t < THREADS ->
#ifdef BARRIER_MISSES_READERS
		if
		:: t == WRITER -> drain(t)
		:: else
		fi;
#else
		drain(t); /* one thread after the other, as the kernel does */
#endif
		t++
	:: t == THREADS -> break
	od
}

inline poll() {
	d_step {
		joins = now % 2;
		now = now + 1 - now % 2;
		round = now
	}
	sure = 1;
#ifdef FENCES
	/* Its own read-modify-write is the fence. */
	skip;
#elif !defined(NO_BARRIER)
#ifdef REFUSED
	if
	:: !own ->
		d_step {
			own = 1;
			t = 0;
			do
			:: t < THREADS -> older[t] = pending[t].count; t++
			:: t == THREADS -> break
			od
		}
	:: true
	fi;
	if
	:: own ->
#ifndef TRUSTS_AT_ONCE
		t = 0;
		do
		:: t < THREADS ->
			sure = (older[t] > 0 -> 0 : sure);
			t++
		:: t == THREADS -> break
		od
#else
		skip
#endif
	:: else -> fence_all()
	fi;
#elif defined(JOINS_WITHOUT_FENCE)
	if
	:: !joins -> fence_all()
	:: else
	fi;
#else
	fence_all();
#endif
#endif
	t = 0;
	d_step {
		if
		:: sure && now == round -> now++
		:: else
		fi;
		joins = 0;
		round = 0
	}
	least = 255;
#ifdef LOOKS_TOO_EARLY
	look();
	least = (now < least -> now : least);
#else
	least = now;
	look();
#endif
	least = (sure -> least : 0); /* nothing is safe */
	t = 0;
	do
	:: t < OBJECTS ->
		if
#ifdef FREES_TOO_EARLY
		:: retired[t] && stamp[t] < least -> freed[t] = 1
#else
		:: retired[t] && least > 0 && stamp[t] < least - 1 -> freed[t] = 1
#endif
		:: else
		fi;
		t++
	:: t == OBJECTS -> break
	od;
	t = 0;
	least = 0;
	sure = 0
}

byte polled; /* polls that are over, of those that every poller makes */

proctype poller(byte i) {
	byte t, least, k, n, round;
	bit sure, joins;
	do
	:: n < POLLS -> poll(); n++
	:: n == POLLS -> break
	od;
	polled++;
	if
	:: i > 0 -> goto over
	:: else
	fi;
	gone == READERS && written && polled == POLLERS;
	(pending[0].count == 0 && pending[READERS - 1].count == 0);
	poll();
	poll();
	t = 0;
	do
	:: t < OBJECTS -> assert(freed[t]); t++
	:: else -> break
	od;
over:	skip
}

init {
	byte n;
	atomic {
		do
		:: n < READERS -> run reader(n); n++
		:: else -> break
		od;
		run writer(WRITER);
		n = 0;
		do
		:: n < POLLERS -> run poller(n); n++
		:: else -> break
		od
	}
}
