/*
 * The compaction protocol in memory: Get, View, Put, a large Put, Delete, and a compaction of several
 * rounds beside them, which with DROPS drops any of the memories that it could copy. README.md says how to read this, and what is left out.
 *
 * Names in [brackets] are the Go functions that a step models. One define, -DNAME, puts one mistake
 * into it; README.md lists them, and the script `check` demands that Spin refutes each.
 *
 * A location is (number of a segment, offset): LOC(n, off), 0 is "no slot". Each id has a shard of its
 * own; all share one lane. A record is one byte, its version, and versions are never given twice.
 */

#ifndef IDS
#define IDS 2      /* ids, and shards */
#endif
#ifndef WRITERS
#define WRITERS 1  /* goroutines that put and delete; the second one deletes only */
#endif
#ifndef WRITES
#define WRITES 1   /* of each */
#endif
#ifndef READERS
#define READERS 1  /* goroutines that get or view */
#endif
#ifndef COMPACTIONS
#define COMPACTIONS 1
#endif
#define CAP 3      /* records in a segment */
#ifndef SEGS
#define SEGS 7     /* segments ever made, and mappings; 0 is none */
#endif
#define NUMS 6     /* entries of the segment table */

#define ACTIVE 0
#define SEALED 1
#define RETIRED 2

#define LOC(n, off) ((n) * CAP + (off) + 1)
#define NUM(loc) (((loc) - 1) / CAP)
#define OFF(loc) (((loc) - 1) % CAP)

/* The content buffer. A segment has an identity for life, a number while it may be in the table, and
 * memory, which may have been another segment's before. */
byte num[SEGS], mem[SEGS], tail[SEGS], live[SEGS], refs[SEGS], state[SEGS];
bool large[SEGS];
byte nseg = 1, nmem = 1;
byte table[NUMS];          /* segment at a number, 0 for none */
bool taken[NUMS];          /* numbers that are given away */
byte owner[SEGS];          /* segment that lives in a mapping; 0: unmapped, or waiting to be recycled */
byte reserve;              /* a mapping that a compaction has kept for lanes, 0 for none */
byte cell[SEGS * CAP];     /* the bytes of each mapping */

/* The index, the lane, the locks. */
byte slot[IDS];
byte lane;                 /* the active segment, 0 for none */
byte partial;              /* one that the last Close sealed with room left: lanes may resume it */
byte readers;              /* contentMu */
bool writing, waiting;     /* contentMu: held by a writer; a writer waits, and readers queue behind it */
bool laneMu, shardMu[IDS];
bool rolling;              /* lane.rolling */

/* What the specification remembers. */
byte nextv = 1;
byte cur[IDS];             /* version an id has, 0 for none */
byte may[READERS + 1];     /* bit v: version v was the id's at some moment of the read under way */
byte rid[READERS + 1];     /* which id, IDS when no read is under way */
bool touched[IDS];         /* written since the round began */
byte finished;             /* processes */

/* [contentLock, lockrank.Mutex] A waiting writer stops new readers; lock.pml takes the lock apart. */
#define RLOCK(x)   atomic { !writing && !waiting -> readers++; x }
#define RUNLOCK    readers--
#define LOCK       waiting = true; atomic { readers == 0 -> waiting = false; writing = true }
#define UNLOCK     writing = false
#define LANE_LOCK  atomic { !laneMu -> laneMu = true }
#define LANE_UNLOCK laneMu = false
#ifdef ROLL_UNLOCKED
#define ROLL_LOCK  skip
#else
#define ROLL_LOCK  atomic { !rolling -> rolling = true }
#endif
#define ROLL_UNLOCK rolling = false

/* The linearization point of a write, for the specification. */
inline becomes(id, v, r) {
	cur[id] = v; touched[id] = true;
	for (r : 0 .. READERS) {
		if :: rid[r] == id -> may[r] = may[r] | (1 << v) :: else fi
	}
	r = 0
}

