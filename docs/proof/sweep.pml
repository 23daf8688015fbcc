/*
 * What is dead leaves at once: a sealed segment with nothing live is taken out of the table outside of a
 * round, by a sweep, beside writers, readers with pins, a compaction whose round may be undone, lanes
 * that resume a segment, and Close. README.md says how to read this, and what is left out.
 *
 * Names in [brackets] are the Go functions that a step models. One define, -DNAME, puts one mistake
 * into it; README.md lists them, and the script `check` demands that Spin refutes each.
 *
 * A segment has an identity for life and memory that may have been another segment's. A location is
 * (segment, offset), 0 is "no slot". What a record holds is not modelled: whoever reads one must find its
 * segment in the table, and the memory still that segment's.
 */
#define IDS 2              /* each with a shard, a lane and a writer of its own */
#ifndef WRITERS
#define WRITERS 2
#endif
#ifndef WRITES
#define WRITES 1           /* of each writer */
#endif
#ifndef READERS
#define READERS 0
#endif
#ifndef COMPACTIONS
#define COMPACTIONS 1
#endif
#ifndef CLOSES
#define CLOSES 0
#endif
#ifndef PUTS2
#define PUTS2 true        /* the second writer puts, or deletes only */
#endif
#define CAP 2              /* records in a segment */
#ifndef SEGS
#define SEGS 6             /* segments ever made, and mappings; 0 is none */
#endif

#define NONE 0
#define ACTIVE 1
#define SEALED 2
#define RETIRED 3

/* [segment.claimFor] Whose a segment is: only who has claimed it may take it out of the table or make it active again. */
#define FREE 0
#define SWEEP 1
#define COMPACTION 2
#define LANE 3

#define BIT(i) (1 << (i))
#define HAS(set, i) ((set) & BIT(i))
#define LOC(seg, off) ((seg) * CAP + (off) + 1)
#define SEG(loc) (((loc) - 1) / CAP)

byte state[SEGS], live[SEGS], tail[SEGS], claim[SEGS], refs[SEGS], mem[SEGS];
byte nseg = 1, nmem = 1;
byte intable;              /* set of segments */
byte owner[SEGS];          /* segment that lives in a mapping; 0: unmapped, or in the pool */
byte pool;                 /* a mapping kept for the next segment, 0 for none */
byte dead;                 /* set of segments that somebody noticed */
byte slot[IDS], lane[IDS];
byte partial;              /* a sealed segment with room that lanes may resume, 0 for none */
byte readers;              /* contentMu */
bool writing, waiting;
bool laneMu[IDS], shardMu[IDS], rolling[IDS];
byte entered;              /* calls that Close waits for */
bool closing, closed;
byte finished;

/* [contentLock, lockrank.Mutex] */
#define RLOCK(x)   atomic { !writing && !waiting -> readers++; x }
#define RUNLOCK    readers--
#define LOCK       atomic { !waiting && !writing -> waiting = true }; atomic { readers == 0 -> waiting = false; writing = true }
#define UNLOCK     writing = false
#define TAKE(m)    atomic { !m -> m = true }
#define RLOCK_LANE(l)   atomic { !writing && !waiting && !laneMu[l] -> readers++; laneMu[l] = true }
#define RUNLOCK_LANE(l) laneMu[l] = false; readers--
#define EMPTY(g)   (state[g] == SEALED && live[g] == 0)

inline touch(seg) { assert(seg != 0 && owner[mem[seg]] == seg) }

/* [createSegment, newSegment] in memory of the pool, or fresh */
inline create(seg) {
	assert(nseg < SEGS);
	seg = nseg; nseg++;
	if :: pool != 0 -> assert(owner[pool] == 0); mem[seg] = pool; pool = 0
	   :: else -> assert(nmem < SEGS); mem[seg] = nmem; nmem++
	fi;
	owner[mem[seg]] = seg; refs[seg] = 1
}

/* [retire, recycle] a segment that has left the table */
inline retire(seg) {
	assert(state[seg] != RETIRED && refs[seg] > 0);
	state[seg] = RETIRED; refs[seg]--;
	if :: refs[seg] == 0 -> free(seg) :: else fi
}
inline free(seg) {
	touch(seg); owner[mem[seg]] = 0;
	if :: pool == 0 && !closed -> pool = mem[seg] :: else fi
}

/* [removeLocked] I6 for whoever takes a segment: no slot leads to it. */
inline remove(seg) {
	assert(HAS(intable, seg) && state[seg] == SEALED);
	for (i : 0 .. IDS - 1) { assert(closed || slot[i] == 0 || SEG(slot[i]) != seg) } i = 0;
	intable = intable & ~BIT(seg)
}

