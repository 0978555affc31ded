/* barrier.pml: core/barrier.c: when a round ends, how, and who learns of it.
 *
 * N threads arrive TURNS times each at a barrier for PARTIES. What is under the queue's lock is one
 * step here; how a waiter sleeps and is woken is in grant.pml. Time is left out: with TIMEOUTS any
 * wait may time out at any moment, and with LEAVES it may instead be interrupted or cancelled.
 *
 * ACTS: the last to arrive runs an action. FAILS: an action may fail.
 * ABORTS, RESETS: another thread aborts or resets the barrier once, at any moment.
 *
 * Properties
 *   all or none     of each round either as many threads pass as there are parties, less those that
 *                   left when all had arrived, or none does (assert)
 *   no way back     once all have arrived, they pass, unless the action fails, or another thread
 *                   aborts or resets the barrier (assert)
 *   the action      runs once in a round, and before any thread passes (assert)
 *   none is left    a waiter that nobody will grant is an invalid end state
 *
 * The variants named in models.toml are broken on purpose and must fail.
 */
#ifndef N
#define N 2
#endif
#ifndef PARTIES
#define PARTIES 2
#endif
#ifndef TURNS
#define TURNS 1
#endif
#define NONE 255
#define ROUNDS 12 /* more than can end; the last one stands for none */

mtype = { OUT, IN_LINE, LATE, PASSED, BROKEN, AGAIN, LEADS };

mtype place[N]; /* OUT, or IN_LINE or LATE while in the queue, else the outcome that was granted */
byte round_of[N]; /* in which round it arrived */
byte round; /* the round under way */
byte arrived, leader = NONE;
bit broken, complete[ROUNDS]; /* complete: all have arrived */
byte passed[ROUNDS], failed[ROUNDS], left[ROUNDS], acted[ROUNDS];
byte done;

/* Grants all waiters. The next round begins. */
inline end_round(outcome) {
#ifndef KEEPS_ARRIVED
	arrived = 0;
#endif
	leader = NONE;
	round++;
	k = 0;
	do
	:: k < N ->
		if
		:: place[k] == IN_LINE -> place[k] = outcome
#ifdef LETS_LATECOMERS_PASS
		:: place[k] == LATE -> round_of[k] = round - 1; place[k] = outcome
#elif !defined(FORGETS_LATECOMERS)
		:: place[k] == LATE -> place[k] = AGAIN
#endif
		:: else
		fi;
		k++
	:: else -> break
	od;
	k = 0
}

inline break_round() {
	broken = 1;
	end_round(BROKEN)
}

inline arrive() {
	if
	:: broken -> round_of[me] = ROUNDS - 1; place[me] = BROKEN
	:: !broken && leader != NONE -> round_of[me] = ROUNDS - 1; place[me] = LATE
	:: else ->
		round_of[me] = round;
		place[me] = IN_LINE;
		arrived++;
		complete[round] = (arrived == PARTIES);
		if
#ifdef ACTS
#ifdef ENDS_BEFORE_THE_ACTION
		:: arrived == PARTIES -> end_round(PASSED); place[me] = LEADS
#else
		:: arrived == PARTIES -> leader = me; place[me] = LEADS
#endif
#else
		:: arrived == PARTIES -> end_round(PASSED)
#endif
		:: else
		fi
	fi
}

/* ns_barrier_finish: of the leader. Its outcome is in place[me]. */
inline finish(succeeded) {
	if
#ifdef FINISHES_BLINDLY
	:: succeeded ->
#else
	:: leader == me && succeeded ->
#endif
		end_round(PASSED);
		place[me] = PASSED
	:: leader == me && !succeeded ->
#ifndef FAILS_IN_SILENCE
		break_round();
#endif
		place[me] = BROKEN
	:: else -> place[me] = BROKEN
	fi
}

/* ns_barrier_give_up: `waits_on` if a wait that timed out goes on. */
inline give_up(timed_out) {
	if
	:: place[me] != IN_LINE && place[me] != LATE -> skip /* it was granted meanwhile */
	:: timed_out && leader != NONE && (place[me] == IN_LINE || place[me] == LATE) -> waits_on = 1
	:: else ->
		if
		:: place[me] == LATE -> place[me] = OUT
#ifndef BREAKS_A_ROUND_THAT_IS_FULL
		:: place[me] == IN_LINE && leader != NONE -> place[me] = OUT; left[round_of[me]]++
#endif
		:: else ->
			place[me] = OUT;
			failed[round_of[me]]++;
#ifndef GIVES_UP_IN_SILENCE
			break_round()
#endif
		fi
	fi
}

inline count() {
	if
	:: place[me] == PASSED ->
		passed[round_of[me]]++;
#ifdef ACTS
		assert(acted[round_of[me]] == 1);
#endif
		assert(passed[round_of[me]] + left[round_of[me]] <= PARTIES)
	:: place[me] == BROKEN -> failed[round_of[me]]++
	:: else
	fi;
	place[me] = OUT;
	round_of[me] = 0
}

proctype thread(byte me) {
	byte turns, k;
	bit waits_on;
	do
	:: turns == TURNS -> break
	:: else ->
		turns++;
again:		atomic { arrive() };
		do
		:: atomic { place[me] == PASSED || place[me] == BROKEN -> count(); waits_on = 0 }; break
		:: atomic { place[me] == AGAIN -> place[me] = OUT; waits_on = 0 }; goto again
		:: place[me] == LEADS ->
			atomic { acted[round_of[me]]++; assert(acted[round_of[me]] == 1) };
			if
			:: true -> atomic { finish(1) }
#ifdef FAILS
			:: true -> atomic { finish(0) }
#endif
			fi
#ifdef TIMEOUTS
		:: !waits_on && (place[me] == IN_LINE || place[me] == LATE) ->
			atomic { give_up(1) };
			if
			:: place[me] == OUT -> break
			:: else
			fi
#endif
#ifdef LEAVES
		:: place[me] == IN_LINE || place[me] == LATE ->
			atomic { give_up(0) };
			if
			:: place[me] == OUT -> break
			:: else
			fi
#endif
		od
	od;
	done++
}

#if defined(ABORTS) || defined(RESETS)
proctype other() {
	byte k;
	atomic {
#ifdef ABORTS
		broken = 1;
#else
		broken = 0;
#endif
		end_round(BROKEN)
	}
}
#endif

init {
	byte n;
	atomic {
		do
		:: n < N -> place[n] = OUT; n++
		:: else -> break
		od;
		n = 0;
		do
		:: n < N -> run thread(n); n++
		:: else -> break
		od;
#if defined(ABORTS) || defined(RESETS)
		run other();
#endif
		n = 0
	};
	done == N;
	do
	:: n < ROUNDS - 1 ->
		assert(passed[n] == 0 || (failed[n] == 0 && passed[n] + left[n] == PARTIES));
#if !defined(FAILS) && !defined(ABORTS) && !defined(RESETS)
		assert(!complete[n] || failed[n] == 0);
#endif
		n++
	:: else -> break
	od
}