/* [segmentTable.assign] */
inline assign(seg, n) {
	n = 0;
	do :: taken[n] -> n++ :: else -> break od;
	assert(n < NUMS);
	taken[n] = true; num[seg] = n; n = 0
}

/* [createSegment, newSegment] in fresh memory */
inline create(seg) {
	assert(nseg < SEGS && nmem < SEGS);
	seg = nseg; nseg++; mem[seg] = nmem; nmem++;
	owner[mem[seg]] = seg; refs[seg] = 1
}

/* [memory.make, segmentPool.take] for a lane: in memory of the reserve, or fresh. */
inline createForLane(seg) {
	if
	:: reserve != 0 -> assert(nseg < SEGS && owner[reserve] == 0);
		seg = nseg; nseg++; mem[seg] = reserve; reserve = 0;
		owner[mem[seg]] = seg; refs[seg] = 1
	:: else -> create(seg)
	fi
}

/* Bytes may only be touched while the mapping belongs to the segment. */
inline touch(seg) { assert(seg != 0 && owner[mem[seg]] == seg) }

/* [Store.roll] The segment is made with no lock held but rolling. That another writer may have rolled
 * in between is left out: of several writers only one puts. */
inline roll() {
	ROLL_LOCK;
	if
	:: d_step { partial != 0 -> seg = partial; partial = 0 }        /* [takePartial] */
	:: d_step { partial == 0 -> createForLane(seg); assign(seg, n) }   /* [createSegment] */
	fi;
	RLOCK(skip);                                                    /* [install, resume] */
	LANE_LOCK;
	d_step { table[num[seg]] = seg; state[seg] = ACTIVE;
		if :: lane != 0 -> state[lane] = SEALED :: else fi;
		lane = seg; seg = 0; LANE_UNLOCK; RUNLOCK };
	ROLL_UNLOCK
}

/* [Store.put, tryPut, putInLane] Where it is used there is the label write. */
inline put(id, isLarge) {
	RLOCK(skip);
	LANE_LOCK;
	if
	:: !isLarge && (lane == 0 || tail[lane] == CAP) ->              /* no room: [makeRoom] */
		d_step { LANE_UNLOCK; RUNLOCK };
		roll();
		goto write
	:: else
	fi;
	d_step { old = slot[id];                                        /* [probe] the position, I3 */
		if :: !isLarge -> seg = lane :: else fi };
#ifndef SLOT_FIRST
	d_step { touch(seg); v = nextv; nextv++; cell[mem[seg] * CAP + tail[seg]] = v };  /* [beginLocked, finishLocked] */
	d_step {
		tail[seg]++;
		if :: isLarge -> assign(seg, n); table[num[seg]] = seg :: else fi
#ifdef LARGE_EARLY
		; if :: isLarge -> state[seg] = SEALED :: else fi
#endif
	};
#else
	d_step { v = nextv; nextv++; tail[seg]++;
		if :: isLarge -> assign(seg, n); table[num[seg]] = seg :: else fi };
#endif
	/* [pointTo] under shard.mu; compaction may have moved the old record since the look-up. */
	atomic { !shardMu[id] -> shardMu[id] = true;
		assert((old != 0) == (slot[id] != 0));                      /* it is still at that position, I3 */
#ifndef STALE_DEAD
		old = slot[id];
#endif
		if :: old != 0 -> assert(table[NUM(old)] != 0 && live[table[NUM(old)]] > 0);
			live[table[NUM(old)]]--
		   :: else fi };
	d_step { live[seg]++; slot[id] = LOC(num[seg], tail[seg] - 1); becomes(id, v, n);
		shardMu[id] = false };
#ifdef SLOT_FIRST
	d_step { touch(seg); cell[mem[seg] * CAP + tail[seg] - 1] = v };
#endif
	if :: isLarge -> state[seg] = SEALED :: else fi;
	LANE_UNLOCK;
	d_step { RUNLOCK; old = 0; seg = 0; v = 0 }
}

