/* select.pml: the claim of core/waiting/select.c: waiters in several queues, of which one serves.
 *
 * S selectors on two rendezvous channels. A case is one bit in `sends` or `receives` of a selector:
 * bit c for channel c. A waiter with one case is an ordinary waiter that gives up like others. A
 * selector enters with the locks of all its channels, links and serves one case after the other,
 * and parks. Then it is served by others, or gives up at any moment. The queues are sets: which of
 * several waiters is the first in line changes nothing here.
 *
 * Properties
 *   once             a selector is granted at most once, and only while it is linked (assert)
 *   pairs            as many sends as receives went ahead (assert)
 *   settled          whenever a channel's lock is free, no two different parked waiters in it could
 *                    serve each other (assert)
 *   in all lines     a parked selector that is not claimed stands in the lines of all its cases
 *                    (assert), so nobody passes it by for ever
 *   no lost wake-up  a selector that is granted and never learns of it is an invalid end state
 *
 * The variants named in models.toml are broken on purpose and must fail.
 */
#define S 3
#define CHANNELS 2

/* Which cases the selectors have. */
#ifdef CROSSED /* each could meet each other, and itself */
#define SENDS_0 1
#define RECEIVES_0 3
#define SENDS_1 3
#define RECEIVES_1 1
#define SENDS_2 1
#define RECEIVES_2 2
#elif defined(RIVALS) /* two rivals for one that waits for both */
#define SENDS_0 0
#define RECEIVES_0 3
#define SENDS_1 1
#define RECEIVES_1 0
#define SENDS_2 2
#define RECEIVES_2 0
#elif defined(CAUGHT) /* one that waits for both meets one that is served elsewhere meanwhile */
#define SENDS_0 0
#define RECEIVES_0 3
#define SENDS_1 1
#define RECEIVES_1 2
#define SENDS_2 2
#define RECEIVES_2 0
#else /* a circle */
#define SENDS_0 1
#define RECEIVES_0 2
#define SENDS_1 2
#define RECEIVES_1 1
#define SENDS_2 3
#define RECEIVES_2 0
#endif

bit held[CHANNELS]; /* the channels' locks */
byte sending[CHANNELS], receiving[CHANNELS]; /* the queues: a bit for each selector */
byte sends[S], receives[S];
bit claimed[S], granted[S], parked[S];
byte sent, received, done;

inline lock(c) { atomic { !held[c] -> held[c] = 1 } }

#define is_waiting(k) ((!claimed[k] && parked[k]) << k)
#define all_waiting (is_waiting(0) | is_waiting(1) | is_waiting(2))
#define cases(k) (sends[k] | receives[k])

/* Releases the lock, and checks in the same step that the channel is settled. */
inline unlock(c) {
	d_step {
		n = 0;
		do
		:: n < S ->
			assert(!(sending[c] & (1 << n)) || claimed[n] || !parked[n] ||
				(receiving[c] & ~(1 << n) & all_waiting) == 0);
			n++
		:: else -> break
		od;
		n = 0;
		held[c] = 0
	}
}

/* Nobody has passed a parked selector by. */
inline check_lines() {
	d_step {
		n = 0;
		do
		:: n < S ->
			assert(claimed[n] || !parked[n] ||
				((sending[0] >> n & 1) | (sending[1] >> n & 1) << 1) == sends[n] &&
				((receiving[0] >> n & 1) | (receiving[1] >> n & 1) << 1) == receives[n]);
			n++
		:: else -> break
		od;
		n = 0
	}
}

/* `ok`: whether k was claimed. */
inline claim(k) {
#ifdef CLAIMS_NOT
	ok = 1;
	claimed[k] = 1
#elif defined(LOOKS_THEN_CLAIMS)
	ok = !claimed[k];
	claimed[k] = 1
#else
	atomic { ok = !claimed[k]; claimed[k] = 1 }
#endif
}

inline grant(k) {
	atomic { assert(!granted[k]); granted[k] = 1 }
}

/* Any receiver r and any other sender s; S: there are no two. */
inline select_pair(c) {
	r = S;
	s = S;
	for (n : 0 .. S - 1) {
		for (m : 0 .. S - 1) {
			if
#ifdef MEETS_ITSELF
			:: (receiving[c] >> n & 1) && (sending[c] >> m & 1) -> r = n; s = m
#else
			:: n != m && (receiving[c] >> n & 1) && (sending[c] >> m & 1) -> r = n; s = m
#endif
			:: r != S || n == m || !(receiving[c] >> n & 1) || !(sending[c] >> m & 1) -> skip
			fi
		}
	}
	n = 0;
	m = 0
}

