/* mutex.pml: the protocol of core/mutex.c: which waiter is heir, which sleeps, which is woken.
 *
 * One step here is one atomic step there. The word's bits are `locked` and `visit` (QUEUED steers
 * nothing). What is under the queue's lock runs between lock_queue and unlock_queue. Time is left
 * out: whatever depends on a clock (the heir's limits, starving, slowness, time-outs, signals) may
 * happen at any moment; a time-out or a signal happens once a thread.
 *
 * Properties
 *   exclusion        there are never two threads in the critical section (assert)
 *   invariant W      of mutex.h, whenever the queue's lock is released (assert)
 *   no lost wake-up  a sleeper that nobody will wake is an invalid end state
 *   nothing is left  at the end the lock is free, the queue is empty, and there is no heir (assert)
 *
 * GATE: some threads take the lock and another one releases it.
 * TASKS: so many of the waiters, those with the lowest numbers, have no thread: they are called.
 * The variants named in models.toml are broken on purpose and must fail.
 */
#ifndef N
#define N 3 /* threads */
#endif
#ifndef TURNS
#define TURNS 1 /* how often each thread takes the lock */
#endif
#define NONE 255

#ifndef TASKS
#define TASKS 0
#endif

mtype = { PARKED, HEIR, GRANTED, CALLED };

bit locked, visit;
bit queue_held;
byte heir = NONE;
byte line[N]; /* the queue: line[0] is the longest waiter */
byte length;
mtype state[N];
bit away[N], impatient[N], asleep[N];
byte inside, done;

inline lock_queue() { atomic { !queue_held -> queue_held = 1 } }

/* Releases the queue's lock, and checks invariant W in the same step. */
inline unlock_queue() {
	atomic {
		i = 0;
		do
		:: i < length ->
			if
			:: !away[line[i]] -> assert(heir != NONE || (visit && locked))
			:: else
			fi;
			i++
		:: else -> break
		od;
		i = 0;
		queue_held = 0
	}
}

/* `to` becomes the first in line that is not away, or NONE. */
inline first(to) {
	d_step {
		to = NONE;
		i = 0;
		do
		:: i < length && away[line[i]] -> i++
		:: i < length && !away[line[i]] -> to = line[i]; break
		:: else -> break
		od;
		i = 0
	}
}

inline remove(who) {
	d_step {
		i = 0;
		do
		:: i < length && line[i] != who -> i++
		:: else -> break
		od;
		do
		:: i + 1 < length -> line[i] = line[i + 1]; i++
		:: else -> break
		od;
		length--;
		line[length] = 0;
		i = 0
	}
}

inline choose_heir(to) {
	first(to);
	heir = to;
	if
	:: to != NONE -> state[to] = HEIR
	:: else
	fi
}

#define is_called(who) (who != NONE && state[who] == CALLED)

/* For a waiter that is called and first in line, while there is no heir: takes the lock for it.
 * `taken`: whether it could. */
inline take_for(who) {
#ifdef CALLED_ASKS_FOR_NO_VISIT
	was_locked = locked;
#else
	atomic { was_locked = locked; visit = 1 };
#endif
#ifdef CALLED_LOOKS_NOT
	was_locked = 1;
#endif
	taken = 0;
	if
	:: !was_locked ->
#ifdef TAKES_BLINDLY
		locked = 1;
		taken = 1
#else
		atomic { taken = !locked; locked = 1 }
#endif
	:: else
	fi;
	was_locked = 0;
	if
	:: taken ->
		remove(who);
		if
		:: length == 0 -> visit = 0
		:: else
		fi
	:: else
	fi
}

/* The heir is gone, and the lock may be free. */
inline pass_on() {
	first(passed);
	if
#ifdef CALLED_IS_HEIR
	:: false
#else
	:: is_called(passed) ->
		heir = NONE;
		take_for(passed);
		if
		:: taken -> taken = 0; state[passed] = GRANTED
		:: else
		fi
#endif
	:: else -> choose_heir(woken)
	fi;
	passed = NONE
}