/* [Store.remove] of a memory store: no tombstone. */
inline delete(id) {
#ifdef LANE_FIRST
	LANE_LOCK;
	RLOCK(skip);
#else
	RLOCK(skip);
	LANE_LOCK;
#endif
	old = slot[id];                                                 /* [probe] */
	if
	:: old == 0 -> skip
	:: else ->                                                      /* [removeSlot] */
		atomic { !shardMu[id] -> shardMu[id] = true;
#ifndef STALE_DEAD
			old = slot[id];
#endif
			assert(table[NUM(old)] != 0 && live[table[NUM(old)]] > 0);
			live[table[NUM(old)]]-- };
		d_step { slot[id] = 0; becomes(id, 0, n); shardMu[id] = false }
	fi;
	LANE_UNLOCK;
	d_step { RUNLOCK; old = 0 }
}

proctype Writer(bool puts) {
	byte k, id, old, seg, n, v; bool isLarge;
	do
	:: atomic { k < WRITES -> k++; if :: id = 0 :: id = IDS - 1 fi;
		if
		:: puts -> isLarge = false; goto write
		:: puts -> isLarge = true; d_step { create(seg); large[seg] = true }; goto write  /* [newFilledSegment] */
		:: skip
		fi };
		delete(id);
		goto next;
write:	skip;
		put(id, isLarge);
next:
		id = 0; isLarge = false
	:: else -> break
	od;
	finished++
}

/* What a read returned was the id's version at some moment between its locking and its end. */
inline end_read(r) { assert(may[r] & (1 << v)); rid[r] = IDS; may[r] = 0 }

/* [Store.Get, AppendContent] copy with contentMu read-held, [Store.Has] does not copy; [Store.View,
 * All; Get of a long content] read under a pin, with no lock held. */
proctype Reader(byte r) {
	byte id, loc, seg, v, again;
	RLOCK(if :: id = 0 :: id = IDS - 1 fi; rid[r] = id; may[r] = 1 << cur[id]);     /* [lookup] */
	loc = slot[id];                                                 /* [find] no lock: index.pml */
#ifdef NESTED_RLOCK
	RLOCK(skip);
	RUNLOCK;
#endif
	if
	:: loc == 0 -> d_step { v = 0; end_read(r); RUNLOCK }
	:: loc != 0 ->
		d_step { seg = table[NUM(loc)]; assert(seg != 0) };         /* [resolve] */
		d_step { touch(seg); v = cell[mem[seg] * CAP + OFF(loc)]; end_read(r); RUNLOCK }
	:: loc != 0 ->
		d_step { seg = table[NUM(loc)]; assert(seg != 0) };
#ifdef PIN_LATE
		RUNLOCK;
		d_step { assert(refs[seg] > 0); refs[seg]++ };
#else
		d_step { assert(refs[seg] > 0); refs[seg]++; RUNLOCK };     /* [segment.pin] */
#endif
		d_step { touch(seg); v = cell[mem[seg] * CAP + OFF(loc)]; end_read(r) };
		d_step { touch(seg); again = cell[mem[seg] * CAP + OFF(loc)]; assert(again == v) };
		d_step { refs[seg]--;                                       /* [Store.unpin] */
			if :: refs[seg] == 0 -> touch(seg); owner[mem[seg]] = 0 :: else fi }
	fi;
	d_step { id = 0; loc = 0; seg = 0; v = 0; again = 0; finished++ }
}