/* [segment.seal, Store.noteIfDead] The sealer sets the state, then looks at live; a writer changes live, then looks at the
 * state: one of them sees what the other has done. */
inline seal(seg) {
	state[seg] = SEALED;
#ifndef SEALER_BLIND
	if :: live[seg] == 0 -> dead = dead | BIT(seg) :: else fi
#endif
}

/* [Store.unclaim] Whoever lets go of a segment that stays looks at it again: what others noticed in between was not theirs. */
inline release(seg) {
	claim[seg] = FREE;
#ifndef RELEASE_BLIND
	if :: EMPTY(seg) -> dead = dead | BIT(seg) :: else fi
#endif
	skip
}

/* [Store.sweepNoted, sweepRunning] The sweep, with no lock held, by who noticed. It has entered, so that Close waits for it. */
inline sweep() {
#ifndef SWEEP_NOT_ENTERED
	atomic { if :: closing -> goto swept :: else -> entered++ fi };
#endif
	do
	:: d_step { dead != 0 -> g = 1; do :: !HAS(dead, g) -> g++ :: else -> break od; dead = dead & ~BIT(g) };
#ifdef LOOKS_FIRST
		if :: !EMPTY(g) -> goto passed :: else fi;
#endif
#ifdef NO_CLAIM
		skip;
#else
#ifdef CLAIM_NOT_SWAPPED
		if :: claim[g] != FREE -> goto passed :: else fi;           /* a load and a store */
		claim[g] = SWEEP;
#else
		atomic { if :: claim[g] != FREE -> goto passed :: else -> claim[g] = SWEEP fi };
#endif
#endif
#ifndef LOOKS_FIRST
		if
#ifdef ACTIVE_TAKEN
		:: live[g] == 0 -> skip
#else
		:: EMPTY(g) -> skip
#endif
		:: else -> release(g); goto passed
		fi;
#endif
		LOCK;
		d_step { remove(g) };
		UNLOCK;
		d_step { retire(g) };
passed:		skip
	:: dead == 0 -> break
	od;
#ifndef SWEEP_NOT_ENTERED
	entered--;
#endif
swept:	skip;
	g = 0
}

/* [Store.roll] */
inline roll(l) {
	atomic { if :: closing -> goto over :: else -> entered++ fi };  /* [makeRoom, enter] */
	TAKE(rolling[l]);
	d_step { seg = partial; partial = 0 };                          /* [takePartial] */
#ifdef RESUME_UNCLAIMED
	if :: seg != 0 && !HAS(intable, seg) -> seg = 0 :: else fi;
#else
	atomic { if :: seg != 0 && claim[seg] == FREE -> claim[seg] = LANE :: else -> seg = 0 fi };
#endif
	if :: d_step { seg == 0 -> create(seg) } :: seg != 0 -> skip fi;
	RLOCK_LANE(l);                                                  /* [install, resume] */
	d_step { intable = intable | BIT(seg); state[seg] = ACTIVE; claim[seg] = FREE };
	if :: lane[l] != 0 -> seal(lane[l]) :: else fi;                 /* [activateLocked] */
	skip;
	d_step { lane[l] = seg; seg = 0; RUNLOCK_LANE(l); rolling[l] = false; entered-- }
}

proctype Writer(byte id; bool puts) {
	byte k, old, seg, g, i; bool none, was, del;
	do
	:: atomic { k < WRITES -> k++; if :: puts -> del = false :: del = true fi };
write:		RLOCK_LANE(id);                                             /* [tryPut, tryRemove] */
		if
		:: d_step { closed -> RUNLOCK_LANE(id) }; goto over
		:: d_step { !closed && del && slot[id] == 0 -> RUNLOCK_LANE(id) }; goto next
		:: d_step { !closed && !del && (lane[id] == 0 || tail[lane[id]] == CAP) -> RUNLOCK_LANE(id) };
			roll(id);
			goto write
		:: else
		fi;
		if :: d_step { !del -> seg = lane[id]; touch(seg); assert(state[seg] == ACTIVE); tail[seg]++ }
		   :: del -> skip
		fi;
		atomic { !shardMu[id] -> shardMu[id] = true;                /* [pointTo, removeSlot] */
			old = (slot[id] == 0 -> 0 : SEG(slot[id])); assert(old == 0 || HAS(intable, old) && live[old] > 0) };
		if
		:: old != 0 ->
#ifdef SEALED_FIRST
			was = (state[old] == SEALED);
#endif
			d_step { live[old]--; none = (live[old] == 0) };
#ifndef SEALED_FIRST
			was = (state[old] == SEALED);
#endif
			d_step { if :: none && was -> dead = dead | BIT(old) :: else fi; none = false; was = false; old = 0 }
		:: else
		fi;
		d_step { if :: del -> slot[id] = 0
			    :: else -> live[seg]++; slot[id] = LOC(seg, tail[seg] - 1) fi;
			shardMu[id] = false; RUNLOCK_LANE(id); seg = 0 };
		sweep();
next:		del = false
	:: else -> break
	od;
over:	skip;
	d_step { k = 0; del = false; old = 0; seg = 0; g = 0; finished++ }
}

