/* rwmutex.pml: the protocol of core/rwmutex.c: words that writers close, holds that are counted,
 * phases.
 *
 * One step here is one atomic step there. What is under the queue's lock is several steps, since
 * fast paths run beside it. How a waiter sleeps is in grant.pml. One thread of each kind may give
 * up waiting, once.
 *
 * Readers use the base word or, while `spread` is set, cells. They read `spread` first, and act on
 * what they saw. A reader that comes by the slow path may begin to use the cells, or make its own,
 * at any time: how many meetings that takes does not matter here. A writer that gets in ends their
 * use.
 *
 * BASE: no reader ever uses a cell. SPREAD: at the start all readers have cells and use them.
 *
 * Properties
 *   exclusion        no thread is inside beside a writer (assert)
 *   phases           at most one writer passes a waiting reader (assert)
 *   no lost wake-up  a waiter that nobody will serve is an invalid end state
 *   counts           a release finds its hold; at the end nothing is held and nobody waits (assert)
 */
#ifndef READERS
#define READERS 2
#endif
#ifndef WRITERS
#define WRITERS 1
#endif
#ifndef TURNS
#define TURNS 1
#endif
#define N (READERS + WRITERS)
#define CELLS 2
#define NONE 255

/* The base word. */
byte count;
bit is_open, writer, slow;

byte cell[CELLS];
bit cell_open[CELLS];
bit has_cell[CELLS];
bit spread;

/* Under the queue's lock. */
bit queue_held;
byte line[WRITERS], length;         /* waiting writers */
byte readers_line[READERS], readers_length;
byte granted, readers;
bit closed;

bit served[N];
byte passed[N];
byte reading, writing, done;

inline lock_queue() { atomic { !queue_held -> queue_held = 1 } }
inline unlock_queue() { queue_held = 0 }

inline lock() {
	lock_queue();
#ifdef FREEZES_NOT
	skip
#else
	atomic { is_open = 0; slow = 1 }
#endif
}

inline close_cells() {
	if
	:: !closed ->
		readers = count + granted;
		k = 0;
		do
		:: k < CELLS && (!spread || !has_cell[k]) -> k++
		:: k < CELLS && spread && has_cell[k] ->
#ifdef NEVER_CLOSES
			readers = readers + cell[k];
#elif defined(COUNTS_THEN_CLOSES)
			readers = readers + cell[k];
			cell_open[k] = 0;
#else
			atomic { readers = readers + cell[k]; cell_open[k] = 0 };
#endif
			k++
		:: k == CELLS -> break
		od;
		k = 0;
		closed = 1
	:: else
	fi
}

inline thaw() {
	atomic { old_count = count; old_writer = writer };
#ifdef OPENS_BEHIND_A_QUEUE
	nobody = 1;
#else
	nobody = (length == 0 && readers_length == 0);
#endif
	new_slow = !(nobody && granted == 0);
	new_open = 0;
	if
	:: !new_slow && !spread -> closed = 0
	:: else
	fi;
	if
#ifdef OPENS_BESIDE_A_WRITER
	:: nobody ->
#else
	:: nobody && !old_writer ->
#endif
		k = 0;
		do
		:: spread && closed && k < CELLS && has_cell[k] -> cell_open[k] = 1; k++
		:: spread && closed && k < CELLS && !has_cell[k] -> k++
		:: else -> break
		od;
		k = 0;
		new_open = !spread;
		closed = 0
	:: else
	fi;
	atomic { count = old_count; writer = old_writer; slow = new_slow; is_open = new_open;
		old_count = 0; old_writer = 0; new_slow = 0; new_open = 0; nobody = 0 }
}

inline remove_writer(who) {
	d_step {
		k = 0;
		do
		:: k < length && line[k] != who -> k++
		:: else -> break
		od;
		do
		:: k + 1 < length -> line[k] = line[k + 1]; k++
		:: else -> break
		od;
		length--;
		line[length] = 0;
		k = 0
	}
}

inline remove_from_readers(who) {
	d_step {
		k = 0;
		do
		:: k < readers_length && readers_line[k] != who -> k++
		:: else -> break
		od;
		do
		:: k + 1 < readers_length -> readers_line[k] = readers_line[k + 1]; k++
		:: else -> break
		od;
		readers_length--;
		readers_line[readers_length] = 0;
		k = 0
	}
}

inline admit_readers() {
	do
	:: readers_length > 0 ->
		granted++;
		readers++;
		who = readers_line[0];
		remove_from_readers(who);
		passed[who] = 0;
		served[who] = 1;
		who = 0
	:: else -> break
	od
}

/* A writer gets in. The cells are closed and empty, and go out of use. No waiting reader may be
 * passed twice. */
inline admit_writer() {
	writer = 1;
#ifndef KEEPS_CELLS
	spread = 0;
#endif
	d_step {
		k = 0;
		do
		:: k < readers_length ->
			passed[readers_line[k]]++;
			assert(passed[readers_line[k]] <= 1);
			k++
		:: else -> break
		od;
		k = 0
	}
}

inline serve_and_unlock() {
#ifndef SERVES_NOBODY
	if
	:: !writer && length == 0 -> admit_readers()
	:: !writer && length > 0 ->
		close_cells();
		if
		:: readers == 0 ->
			admit_writer();
			who = line[0];
			remove_writer(who);
			served[who] = 1;
			who = 0
		:: else
		fi
	:: else
	fi;
#endif
	thaw();
	unlock_queue()
}

/* A reader has a cell, and readers use the cells from now on. */
inline begin_use() {
	has_cell[mine] = 1;
	if
	:: !spread -> close_cells(); spread = 1
	:: spread && !closed -> cell_open[mine] = 1
	:: else
	fi
}