/* [compaction.swap] all segments with leaving[] set */
inline swap() {
#ifdef SWAP_UNLOCKED
	skip;
#else
	LOCK;
#endif
	d_step { for (i : 1 .. SEGS - 1) {                              /* [removeLocked] */
		if :: leaving[i] -> table[num[i]] = 0 :: else fi } i = 0 };
#ifndef SWAP_UNLOCKED
	UNLOCK;
#endif
	d_step { for (i : 1 .. SEGS - 1) {                              /* [segmentTable.reuse] */
		if :: leaving[i] -> taken[num[i]] = false :: else fi } i = 0 };
	i = 1;
	do
	:: i < SEGS ->
		d_step {
			if
			:: leaving[i] ->                                        /* [retire, recycle] */
				state[i] = RETIRED; refs[i]--; leaving[i] = false; victim[i] = false;
				if
#ifdef RECYCLE_PINNED
				:: true ->
#else
				:: refs[i] == 0 ->
#endif
					owner[mem[i]] = 0;
					if :: pool == 0 && !large[i] -> pool = mem[i] :: else fi
				:: else fi
			:: else fi;
			i++ }
	:: else -> i = 0; break
	od
}

/* [Store.flip] and [Store.unflip] of one staged move. Batches hold the shard's lock longer, which
 * leaves fewer orders than here. */
inline exchange(a, b) { live[table[NUM(a)]]--; live[table[NUM(b)]]++; slot[i] = b }

#define FAIL goto undo                      /* no memory for a target, damage, cancellation ... */