/* [Store.View] under a pin; [Store.Get] under the lock */
proctype Reader() {
	byte loc, seg;
	RLOCK(if :: loc = slot[0] :: loc = slot[IDS - 1] fi);
	if
	:: d_step { closed || loc == 0 -> RUNLOCK }
	:: d_step { !closed && loc != 0 -> seg = SEG(loc); assert(HAS(intable, seg)); touch(seg) };
		if
		:: RUNLOCK
		:: d_step { refs[seg]++; RUNLOCK };
			d_step { touch(seg) };
			d_step { refs[seg]--; if :: refs[seg] == 0 -> free(seg) :: else fi }
		fi
	fi;
	d_step { loc = 0; seg = 0; finished++ }
}

#define FAIL goto undo

/* [sealLane] */
inline sealLane(l) {
	atomic { !rolling[l] && !writing && !waiting && !laneMu[l] -> rolling[l] = true; readers++; laneMu[l] = true };
	if :: lane[l] != 0 -> sealed[l] = lane[l]; seal(lane[l]); lane[l] = 0 :: else fi;
	d_step { RUNLOCK_LANE(l); rolling[l] = false }
}

/* [unsealLanes] A compaction that fails gives a lane without an active segment its sealed one back. */
inline resumeLane(l) {
	atomic { !rolling[l] && !writing && !waiting && !laneMu[l] -> rolling[l] = true; readers++; laneMu[l] = true };
	if
	:: sealed[l] != 0 && lane[l] == 0 ->
#ifdef GIVEN_BACK_UNCLAIMED
		if :: !HAS(intable, sealed[l]) -> sealed[l] = 0 :: else fi;
#else
		/* [claimSealed] It may have left, or be a sweep's. */
		atomic { if :: claim[sealed[l]] == FREE -> claim[sealed[l]] = LANE :: else -> sealed[l] = 0 fi };
#endif
		if :: sealed[l] != 0 ->
			d_step { state[sealed[l]] = ACTIVE; lane[l] = sealed[l]; claim[sealed[l]] = FREE }
		   :: else
		fi
	:: else
	fi;
	d_step { RUNLOCK_LANE(l); rolling[l] = false; sealed[l] = 0 }
}

