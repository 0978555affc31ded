/* grant.pml: how a waiter learns that it is served (core/waiting/grant.c), and when it may be freed.
 *
 * W waiters line up, and a server serves them all. A waiter, and with it its place in the queue, is
 * `alive` from when it lines up until its thread has returned. To touch a dead one is a use after
 * free (assert). To unpark it uses only its name, and is allowed.
 *
 * CANCELS: another thread cancels waiter 0 at some moment (ns_waiter_cancel); the server may leave
 * that waiter unserved for ever. The canceller knows that the waiter lives, because it holds a lock
 * (the scope's) which the waiter takes before it goes.
 * CALLS: waiter 2 has no thread: it is CALLED. Its owner may cancel it, and frees it after it was
 * called if it had been served.
 *
 * Properties: no use after free (assert); no lost wake-up (an invalid end state); each waiter is
 * served once, and knows of it (assert).
 */
#ifndef W
#define W 3
#endif
mtype = { WAITING, ASLEEP, GRANTED, CANCELLED, CALLED };
mtype state[W];
bit linked[W], alive[W], asleep[W];
bit queue_held, scope_held;
bit registered, skipped; /* of waiter 0 */
bit called; /* waiter 2 was called */
byte in_line, done;
byte grants, served_calls; /* how many were granted, and how many calls returned as served */

inline lock_queue() { atomic { !queue_held -> queue_held = 1 } }
inline unlock_queue() { queue_held = 0 }

proctype waiter(byte me) {
	mtype seen;
#ifdef CANCELS
	bit may_time_out = 0; /* a waiter that nobody serves must be woken by its canceller */
#else
	bit may_time_out = (me == 0);
#endif
	bit may_give_way = (me == 1), served;
	lock_queue();
	alive[me] = 1;
	state[me] = WAITING;
	linked[me] = 1;
	in_line++;
	unlock_queue();
#ifdef CANCELS
	if
	:: me == 0 -> atomic { !scope_held -> registered = 1 }
	:: else
	fi;
#endif
	do
	:: /* ns_await_grant */
#ifdef STORES_ASLEEP
		state[me] = ASLEEP;
#elif defined(SLEEPS_UNANNOUNCED)
		skip;
#else
		atomic {
			if
			:: state[me] == WAITING -> state[me] = ASLEEP
			:: else
			fi
		};
#endif
		if
		:: state[me] == GRANTED -> served = 1; break
		:: state[me] == CANCELLED -> goto cancel
		:: else
		fi;
		atomic {
			if
#ifdef SLEEPS_UNANNOUNCED
			:: state[me] != GRANTED -> asleep[me] = 1
#else
			:: state[me] == ASLEEP -> asleep[me] = 1
#endif
			:: else
			fi
		};
		if
		:: !asleep[me]
		:: may_give_way -> /* a handler uses the object: what was granted goes back */
			may_give_way = 0;
			asleep[me] = 0;
			lock_queue();
			if
			:: state[me] == GRANTED -> state[me] = WAITING; linked[me] = 1; in_line++; grants--
			:: else
			fi;
			unlock_queue()
		:: may_time_out ->
cancel:			may_time_out = 0;
			asleep[me] = 0;
			lock_queue();
			served = (state[me] == GRANTED);
#ifndef CANCEL_STAYS_IN_LINE
			if
			:: !served -> linked[me] = 0; in_line--
			:: else
			fi;
#endif
			unlock_queue();
			break
		fi
	od;
#ifdef CANCELS
	if
	:: me == 0 -> atomic { !scope_held -> registered = 0 }
	:: else
	fi;
#endif
	alive[me] = 0; /* from here on its memory may be reused */
	served_calls = served_calls + served;
	done++
}