/* Serves all pairs of different waiters in channel c, which is locked. */
inline serve(c) {
	do
	:: atomic {
		select_pair(c);
		if
		:: r == S -> break
		:: else
		fi
		};
		claim(r);
		if
		:: !ok -> receiving[c] = receiving[c] & ~(1 << r)
		:: else ->
			claim(s);
			if
			:: !ok ->
				sending[c] = sending[c] & ~(1 << s);
#ifndef KEEPS_CLAIM
				claimed[r] = 0
#endif
			:: else ->
				receiving[c] = receiving[c] & ~(1 << r);
				sending[c] = sending[c] & ~(1 << s);
				atomic { sent++; received++ };
				grant(r);
				grant(s)
			fi
		fi
	od;
	r = 0;
	s = 0;
	ok = 0
}

inline unlink_from(c) {
	sending[c] = sending[c] & ~(1 << me);
	receiving[c] = receiving[c] & ~(1 << me)
}

/* Unlinks all places, one lock after the other. */
inline withdraw() {
	c = 0;
	do
	:: c < CHANNELS && (cases(me) >> c & 1) ->
		lock(c);
		unlink_from(c);
		unlock(c);
		c++
	:: c < CHANNELS && !(cases(me) >> c & 1) -> c++
	:: c == CHANNELS -> c = 0; break
	od
}

inline lock_all() {
	c = 0;
	do
	:: c < CHANNELS ->
		if
		:: cases(me) >> c & 1 -> lock(c)
		:: else
		fi;
		c++
	:: else -> c = 0; break
	od
}

inline unlock_all() {
	c = 0;
	do
	:: c < CHANNELS ->
		if
		:: cases(me) >> c & 1 -> unlock(c)
		:: else
		fi;
		c++
	:: else -> c = 0; break
	od
}

/* Links what is left of `todo`, in any order, and serves each. The low bits are sends. */
inline link_and_serve() {
	todo = sends[me] | receives[me] << CHANNELS;
	do
	:: todo == 0 || granted[me] -> break
	:: todo != 0 && !granted[me] ->
		if
		:: todo & 1 -> next = 1; c = 0
		:: todo & 2 -> next = 2; c = 1
		:: todo & 4 -> next = 4; c = 0
		:: todo & 8 -> next = 8; c = 1
		fi;
		todo = todo & ~next;
#ifdef ONE_LOCK_AT_A_TIME
		lock(c);
#endif
		if
		:: next < 4 -> sending[c] = sending[c] | 1 << me
		:: else -> receiving[c] = receiving[c] | 1 << me
		fi;
		serve(c);
#ifdef ONE_LOCK_AT_A_TIME
		unlock(c)
#endif
	od;
	next = 0;
	todo = 0;
	c = 0
}

proctype selector(byte me) {
	byte c, n, m, r, s, todo, next;
	bit ok, served;
#ifdef ONE_LOCK_AT_A_TIME
	link_and_serve();
	parked[me] = !granted[me];
	check_lines();
#else
	lock_all();
	link_and_serve();
	if
	:: granted[me] -> unlink_from(0); unlink_from(1)
	:: else -> parked[me] = 1
	fi;
	check_lines();
	unlock_all();
#endif
	if
	:: granted[me] -> parked[me] = 0
	:: !granted[me] -> /* it gives up, by a time-out, a signal or a cancellation */
		parked[me] = 0;
#ifdef LOOKS_BEFORE_IT_LEAVES
		served = granted[me];
		withdraw();
#else
		withdraw();
		served = granted[me];
#endif
		assert(served == granted[me] && served == claimed[me])
	fi;
	if
	:: granted[me] -> withdraw()
	:: else
	fi;
	done++
}

init {
	atomic {
		sends[0] = SENDS_0;
		receives[0] = RECEIVES_0;
		sends[1] = SENDS_1;
		receives[1] = RECEIVES_1;
		sends[2] = SENDS_2;
		receives[2] = RECEIVES_2;
		run selector(0);
		run selector(1);
		run selector(2)
	};
	done == S;
	assert(sent == received && sending[0] + sending[1] + receiving[0] + receiving[1] == 0);
	assert(granted[0] + granted[1] + granted[2] == sent + received)
}