/* Wakes `who` if it sleeps. */
inline unpark(who) {
#ifndef NO_WAKE
	if
	:: who != NONE -> asleep[who] = 0
	:: else
	fi;
#endif
	who = NONE
}

inline await_turn() {
	away[me] = 0;
	first(next);
	if
#ifdef NOBODY_LOOKS
	:: false
#else
	:: heir == NONE && next == me -> heir = me
#endif
	:: else
	fi;
	next = NONE;
	if
	:: heir == me -> /* if the lock is slow, it sleeps at once */
		if
		:: true
		:: true ->
#ifdef SLOW_ASKS_FOR_NO_VISIT
			was_locked = locked;
#else
			atomic { was_locked = locked; visit = 1 };
#endif
#ifdef SLOW_LOOKS_NOT
			was_locked = 1;
#endif
			if
			:: was_locked -> heir = NONE
			:: else
			fi;
			was_locked = 0
		fi
	:: else
	fi;
	if
	:: heir == me -> state[me] = HEIR
	:: else -> state[me] = PARKED
	fi
}

inline resign() {
	impatient[me] = 0;
	if
	:: heir == me ->
#ifdef RESIGNS_TO_NOBODY
		heir = NONE
#else
		pass_on()
#endif
	:: else
	fi
}

/* Frees the lock or hands it off. VISIT is set, so no other thread changes the word. */
inline release() {
	was_asleep = (heir == NONE);
	if
	:: was_asleep -> first(next)
	:: else -> next = heir
	fi;
	if
	:: next != NONE && !was_asleep && impatient[next] -> goto hand_over
	:: next != NONE && was_asleep -> goto hand_over /* if it is starving, or called */
#ifdef RELEASE_FREES_BESIDE_CALLED
	:: !(next != NONE && !was_asleep && impatient[next]) ->
#else
	:: !(next != NONE && !was_asleep && impatient[next]) && !(was_asleep && is_called(next)) ->
#endif
		if
		:: was_asleep ->
#ifndef RELEASE_CHOOSES_NOBODY
			choose_heir(woken)
#endif
			skip
		:: else
		fi;
		next = NONE;
		atomic { locked = 0; visit = 0 }
	fi;
	goto freed;
hand_over:
	remove(next);
	impatient[next] = 0;
	first(passed);
	if
#ifdef HAND_OVER_FORGETS_CALLED
	:: choose_heir(woken);
#else
	:: !is_called(passed) -> choose_heir(woken);
#endif
#ifdef HAND_OVER_FREES
		atomic { locked = 0; visit = 0 };
#else
		visit = 0;
#endif
	:: heir = NONE; /* if the lock is slow */
#ifdef SLOW_HAND_OVER_ASKS_FOR_NO_VISIT
		visit = 0;
#endif
	fi;
	passed = NONE;
	state[next] = GRANTED;
	if
	:: was_asleep -> granted = next
	:: else
	fi;
	next = NONE;
freed:
	was_asleep = 0;
	unlock_queue();
	unpark(granted);
	unpark(woken)
}

/* `ok`: the lock was held. The fast path is one compare-and-swap of the whole word. */
inline unlock() {
	ok = 0;
	do
	:: atomic { locked && !visit -> locked = 0; ok = 1; break }
	:: visit && locked ->
		lock_queue();
		atomic { was_locked = locked; visit = 1 };
		if
		:: !was_locked -> unlock_queue(); break
		:: else -> was_locked = 0; release(); ok = 1; break
		fi
	:: !locked -> break
	od
}