proctype Compactor() {
	byte i, n, g, c, target, victims, leaving, sealed[IDS], from[IDS], to[IDS]; bool failed;
	do
	:: c < COMPACTIONS ->
		c++;
		atomic { if :: closing -> break :: else -> entered++ fi };
		partial = 0;                                                /* [sealLanes, setPartial] */
		sealLane(0); sealLane(1);
		if :: goto undone :: skip fi;                               /* nothing was chosen yet */
		do                                                          /* [chooseVictims] all of them */
		:: n < SEGS ->
#ifdef VICTIMS_UNCLAIMED
			d_step { if :: HAS(intable, n) && state[n] == SEALED -> victims = victims | BIT(n) :: else fi; n++ }
#else
			d_step { if
				:: HAS(intable, n) && state[n] == SEALED && claim[n] == FREE ->
					claim[n] = COMPACTION; victims = victims | BIT(n)
				:: else fi; n++ }
#endif
		:: else -> n = 0; break
		od;
		if :: victims == 0 -> goto undone :: else fi;
		/* [build] into one target, which is sealed and claimed from birth; not all, if it gets full */
		d_step { create(target); state[target] = SEALED;
#ifndef TARGET_UNCLAIMED
			claim[target] = COMPACTION
#endif
		};
		leaving = victims;
		do
		:: n < IDS ->
			atomic { !shardMu[n] ->
				if :: slot[n] != 0 && HAS(victims, SEG(slot[n])) ->
					if :: from[n] = slot[n]; tail[target]++; to[n] = LOC(target, tail[target] - 1)
					   :: n > 0 -> leaving = leaving & ~BIT(SEG(slot[n]))
					fi
				   :: else fi; n++ }
		:: else -> n = 0; break
		od;
		if
		:: d_step { retire(target) }; target = 0; goto undone       /* nobody has seen it */
		:: skip
		fi;
		RLOCK(intable = intable | BIT(target));                     /* [publish] */
		RUNLOCK;
		do
		:: n < IDS ->
			if
			:: FAIL
			:: atomic { !shardMu[n] ->                              /* [flip] */
				if :: from[n] != 0 && slot[n] == from[n] ->
					live[SEG(from[n])]--; live[target]++; slot[n] = to[n]
				   :: else fi; n++ }
			fi
		:: else -> n = 0; break
		od;
		if :: FAIL :: skip fi;
		/* [splitFinished, swap] */
		LOCK;
		d_step { for (n : 1 .. SEGS - 1) {
			if :: HAS(leaving, n) -> assert(live[n] == 0); remove(n) :: else fi } n = 0 };
		UNLOCK;
		d_step { for (n : 1 .. SEGS - 1) { if :: HAS(leaving, n) -> retire(n) :: else fi } n = 0;
			victims = victims & ~leaving };
#ifndef TARGET_UNCLAIMED
		release(target);
#endif
		goto done;
undo:	                                                            /* [round.undo] */
		n = 0;
		do
		:: n < IDS ->
			atomic { !shardMu[n] ->                                 /* [unflip] */
				if :: from[n] != 0 && slot[n] == to[n] ->
					live[SEG(from[n])]++; live[target]--; slot[n] = from[n]
				   :: else fi; n++ }
		:: else -> n = 0; break
		od;
		LOCK;
		d_step { remove(target) };
		UNLOCK;
		d_step { retire(target) };
undone:		failed = true;
done:		skip;
		n = 1;
		do                                                          /* victims that stay */
		:: n < SEGS -> if :: HAS(victims, n) -> release(n) :: else fi; n++
		:: else -> n = 0; break
		od;
		if :: failed -> resumeLane(0); resumeLane(1); failed = false :: else fi;
		skip;
		d_step { victims = 0; leaving = 0; target = 0; sealed[0] = 0; sealed[1] = 0;
			for (i : 0 .. IDS - 1) { from[i] = 0; to[i] = 0 } i = 0; entered-- };
		sweep()
	:: else -> break
	od;
	skip;
	d_step { c = 0; finished++ }
}

/* [Store.Close] */
proctype Closer() {
	byte i, n, all;
	closing = true;
	entered == 0;
	LOCK;
	closed = true;
	d_step { all = intable; intable = 0; if :: pool != 0 -> pool = 0 :: else fi };
	UNLOCK;
	n = 1;
	do
	:: n < SEGS -> d_step { if :: HAS(all, n) -> retire(n) :: else fi; n++ }
	:: else -> n = 0; all = 0; break
	od;
	finished++
}

/* When everybody is done: nothing that is live was lost, counts are exact, and nothing dead is in the table. */
proctype Monitor() {
	byte i, n, count;
	finished == WRITERS + READERS + 1 + CLOSES;
	d_step {
		for (n : 1 .. SEGS - 1) {
			count = 0;
			for (i : 0 .. IDS - 1) { if :: slot[i] != 0 && SEG(slot[i]) == n -> count++ :: else fi }
			assert(closed || count == 0 || HAS(intable, n));
			assert(live[n] == count);
			assert(!(HAS(intable, n) && EMPTY(n)));
			assert(refs[n] == (HAS(intable, n) -> 1 : 0));
			if :: HAS(intable, n) -> touch(n) :: else fi;
			assert(owner[n] == 0 || HAS(intable, owner[n])) } }
}

init {
	byte g;
	atomic {
		/* As after an Open with other lanes: lane 1 has resumed a segment with a record of lane 0's id;
		 * another segment, with room, may be resumed. */
		d_step {
			create(g); intable = intable | BIT(g); tail[g] = CAP; live[g] = 1; state[g] = ACTIVE;
			lane[1] = g; slot[0] = LOC(g, 0);
			create(g); intable = intable | BIT(g); tail[g] = 1; live[g] = 1; state[g] = SEALED;
			partial = g; slot[1] = LOC(g, 0); g = 0 };
		run Writer(0, true);
#if WRITERS > 1
		run Writer(1, PUTS2);
#endif
#if READERS > 0
		run Reader();
#endif
#if CLOSES > 0
		run Closer();
#endif
		run Compactor(); run Monitor()
	}
}