proctype reader(byte me; byte mine) {
	byte turns, k, who, old_count;
	bit seen, old_writer, nobody, new_slow, new_open, ok, may_leave = (me == 0);
	do
	:: turns == TURNS -> break
	:: else ->
		turns++;
		seen = spread;
		if
		:: atomic { !seen && is_open -> count++; goto got }
		:: atomic { seen && cell_open[mine] -> cell[mine]++; goto got }
		:: !seen && !is_open
		:: seen && !cell_open[mine]
		fi;
		lock(); /* tries once more */
		ok = (!writer && length == 0);
#ifdef SPREADS_BESIDE_A_WRITER
		if
		:: !ok -> begin_use()
		:: else
		fi;
#endif
		if
		:: ok ->
#ifndef BASE
			if
			:: begin_use()
			:: skip
			fi;
#endif
			if
			:: spread && has_cell[mine] -> cell[mine]++
			:: else -> count++
			fi;
			readers++
		:: else
		fi;
		if
		:: !closed -> readers = 0 /* it counts only while the cells are closed */
		:: else
		fi;
		serve_and_unlock();
		if
		:: ok -> ok = 0; goto got
		:: else
		fi;
		lock(); /* lines up */
		readers_line[readers_length] = me;
		readers_length++;
		serve_and_unlock();
		if
		:: served[me]
		:: may_leave ->
			may_leave = 0;
			lock();
			ok = served[me];
			if
			:: !ok -> remove_from_readers(me); passed[me] = 0
			:: else
			fi;
			serve_and_unlock();
			if
			:: !ok -> goto gave_up
			:: else -> ok = 0
			fi
		fi;
		served[me] = 0;
got:		atomic { reading++; assert(writing == 0) };
		reading--;
		seen = spread;
		if
		:: atomic { !seen && is_open && count > 0 -> count--; goto gave_up }
		:: atomic { seen && cell_open[mine] && cell[mine] > 0 -> cell[mine]--; goto gave_up }
		:: !seen && !(is_open && count > 0)
		:: seen && !(cell_open[mine] && cell[mine] > 0)
		fi;
		lock();
		ok = 0;
		atomic {
			if
			:: spread && cell[mine] > 0 -> cell[mine]--; ok = 1
			:: else
			fi
		};
		if
		:: !ok && granted > 0 -> granted--; ok = 1
		:: !ok && granted == 0 && count > 0 -> count--; ok = 1
		:: else
		fi;
		if
		:: !ok ->
			close_cells();
			k = 0;
			do
			:: spread && k < CELLS && !ok ->
				if
				:: cell[k] > 0 -> cell[k]--; ok = 1
				:: else
				fi;
				k++
			:: else -> break
			od;
			k = 0
		:: else
		fi;
		assert(ok);
		readers = readers - ok; /* it counts only while the cells are closed */
		ok = 0;
		if
		:: !closed -> readers = 0
		:: else
		fi;
		serve_and_unlock();
gave_up:	ok = 0
	od;
	done++
}

proctype writer_thread(byte me) {
	byte turns, k, who, old_count;
	bit old_writer, nobody, new_slow, new_open, ok, may_leave = (me == READERS && WRITERS > 1);
	do
	:: turns == TURNS -> break
	:: else ->
		turns++;
		if
		:: atomic { is_open && !slow && !writer && count == 0 -> writer = 1; is_open = 0; goto got }
		:: !(is_open && !slow && !writer && count == 0)
		fi;
		lock();
		ok = (!writer && length == 0);
		if
		:: ok -> close_cells(); ok = (readers == 0)
#ifdef ENDS_USE_TOO_EARLY
		; spread = 0
#endif
		:: else
		fi;
		if
		:: ok -> admit_writer()
		:: else
		fi;
		serve_and_unlock();
		if
		:: ok -> ok = 0; goto got
		:: else
		fi;
		lock();
		line[length] = me;
		length++;
		serve_and_unlock();
		if
		:: served[me]
		:: may_leave ->
			may_leave = 0;
			lock();
			ok = served[me];
			if
			:: !ok -> remove_writer(me)
			:: else
			fi;
			serve_and_unlock();
			if
			:: !ok -> goto gave_up
			:: else -> ok = 0
			fi
		fi;
		served[me] = 0;
got:		atomic { writing++; assert(writing == 1 && reading == 0) };
		writing--;
		if
#ifdef RELEASE_OVERLOOKS_SLOW
		:: atomic { writer -> writer = 0; is_open = 1; goto gave_up }
#else
		:: atomic { writer && !slow && !is_open && count == 0 -> writer = 0; is_open = 1; goto gave_up }
#endif
		:: slow
		fi;
		lock();
		assert(writer);
		writer = 0;
#ifndef ADMITS_NOBODY
		admit_readers();
#endif
		serve_and_unlock();
gave_up:	ok = 0
	od;
	done++
}

init {
	byte n;
	atomic {
#ifdef SPREAD
		spread = 1;
		do
		:: n < CELLS -> has_cell[n] = 1; cell_open[n] = 1; n++
		:: else -> n = 0; break
		od;
#else
		is_open = 1;
#endif
		do
		:: n < READERS -> run reader(n, n % CELLS); n++
		:: n >= READERS && n < N -> run writer_thread(n); n++
		:: else -> break
		od
	};
	done == N;
	assert(!writer && count == 0 && granted == 0 && cell[0] == 0 && cell[1] == 0);
	assert(length == 0 && readers_length == 0)
}