proctype Compactor() {
	byte i, n, round, pool, target, c;
	bool victim[SEGS], leaving[SEGS], published, filled, any, flipped[IDS];
	byte list[IDS], from[IDS], to[IDS], before[IDS], dropped[IDS];
compaction: skip;
	d_step { pool = reserve; reserve = 0 };                         /* [segmentPool.takeAll] */
	/* [sealLanes] */
#if !defined(PARTIAL_KEPT) && !defined(UNSEALED)
	partial = 0;                                                    /* [setPartial] */
#endif
	ROLL_LOCK;
	RLOCK(skip);
	LANE_LOCK;
#ifndef UNSEALED
	d_step { if :: lane != 0 -> state[lane] = SEALED; lane = 0 :: else fi };
#endif
	LANE_UNLOCK;
	RUNLOCK;
	ROLL_UNLOCK;
	/* [chooseVictims] all sealed ones; that some are left alone is policy, and less. */
	d_step { for (i : 0 .. NUMS - 1) {
		if
#ifdef UNSEALED
		:: table[i] != 0 && tail[table[i]] > 0 -> victim[table[i]] = true
#else
		:: table[i] != 0 && state[table[i]] == SEALED -> victim[table[i]] = true
#endif
		:: else fi } i = 0 };
	/* [walk] one shard after the other, beside writers */
	do
	:: i < IDS ->
		atomic { !shardMu[i] ->
			if :: slot[i] != 0 && victim[table[NUM(slot[i])]] -> list[i] = slot[i]
			   :: else fi; i++ }
	:: else -> i = 0; break
	od;
next: skip;
	d_step {                                                        /* [compaction.round] */
		target = 0; published = false; filled = false;
		for (i : 0 .. IDS - 1) { before[i] = slot[i]; touched[i] = false; from[i] = 0; to[i] = 0;
			flipped[i] = false } i = 0 };
	/* [build] Records have any size: after any of them the target may be full. */
	do
	:: i < IDS && list[i] != 0 && !filled ->
		if
		:: target != 0 -> filled = true
		:: FAIL
#ifdef DROPS
		:: d_step { dropped[i] = list[i]; list[i] = 0; i++ }        /* [stageDrops] */
#endif
		:: d_step {
			if
			:: target == 0 && pool == 0 -> create(target); assign(target, n)
			:: target == 0 && pool != 0 ->                          /* [emptySegment] recycled */
				assert(nseg < SEGS); target = nseg; nseg++; mem[target] = pool; pool = 0;
				assert(owner[mem[target]] == 0);
				owner[mem[target]] = target; refs[target] = 1; assign(target, n)
			:: else fi;
			state[target] = SEALED };                               /* [newTarget] */
		   d_step {                                                 /* [copyChunk] stages a move */
			touch(table[NUM(list[i])]);
			cell[mem[target] * CAP + tail[target]] = cell[mem[table[NUM(list[i])]] * CAP + OFF(list[i])];
			tail[target]++;
			from[i] = list[i]; to[i] = LOC(num[target], tail[target] - 1); list[i] = 0; i++ }
		fi
	:: i < IDS && (list[i] == 0 || filled) -> i++
	:: i == IDS -> i = 0; break
	od;
	/* [commit] */
#ifdef SWAP_FIRST
	LOCK;
	d_step { for (i : 1 .. SEGS - 1) {
		if :: victim[i] -> table[num[i]] = 0 :: else fi } i = 0 };
	UNLOCK;
#endif
	if
	:: target != 0 ->
#ifndef LATE_PUBLISH
		RLOCK(skip);                                                /* [publish] */
		d_step { table[num[target]] = target; published = true };
		RUNLOCK;
#endif
		do                                                          /* [parallel] in any order */
		:: d_step { from[0] != 0 && !flipped[0] -> i = 0 }; goto flip
		:: d_step { from[IDS-1] != 0 && !flipped[IDS-1] -> i = IDS - 1 }; goto flip
		:: else -> break;
flip:
			if
			:: FAIL
			:: atomic { !shardMu[i] -> flipped[i] = true;           /* [flip] */
#ifdef BLIND
				if :: true -> live[target]++;
					if :: slot[i] != 0 -> live[table[NUM(slot[i])]]-- :: else fi; slot[i] = to[i]
#else
				if :: slot[i] == from[i] -> exchange(from[i], to[i])
#endif
				   :: else fi; i = 0 }
			fi
		od;
#ifdef LATE_PUBLISH
		RLOCK(skip);
		d_step { table[num[target]] = target; published = true };
		RUNLOCK;
#endif
		if :: FAIL :: skip fi                                       /* the last moment for it */
	:: else
	fi;
	/* [splitFinished] A victim with records left to copy stays for the next round. I6: the others are empty. */
	d_step { any = false; for (i : 1 .. SEGS - 1) {
		if
		:: victim[i] ->
			leaving[i] = true;
#ifndef LEAVE_FULL
			for (n : 0 .. IDS - 1) {
				if :: list[n] != 0 && table[NUM(list[n])] == i -> leaving[i] = false :: else fi } n = 0;
			if
			:: leaving[i] ->
				target = 0;                                         /* not needed any more */
				for (n : 0 .. IDS - 1) {
					if :: dropped[n] != 0 && table[NUM(dropped[n])] == i -> target++ :: else fi } n = 0;
				assert(live[i] <= target)
			:: else -> any = true
			fi
#else
			n = 0
#endif
		:: else fi } i = 0 };
#ifdef DROPS
	do                                                              /* [compaction.apply, Store.drop] */
	:: i < IDS ->
		if
		:: dropped[i] != 0 && leaving[table[NUM(dropped[i])]] ->
#ifndef DROP_UNLANED
			LANE_LOCK;
#endif
			atomic { !shardMu[i] ->
#ifdef DROP_BLIND
				if :: slot[i] != 0 ->
#else
				if :: slot[i] == dropped[i] ->
#endif
					assert(cell[mem[table[NUM(dropped[i])]] * CAP + OFF(dropped[i])] == cur[i]);
					live[table[NUM(slot[i])]]--; slot[i] = 0; becomes(i, 0, n)
				   :: else fi; dropped[i] = 0;
#ifndef DROP_UNLANED
				LANE_UNLOCK;
#endif
				i++ }
		:: else -> i++
		fi
	:: else -> i = 0; break
	od;
#endif
	swap();                                                         /* [finish] */
	round++;
	if :: any -> goto next :: else fi;
	goto done;

undo: skip;                                                             /* [round.undo] */
	d_step { i = 0; for (n : 0 .. IDS - 1) { flipped[n] = false } n = 0 };
#ifndef NO_UNDO
	if
	:: published ->
		do
		:: i < IDS ->
			atomic { !shardMu[i] ->                                 /* [unflip] */
#ifdef BLIND_UNDO
				if :: to[i] != 0 && slot[i] != from[i] ->
					if :: slot[i] != 0 -> live[table[NUM(slot[i])]]-- :: else fi;
					live[table[NUM(from[i])]]++; slot[i] = from[i]
#else
				if :: to[i] != 0 && slot[i] == to[i] -> exchange(to[i], from[i])
#endif
				   :: else fi; i++ }
		:: else -> i = 0; break
		od
	:: else fi;
#endif
	skip;
	d_step { for (i : 0 .. IDS - 1) {
		if :: !touched[i] && !shardMu[i] -> assert(slot[i] == before[i]) :: else fi;
		assert(target == 0 || slot[i] == 0 || table[NUM(slot[i])] != target) } i = 0 };
	if
	:: published -> leaving[target] = true; swap()
	:: !published && target != 0 ->
		d_step { taken[num[target]] = false; refs[target] = 0; owner[mem[target]] = 0;
			state[target] = RETIRED }
	:: else fi;
done:
	c++;
	d_step { reserve = pool; pool = 0; target = 0; published = false; filled = false; any = false; round = 0;
		for (i : 0 .. IDS - 1) { list[i] = 0; from[i] = 0; to[i] = 0; before[i] = 0; dropped[i] = 0; flipped[i] = false }
		for (i : 1 .. SEGS - 1) { victim[i] = false } i = 0 };      /* [drainPool] which may keep less */
	if :: c < COMPACTIONS -> goto compaction :: else fi;
	finished++
}

