/*
 * Reading the index without a lock, beside Put, Delete, a table that is replaced, and a round that
 * flips and drops. index.go has the argument; README.md says how to read this.
 *
 * All ids are of one shard and have one tag: only the record says whose a slot is. A slot holds the
 * number of its id plus one, 0 is empty; a location: 0 in the victim, where all begin, 1 in the
 * target, 2 and 3 where Puts write; and the bit of reads. A table has room for one slot more than
 * there are ids.
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
#ifndef MOVES
#define MOVES IDS          /* records of the victim that the round flips or drops; 0: none runs */
#endif
#define READ 16            /* readBit */
#define SLOT(id, loc) ((id) + 1 + ((loc) << 2))
#define ID(w) ((w) & 3)                 /* number of the id plus one */
#define LOCATION(w) (((w) >> 2) & 3)
#define HOME(w) (ID(w) == IDS -> 1 : 0) /* where the search for a slot begins */
#define DISTANCE(a, b) (((b) + SLOTS - (a)) % SLOTS)
#define AT(t, pos) cell[(t) * SLOTS + (pos)]

byte cell[2 * SLOTS];      /* two tables: the second one replaces the first */
bool mapped[2];
byte current;              /* shard.table */
bool replaced;             /* the first table waits to be unmapped */
byte shifts;
bool laneMu, shardMu;
byte moved;                /* records of the victim that were flipped or dropped, or found to be gone */
byte readers;              /* contentMu; who holds it for writing does so in one step */

bool present[IDS];         /* the specification */
byte place[IDS];           /* where the record of a present id is */
bool asked[IDS];           /* somebody has read the id */
byte rid[READERS];         /* what each reader looks up, IDS for nothing */
byte may[READERS];         /* 1: absent, 2: present at some moment of the read; 3: both */
byte finished;

inline becomes(x, is) {
	present[x] = is;
	for (r : 0 .. READERS - 1) {
		if :: rid[r] == x -> may[r] = may[r] | (is -> 2 : 1) :: else fi
	}
	r = 0
}

/* [table.first] by who holds the lane's lock, the only one to change positions, or the shard's */
inline search(x) {
	pos = HOME((x) + 1);
	do
	:: AT(current, pos) != 0 && ID(AT(current, pos)) != (x) + 1 -> pos = (pos + 1) % SLOTS
	:: else -> break
	od
}

/* [table.remove] each load and each store is a step: a reader may set the bit of a slot between the
   load that moves it and the store over it, and the bit is lost. The id is gone with the first store to
   its place. REQUIRES: search(id), both locks held, shifts odd; releases shardMu. */
inline remove(x) {
	do
	:: AT(current, nextp) != 0 ->
		if
		:: DISTANCE(HOME(AT(current, nextp)), nextp) >= DISTANCE(pos, nextp) ->
			w = AT(current, nextp);
			d_step { AT(current, pos) = w;
				if :: present[x] -> becomes(x, false) :: else fi; pos = nextp }
		:: else
		fi;
		nextp = (nextp + 1) % SLOTS
	:: else -> break
	od;
	skip;
	d_step { AT(current, pos) = 0; w = 0; if :: present[x] -> becomes(x, false) :: else fi };
	d_step { shifts++; shardMu = false }
}