proctype thread(byte me) {
	byte turns, i, next = NONE, woken = NONE, granted = NONE, passed = NONE;
	bit ok, was_locked, was_asleep, taken, may_leave = 1;
	if
	:: me < TASKS -> may_leave = 0 /* its owner has patience */
	:: true
	fi;
	do
	:: turns == TURNS -> break
	:: else ->
		turns++;
		if
		:: atomic { !locked -> locked = 1; goto got }
		:: locked /* this may have changed by the time the thread is in line */
		fi;
		lock_queue();
		atomic { line[length] = me; length++ };
		impatient[me] = 0;
		if
		:: me < TASKS ->
			state[me] = CALLED;
			first(next);
			if
			:: next == me -> take_for(me)
			:: else
			fi;
			next = NONE;
			if
			:: taken -> taken = 0; state[me] = GRANTED
			:: else
			fi
		:: else -> await_turn()
		fi;
		unlock_queue();
waits:		do
		:: state[me] == GRANTED -> goto got
		:: me < TASKS && may_leave -> goto leave
		:: me >= TASKS && state[me] == HEIR && !locked -> /* the heir takes the lock */
			lock_queue();
			ok = 0;
			atomic {
				if
				:: heir == me && !locked -> locked = 1; ok = 1
				:: else
				fi
			};
			if
			:: ok ->
				remove(me);
				heir = NONE;
				if
				:: length == 0 -> visit = 0
				:: else ->
#ifdef TAKE_ASKS_FOR_NO_VISIT
					skip
#else
					atomic { was_locked = locked; visit = 1 };
#ifndef TAKE_LOOKS_ONCE
					if
					:: !was_locked -> was_locked = 1; pass_on()
					:: else
					fi;
#endif
					was_locked = 0
#endif
				fi;
				unlock_queue();
				unpark(woken);
				goto got
			:: else -> unlock_queue()
			fi
		:: me >= TASKS && state[me] == HEIR && locked && !impatient[me] -> /* the heir demands the lock */
			lock_queue();
			if
			:: heir == me -> impatient[me] = 1; visit = 1
			:: else
			fi;
			unlock_queue()
		:: me >= TASKS && state[me] == HEIR -> /* the heir goes to sleep */
			lock_queue();
			if
			:: heir == me ->
#ifdef HEIR_SLEEPS_WITHOUT_VISIT
				was_locked = locked;
#else
				atomic { was_locked = locked; visit = 1 };
#endif
#ifdef HEIR_LOOKS_ONCE
				was_locked = 1;
#endif
				if
				:: was_locked -> impatient[me] = 0; state[me] = PARKED; heir = NONE
				:: else
				fi;
				was_locked = 0
			:: else
			fi;
			unlock_queue()
		:: atomic { me >= TASKS && state[me] == PARKED -> asleep[me] = 1 }; /* ns_park */
			if
			:: !asleep[me]
			:: may_leave -> asleep[me] = 0; goto leave
			fi
		:: me >= TASKS && state[me] == HEIR && may_leave ->
leave:			may_leave = 0;
			lock_queue();
			if
			:: state[me] == GRANTED -> unlock_queue(); goto got
			:: else ->
				if
				:: me >= TASKS -> away[me] = 1; /* for a signal: it will come back */
					resign();
					unlock_queue();
					unpark(woken);
					lock_queue();
					await_turn();
					unlock_queue()
				:: remove(me); /* for good: a time-out */
					resign();
					if
					:: length == 0 -> visit = 0
					:: else
					fi;
					unlock_queue();
					unpark(woken);
					goto gave_up
				fi
			fi
		od;
got:		atomic { inside++;
#ifndef GATE
			assert(inside == 1)
#endif
		};
		atomic { inside--; ok = 0 };
#ifndef GATE
		unlock();
		assert(ok);
		ok = 0
#endif
gave_up:		skip
	od;
	done++
}

#ifdef GATE
/* Releases the lock whenever it is held, until all threads are done. */
proctype gate() {
	byte i, next = NONE, woken = NONE, granted = NONE, passed = NONE;
	bit ok, was_locked, was_asleep, taken;
	do
	:: locked -> unlock(); ok = 0
	:: done == N && !locked -> break
	od
}
#endif

init {
	byte n;
	atomic {
		do
		:: n < N -> state[n] = PARKED; run thread(n); n++
		:: else -> break
		od;
#ifdef GATE
		run gate()
#endif
	};
	done == N;
#ifdef GATE
	!locked;
#endif
	assert(!locked && length == 0 && heir == NONE)
}
