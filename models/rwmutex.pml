/* rwmutex.pml: the protocol of core/rwmutex.c: cells that writers close, holds that are counted, phases.
 *
 * One step here is one atomic step there; what is under the queue's lock is several steps, since fast paths run on
 * beside it. How a waiter sleeps is grant.pml's matter. One thread of each kind
 * may give up waiting, once.
 *
 * BASE: the lock is one word (no two readers ever met). Otherwise readers use two cells.
 *
 * Properties
 *   exclusion        no writer beside anybody (assert)
 *   phases           a reader in line is passed by one writer at most (assert)
 *   no lost wake-up  somebody in line whom nobody will serve is an invalid end state
 *   counts           a release finds its hold; nothing is held and nobody is in line at the end (assert)
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
#ifndef BASE
		k = 0;
		do
		:: k < CELLS ->
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
#endif
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
#ifdef BASE
	if
	:: !new_slow -> closed = 0
	:: else
	fi;
#endif
	if
#ifdef OPENS_BESIDE_A_WRITER
	:: nobody ->
#else
	:: nobody && !old_writer ->
#endif
#ifdef BASE
		new_open = 1;
#else
		k = 0;
		do
		:: closed && k < CELLS -> cell_open[k] = 1; k++
		:: else -> break
		od;
		k = 0;
#endif
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

/* A writer gets in: who is in line must not be passed twice. */
inline pass() {
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
			writer = 1;
			pass();
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

proctype reader(byte me; byte mine) {
	byte turns, k, who, old_count;
	bit old_writer, nobody, new_slow, new_open, ok, may_leave = (me == 0);
	do
	:: turns == TURNS -> break
	:: else ->
		turns++;
#ifdef BASE
		if
		:: atomic { is_open && !slow && !writer && count == 0 -> count = 1; goto got }
		:: !(is_open && !slow && !writer && count == 0)
		fi;
#else
		if
		:: atomic { cell_open[mine] -> cell[mine]++; goto got }
		:: !cell_open[mine]
		fi;
#endif
		lock(); /* try once more */
		ok = (!writer && length == 0);
		if
		:: ok ->
#ifdef BASE
			if
			:: closed || count != 0 -> granted++; readers++
			:: else -> count++
			fi
#else
			if
			:: closed -> granted++; readers++
			:: else -> cell[mine]++
			fi
#endif
		:: else
		fi;
		serve_and_unlock();
		if
		:: ok -> ok = 0; goto got
		:: else
		fi;
		lock(); /* line up */
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
#ifdef BASE
		if
		:: atomic { is_open && !slow && !writer && count == 1 -> count = 0; goto gave_up }
		:: !(is_open && !slow && !writer && count == 1)
		fi;
#else
		if
		:: atomic { cell_open[mine] && cell[mine] > 0 -> cell[mine]--; goto gave_up }
		:: !(cell_open[mine] && cell[mine] > 0)
		fi;
#endif
		lock();
		ok = 0;
#ifndef BASE
		atomic {
			if
			:: cell[mine] > 0 -> cell[mine]--; ok = 1
			:: else
			fi
		};
#endif
		if
		:: !ok && granted > 0 -> granted--; ok = 1
		:: !ok && granted == 0 && count > 0 -> count--; ok = 1
		:: else
		fi;
#ifndef BASE
		if
		:: !ok ->
			close_cells();
			k = 0;
			do
			:: k < CELLS && !ok ->
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
#endif
		assert(ok);
		readers = readers - ok; /* which counts while it is closed only */
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
#ifdef BASE
		if
		:: atomic { is_open && !slow && !writer && count == 0 -> writer = 1; is_open = 0; goto got }
		:: !(is_open && !slow && !writer && count == 0)
		fi;
#endif
		lock();
		ok = (!writer && length == 0);
		if
		:: ok -> close_cells(); ok = (readers == 0)
		:: else
		fi;
		if
		:: ok -> writer = 1; pass()
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
#ifdef BASE
		if
#ifdef RELEASE_OVERLOOKS_SLOW
		:: atomic { writer -> writer = 0; is_open = 1; goto gave_up }
#else
		:: atomic { writer && !slow && !is_open && count == 0 -> writer = 0; is_open = 1; goto gave_up }
#endif
		:: slow
		fi;
#endif
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
#ifdef BASE
		is_open = 1;
#else
		slow = 0;
		do
		:: n < CELLS -> cell_open[n] = 1; n++
		:: else -> n = 0; break
		od;
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