/* Holds the lane's lock throughout an operation. */
proctype Writer() {
	byte k, id, pos, nextp, r, w;
	do
	:: k < WRITES ->
		atomic { !laneMu -> laneMu = true; k++; if :: id = 0 :: id = 1 :: id = 2 fi };
		if
		:: !present[id] ->                                          /* [pointTo] */
			atomic { !shardMu -> shardMu = true; search(id) };
			d_step { AT(current, pos) = SLOT(id, 2); place[id] = 2; becomes(id, true); shardMu = false }
		:: present[id] ->                                           /* [pointTo], over an old record */
			atomic { !shardMu -> shardMu = true; search(id) };
			d_step { place[id] = (place[id] == 2 -> 3 : 2); AT(current, pos) = SLOT(id, place[id]);
				shardMu = false }
		:: present[id] ->                                           /* [removeSlot] */
			atomic { !shardMu -> shardMu = true; search(id); nextp = (pos + 1) % SLOTS;
#ifndef SHIFTS_ONCE
				shifts++
#endif
			};
			remove(id)
		:: current == 0 ->                                          /* [prepare, moveLocked] */
			atomic { !shardMu -> shardMu = true; mapped[1] = true;
				for (id : 0 .. IDS - 1) {                           /* in another order */
					if
					:: present[IDS - 1 - id] ->
						search(IDS - 1 - id); w = AT(0, pos);
						pos = HOME(IDS - id);
						do :: AT(1, pos) != 0 -> pos = (pos + 1) % SLOTS :: else -> break od;
						AT(1, pos) = w
					:: else
					fi } id = 0; w = 0 };
			d_step { current = 1; shardMu = false; replaced = true }
		fi;
		laneMu = false;
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

#ifdef FLIP_UNMASKED
#define IS_OLD(w) ((w) == SLOT(id, 0))
#else
#define IS_OLD(w) (((w) & ~READ) == SLOT(id, 0))
#endif

/* What a round does to the slots of the victim's records: some are flipped, some dropped. */
proctype Round() {
	byte id, pos, nextp, r, w;
	do
	:: id < MOVES ->
		if
		:: atomic { !shardMu -> shardMu = true; search(id) };       /* [flip] */
			w = AT(current, pos);
			if
			:: IS_OLD(w) ->
				d_step { AT(current, pos) = SLOT(id, 1) | (w & READ); place[id] = 1 }
			:: else
			fi;
			d_step { w = 0; shardMu = false }
		:: atomic { !laneMu -> laneMu = true };                     /* [drop] */
			atomic { !shardMu -> shardMu = true; search(id); nextp = (pos + 1) % SLOTS };
			if
			:: IS_OLD(AT(current, pos)) -> shifts++; remove(id)
			:: else -> shardMu = false
			fi;
			laneMu = false
		fi;
		skip;
		d_step { pos = 0; nextp = 0; moved++; id++ }
	:: else -> break
	od;
	finished++
}

/* [probe] hit and w tell how it ended */
inline probe() {
	d_step { t = current; pos = HOME(id + 1); n = 0 };
	do
	:: d_step { assert(mapped[t]); w = AT(t, pos); pos = (pos + 1) % SLOTS; n++ };
		if :: w == 0 || ID(w) == id + 1 -> break :: else fi;
		assert(n <= 2 * SLOTS)                                      /* it ends */
	od
}

/* [find] */
proctype Reader(byte me) {
	byte id, t, pos, n, w, before, attempt;
	bool sure;
	atomic { readers++; if :: id = 0 :: id = 1 :: id = 2 fi; rid[me] = id; asked[id] = true; may[me] = (present[id] -> 2 : 1) };
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
	d_step { assert(w != 0 -> (may[me] & 2) : (may[me] & 1)); rid[me] = IDS; may[me] = 0;
		before = 0; attempt = 0; sure = false; n = 0; pos = (pos + SLOTS - 1) % SLOTS };
#ifdef MARKED_LATE
	readers--;
#endif
	if
	:: w != 0 && !(w & READ) ->                                     /* [markRead] */
		d_step { assert(mapped[t]);
#ifdef BIT_STORED
			AT(t, pos) = w | READ
#else
#ifdef BIT_BY_PLACE
			if :: AT(t, pos) != 0 -> AT(t, pos) = AT(t, pos) | READ :: else fi
#else
			if :: AT(t, pos) == w -> AT(t, pos) = w | READ :: else fi
#endif
#endif
		}
	:: else
	fi;
	skip;
	d_step {
#ifndef MARKED_LATE
		readers--;
#endif
		t = 0; pos = 0; w = 0; id = 0; finished++ }
}

/* I2: each id that is present has one slot in the table, and is found; the slot leads to its record. No
   slot names the victim, and none has the bit of reads whose id nobody has read. */
proctype Monitor() {
	byte id, pos, count;
	finished == READERS + 2;
	d_step {
		for (id : 0 .. IDS - 1) {
			count = 0;
			for (pos : 0 .. SLOTS - 1) { if :: ID(AT(current, pos)) == id + 1 -> count++ :: else fi }
			assert(count == (present[id] -> 1 : 0));
			search(id);
			assert((AT(current, pos) != 0) == present[id]);
			if
			:: present[id] ->
				assert(LOCATION(AT(current, pos)) == place[id]);
				assert(place[id] != 0 || id >= moved);
				assert(!(AT(current, pos) & READ) || asked[id])
			:: else
			fi
		}
	}
}

init {
	byte n;
	atomic {
		for (n : 0 .. IDS - 1) { cell[n] = SLOT(n, 0); present[n] = true }
		mapped[0] = true;
		for (n : 0 .. READERS - 1) { rid[n] = IDS }
		run Writer();
		run Round();
		n = 0; do :: n < READERS -> run Reader(n); n++ :: else -> break od;
		run Monitor()
	}
}