#ifdef CANCELS
/* ns_waiter_cancel, under the lock of a scope. */
proctype canceller() {
	mtype old;
	do
	:: atomic { !scope_held -> scope_held = 1 };
		if
		:: !registered && state[0] != GRANTED && done < W -> scope_held = 0 /* later */
		:: registered ->
			assert(alive[0]);
#ifdef CANCEL_STORES
			atomic { old = state[0]; state[0] = CANCELLED };
#elif defined(CANCEL_LOOKS_THEN_STORES)
			old = state[0];
			if
			:: old == WAITING || old == ASLEEP -> state[0] = CANCELLED
			:: else
			fi;
#else
			atomic {
				old = state[0];
				if
				:: old == WAITING || old == ASLEEP -> state[0] = CANCELLED
				:: else
				fi
			};
#endif
			scope_held = 0;
#ifndef CANCEL_WAKES_NOBODY
			if
			:: old == ASLEEP -> asleep[0] = 0 /* ns_unpark */
			:: else
			fi;
#endif
			break
		:: !registered && (state[0] == GRANTED || done == W) -> scope_held = 0; break
		fi
	od
}
#endif

#ifdef CALLS
/* A waiter without a thread, and its owner. */
proctype task(byte me) {
	bit served;
	lock_queue();
	alive[me] = 1;
	state[me] = CALLED;
	linked[me] = 1;
	in_line++;
	unlock_queue();
	if
	:: called -> served = 1
	:: lock_queue(); /* the owner cancels */
		served = (state[me] == GRANTED);
		if
		:: !served -> linked[me] = 0; in_line--
		:: else
		fi;
		unlock_queue();
#ifndef FREES_BEFORE_IT_IS_CALLED
		if
		:: served -> called
		:: else
		fi
#endif
	fi;
	alive[me] = 0;
	served_calls = served_calls + served;
	done++
}
#endif

#ifdef CALLS
/* ns_call_waiters: reads the waiter, and runs the callback, which may use the object. */
inline call() {
	assert(alive[2]);
	to_call = 0;
	lock_queue();
	unlock_queue();
	assert(alive[2]);
	called = 1
}
#else
#define call() skip
#endif

proctype server() {
	byte i, count;
	bit woken[W], to_call;
	mtype old;
	do
	:: done == W && in_line == 0 -> break
#ifdef CANCELS
	:: !skipped && linked[0] && done < W -> skipped = 1
#endif
	:: in_line > 0 ->
		lock_queue();
		i = 0;
		do
		:: i < W && linked[i] && i == 0 && skipped -> i++
		:: i < W && linked[i] && !(i == 0 && skipped) ->
			assert(alive[i]);
			grants++;
#ifdef UNLINKS_LATE
			atomic { old = state[i]; state[i] = GRANTED };
			assert(alive[i]);
			linked[i] = 0;
			in_line--;
#else
			linked[i] = 0;
			in_line--;
#ifdef LOOKS_THEN_GRANTS
			old = state[i];
			state[i] = GRANTED;
#else
			atomic { old = state[i]; state[i] = GRANTED };
#endif
#endif
			assert(old != GRANTED);
			woken[i] = (old == ASLEEP);
			to_call = to_call || old == CALLED;
#ifdef CALLS_UNDER_THE_LOCK
			if
			:: to_call -> call()
			:: else
			fi;
#endif
#ifdef READS_AFTER_GRANT
			assert(alive[i]);
#endif
			i++
		:: i < W && !linked[i] -> i++
		:: i == W -> break
		od;
		unlock_queue();
		i = 0;
		do
		:: i < W -> /* ns_unpark: uses a name, not memory */
			if
			:: woken[i] -> asleep[i] = 0; woken[i] = 0
			:: else
			fi;
			i++
		:: i == W -> break
		od;
		if
		:: to_call -> call()
		:: else
		fi;
		i = 0;
		old = 0
	od
}

init {
	byte n;
	atomic {
		do
#ifdef CALLS
		:: n == 2 -> run task(n); n++
		:: n < W && n != 2 -> run waiter(n); n++
#else
		:: n < W -> run waiter(n); n++
#endif
		:: n == W -> break
		od;
#ifdef CANCELS
		run canceller();
#endif
		run server()
	};
	done == W && in_line == 0;
	assert(grants == served_calls)
}
