/* grant.pml: how a waiter learns that it is served (core/waiting/grant.c), and when it may be freed.
 *
 * W waiters line up, and a server serves them all. A waiter, and with it its place in the queue, is
 * `alive` from when it lines up until its thread has returned. To touch a dead one is a use after
 * free (assert). To unpark it uses only its name, and is allowed.
 *
 * Properties: no use after free (assert); no lost wake-up (an invalid end state); each waiter is
 * served once (assert).
 */
#ifndef W
#define W 3
#endif
mtype = { WAITING, ASLEEP, GRANTED };
mtype state[W];
bit linked[W], alive[W], asleep[W];
bit queue_held;
byte in_line, done;

inline lock_queue() { atomic { !queue_held -> queue_held = 1 } }
inline unlock_queue() { queue_held = 0 }

proctype waiter(byte me) {
	mtype seen;
	bit may_time_out = (me == 0), may_give_way = (me == 1), served;
	lock_queue();
	alive[me] = 1;
	state[me] = WAITING;
	linked[me] = 1;
	in_line++;
	unlock_queue();
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
		:: state[me] == GRANTED -> break
		:: else
		fi;
		atomic {
			if
			:: state[me] != GRANTED -> asleep[me] = 1
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
			:: state[me] == GRANTED -> state[me] = WAITING; linked[me] = 1; in_line++
			:: else
			fi;
			unlock_queue()
		:: may_time_out -> /* cancel */
			may_time_out = 0;
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
	alive[me] = 0; /* from here on its memory may be reused */
	done++
}

proctype server() {
	byte i, count;
	bit woken[W];
	mtype old;
	do
	:: done == W && in_line == 0 -> break
	:: in_line > 0 ->
		lock_queue();
		i = 0;
		do
		:: i < W && linked[i] ->
			assert(alive[i]);
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
		i = 0;
		old = 0
	od
}

init {
	byte n;
	atomic {
		do
		:: n < W -> run waiter(n); n++
		:: else -> break
		od;
		run server()
	}
}
