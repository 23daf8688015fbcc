/*
 * Reading the index without a lock, beside Put, Delete and a table that is replaced. index.go has the
 * argument; README.md says how to read this.
 *
 * All ids are of one shard and have one tag: only the record says whose a slot is. A slot holds the
 * number of its id plus one, 0 is empty. A table has room for one slot more than there are ids.
 */
#define IDS 3
#define SLOTS 5
#ifndef WRITES
#define WRITES 3
#endif
#ifndef READERS
#define READERS 1
#endif
#ifndef ATTEMPTS
#define ATTEMPTS 2         /* missAttempts */
#endif
#define HOME(w) ((w) == IDS -> 1 : 0)   /* where the search for a slot begins */
#define DISTANCE(a, b) (((b) + SLOTS - (a)) % SLOTS)
#define AT(t, pos) cell[(t) * SLOTS + (pos)]

byte cell[2 * SLOTS];      /* two tables: the second one replaces the first */
bool mapped[2];
byte current;              /* shard.table */
bool replaced;             /* the first table waits to be unmapped */
byte shifts;
bool shardMu;
byte readers;              /* contentMu; who holds it for writing does so in one step */

bool present[IDS];         /* the specification */
byte rid[READERS];         /* what each reader looks up, IDS for nothing */
byte may[READERS];         /* 1: absent, 2: present at some moment of the read; 3: both */
byte finished;

inline becomes(id, is) {
	present[id] = is;
	for (r : 0 .. READERS - 1) {
		if :: rid[r] == id -> may[r] = may[r] | (is -> 2 : 1) :: else fi
	}
	r = 0
}

/* [table.first] by a writer, who is the only one to change positions */
inline search(id) {
	pos = HOME(id + 1);
	do
	:: AT(current, pos) != 0 && AT(current, pos) != id + 1 -> pos = (pos + 1) % SLOTS
	:: else -> break
	od
}

/* Holds the lane's lock throughout. */
proctype Writer() {
	byte k, id, pos, nextp, r;
	do
	:: k < WRITES ->
		atomic { k++; if :: id = 0 :: id = 1 :: id = 2 fi };
		if
		:: !present[id] ->                                          /* [pointTo] */
			atomic { !shardMu -> shardMu = true; search(id) };
			d_step { AT(current, pos) = id + 1; becomes(id, true); shardMu = false }
		:: present[id] ->                                           /* [removeSlot] */
			atomic { !shardMu -> shardMu = true; search(id); nextp = (pos + 1) % SLOTS;
#ifndef SHIFTS_ONCE
				shifts++
#endif
			};
			/* [table.remove] each store is a step. The id is gone with the first one to its place. */
			do
			:: AT(current, nextp) != 0 ->
				if
				:: DISTANCE(HOME(AT(current, nextp)), nextp) >= DISTANCE(pos, nextp) ->
					d_step { AT(current, pos) = AT(current, nextp);
						if :: present[id] -> becomes(id, false) :: else fi; pos = nextp }
				:: else
				fi;
				nextp = (nextp + 1) % SLOTS
			:: else -> break
			od;
			skip;
			d_step { AT(current, pos) = 0; if :: present[id] -> becomes(id, false) :: else fi };
			d_step { shifts++; shardMu = false }
		:: current == 0 ->                                          /* [prepare, moveLocked] */
			atomic { !shardMu -> shardMu = true; mapped[1] = true;
				for (id : 0 .. IDS - 1) {                           /* in another order */
					if
					:: present[IDS - 1 - id] ->
						pos = HOME(IDS - id);
						do :: AT(1, pos) != 0 -> pos = (pos + 1) % SLOTS :: else -> break od;
						AT(1, pos) = IDS - id
					:: else
					fi } id = 0 };
			d_step { current = 1; shardMu = false; replaced = true }
		fi;
		if
		:: replaced ->                                              /* [trimReplaced, releaseReplaced] */
#ifdef RELEASED_AT_ONCE
			d_step { replaced = false; mapped[0] = false }
#else
			atomic { readers == 0 -> replaced = false; mapped[0] = false }
#endif
		:: skip
		fi;
		skip;
		d_step { pos = 0; nextp = 0; id = 0 }
	:: else -> break
	od;
	finished++
}

/* [probe] hit and w tell how it ended */
inline probe() {
	d_step { t = current; pos = HOME(id + 1); n = 0 };
	do
	:: d_step { assert(mapped[t]); w = AT(t, pos); pos = (pos + 1) % SLOTS; n++ };
		if :: w == 0 || w == id + 1 -> break :: else fi;
		assert(n <= 2 * SLOTS)                                      /* it ends */
	od
}

/* [find] */
proctype Reader(byte me) {
	byte id, t, pos, n, w, before, attempt;
	bool sure;
	atomic { readers++; if :: id = 0 :: id = 1 :: id = 2 fi; rid[me] = id; may[me] = (present[id] -> 2 : 1) };
	do
	:: attempt < ATTEMPTS ->
		before = shifts;
		probe();
		attempt++;
#ifdef MISS_BELIEVED
		sure = true;
#else
		d_step { sure = (w != 0 || before % 2 == 0 && shifts == before) };
#endif
		if :: sure -> break :: else fi
	:: else -> break
	od;
	if
	:: !sure ->
		atomic { !shardMu -> shardMu = true };
		probe();
		shardMu = false
	:: else
	fi;
	skip;
	d_step { assert(w != 0 -> (may[me] & 2) : (may[me] & 1)); rid[me] = IDS; may[me] = 0; readers--;
		t = 0; pos = 0; n = 0; w = 0; before = 0; attempt = 0; sure = false; id = 0; finished++ }
}

/* I2: each id that is present has one slot in the table, and is found. */
proctype Monitor() {
	byte id, pos, count;
	finished == READERS + 1;
	d_step {
		for (id : 0 .. IDS - 1) {
			count = 0;
			for (pos : 0 .. SLOTS - 1) { if :: AT(current, pos) == id + 1 -> count++ :: else fi }
			assert(count == (present[id] -> 1 : 0));
			search(id);
			assert((AT(current, pos) != 0) == present[id])
		}
	}
}

init {
	byte n;
	atomic {
		for (n : 0 .. IDS - 1) { cell[n] = n + 1; present[n] = true }
		mapped[0] = true;
		for (n : 0 .. READERS - 1) { rid[n] = IDS }
		run Writer();
		n = 0; do :: n < READERS -> run Reader(n); n++ :: else -> break od;
		run Monitor()
	}
}