/* When everybody is done: no write lost, counts exact, nothing mapped but what is in the table. */
proctype Monitor() {
	byte i, n, count;
	finished == WRITERS + READERS + 1;
	d_step {
		for (i : 0 .. IDS - 1) {
			assert((slot[i] == 0) == (cur[i] == 0));
			if
			:: slot[i] != 0 ->
				touch(table[NUM(slot[i])]);
				assert(cell[mem[table[NUM(slot[i])]] * CAP + OFF(slot[i])] == cur[i])
			:: else fi }
		for (n : 1 .. SEGS - 1) {
			count = 0;
			for (i : 0 .. IDS - 1) {
				if :: slot[i] != 0 && table[NUM(slot[i])] == n -> count++ :: else fi }
			assert(live[n] == count);
			if
			:: refs[n] != 0 -> assert(refs[n] == 1 && table[num[n]] == n && owner[mem[n]] == n)
			:: else fi;
			if :: owner[n] != 0 -> assert(refs[owner[n]] == 1 && mem[owner[n]] == n) :: else fi } };
}

init {
	byte n;
	atomic {
		/* As after an Open: a sealed segment with id 0 and a dead record, one with the last id and room. */
		d_step {
			create(lane); assign(lane, n); table[num[lane]] = lane;
			cell[mem[lane] * CAP] = nextv; tail[lane] = 2; live[lane] = 1; state[lane] = SEALED;
			slot[0] = LOC(num[lane], 0); cur[0] = nextv; nextv++;
			create(lane); assign(lane, n); table[num[lane]] = lane;
			cell[mem[lane] * CAP] = nextv; tail[lane] = 1; live[lane] = 1; state[lane] = SEALED;
			slot[IDS-1] = LOC(num[lane], 0); cur[IDS-1] = nextv; nextv++;
			partial = lane; lane = 0;
			for (n : 0 .. READERS) { rid[n] = IDS } };
		n = 0; do :: n < WRITERS -> run Writer(n == 0); n++ :: else -> break od;
		n = 0; do :: n < READERS -> run Reader(n); n++ :: else -> break od;
		run Compactor(); run Monitor()
	}
}
