/*
 * What a directory store adds: files, flushes, the manifest, the durable commit of a round or of a sweep,
 * tombstones, a lane that gets its segment back, a checkpoint; and a kill or a power loss at any step, a second power loss
 * during or after the recovery. README.md says how to read this, and what is left out.
 *
 * Names in [brackets] are the Go functions that a step models. One define, -DNAME, puts one mistake
 * into it; README.md lists them, and the script `check` demands that Spin refutes each.
 *
 * A record is one byte, its sequence number, which is also the version it stores: idOf and tomb say
 * whose it is and whether it is a tombstone. A copy keeps its number. With DROPS a round drops any of the
 * memories in its victims; with HALF a part of a victim was copied before, by a compaction that was cut off.
 * With BATCH the first write is a batch: a Put of id 0, and a Put or Delete of id 1, in one container.
 */

#define IDS 2
#ifndef WRITES
#define WRITES 2
#endif
#ifndef SYNCS
#define SYNCS 1
#endif
#ifndef COMPACTIONS
#define COMPACTIONS 1
#endif
#ifndef SWEEPS
#define SWEEPS 0
#endif
#ifndef CLEARS
#define CLEARS 0      /* 1: a Clear, with SWEEPS=0 */
#endif
#ifndef CHECKPOINTS
#define CHECKPOINTS 0 /* 1: a checkpoint */
#endif
#ifndef CAP
#define CAP 3         /* records in a segment */
#endif
#ifndef ROOM
#define ROOM CAP      /* those of lanes */
#endif
#ifndef SEGS
#define SEGS 5        /* files ever made; 0 is none */
#endif
#define SEQS 8

/* A tombstone of a memory that a round has dropped has the number of that memory: its byte is SEQS more. */
#define NUMBER(r) ((r) % SEQS)
#define BURIES(r) ((r) >= SEQS || HAS(tomb, r))
#ifdef TIE_LOST
#define RANK(r) (NUMBER(r) * 2 + 1 - (r) / SEQS)
#else
#define RANK(r) (NUMBER(r) * 2 + (r) / SEQS)
#endif

#define NONE 0
#define ACTIVE 1
#define SEALED 2

#define VALUE(v) (BURIES(v) -> 0 : (v))

#define BIT(i) (1 << (i))
#define HAS(set, i) ((set) & BIT(i))
#define LOC(seg, n) ((seg) * CAP + (n) + 1)
#define SEG(loc) (((loc) - 1) / CAP)

/* The directory. Names and contents are in the page cache, and some of it is on the disk. */
byte rec[SEGS * CAP], tail[SEGS];
byte synced[SEGS];         /* records of the file that are on the disk */
byte header;               /* set of files whose header is on the disk */
byte exists, named;        /* sets of files: in the directory; in the directory on the disk */
byte targetKind;           /* set of files that compactions made */
byte sealedSays, says[SEGS];   /* what headers say: the file ends there; so many records are durable */
byte dsealedSays, dsays[SEGS]; /* the header synced last */
byte bad, limit[SEGS];     /* files of which a sync failed, and how much of each is all that gets to the disk */
byte listed, pending, next;    /* the manifest */
byte dlisted, dpending, dnext; /* the one on the disk */
byte number;               /* of the manifest: no lower sequence number is drawn after it */
bool torn;                 /* the newest manifest's bytes are not on the disk */

/* The store, gone after a crash. */
byte slot[IDS], state[SEGS], lane;
byte intable, committed, durable;  /* sets of segments */
byte drawn;                /* ids drawn and not published yet: segmentTable.pending */
byte lastID, known;        /* disk.listed */
byte resumes;              /* segmentTable.resumed */
byte claimed;              /* set of segments that are a sweep's, a compaction's or a lane's to take */
byte extent[SEGS];         /* what a flush has found, 0 for nothing to do */
byte extentSealed;         /* of which it has found sealed */
byte cleared;              /* set of segments of before the Clear */
bool clears;               /* the cut has been */
bool barrier;              /* writes are kept out */
bool laneMu, manifestMu, flushing, failed;
byte contentR;

/* The directory of the checkpoint: names of files of the store, and its manifest. */
bool linking;              /* lanes resume no segment: segmentTable.linking */
byte links, clinks;        /* sets of files: names in it; those on the disk */
byte clisted, cend[SEGS];  /* its manifest, 0 until it is in force; where it says that each file ends */
byte cwant[IDS];           /* newest version of each id at its moment, 0 for absent */

/* What the specification remembers. */
byte idOf[SEQS], tomb, nextv = 1;  /* tomb: set of sequence numbers */
byte acked[IDS], removed[IDS];     /* newest version acknowledged; newest deletion begun */
byte safe[IDS];                    /* newest version that a Sync has promised to keep */
byte clearv, before[IDS];          /* number of the Clear begun; removed before it */
byte lost[IDS];                    /* newest version that was dropped: a reader has not found it */
byte pair;                         /* the first of the two numbers of the batch, 0 for none yet */
int containers;                    /* set of places: a container begins with this record, and has the next one too */
byte finished;
bool crashed;

#define IMMORTAL provided (!crashed)

/* [createSegment, newID, disk.make] */
inline draw(g) { lastID++; g = lastID; assert(g < SEGS) }

#ifdef BATCH
#define PLACES (k == 1 -> 2 : 1)
#else
#define PLACES 1
#endif

/* [put] and [remove]: roll if need be, append, point the index to it. That the record comes before the
 * slot, and what happens between them, is in memory.pml; here a crash after both is the stricter one. */
proctype Writer() IMMORTAL {
	byte k, id, g, v; bool del, second;
	do
	:: atomic { k < WRITES && !failed && !laneMu && !barrier -> laneMu = true; contentR++;
#ifdef TOMBSTONES
		if :: id = 0 :: id = 1 fi;
#else
		if :: id = 0 :: k > 0 -> id = 1 fi;                         /* the first id is id 0 */
#endif
		if :: del = false :: slot[id] != 0 -> del = true fi; k++;
#ifdef BATCH
		if :: k == 1 -> id = 0; del = false; if :: second = true :: skip fi :: else fi
#endif
		};
		if
		:: lane == 0 || tail[lane] + PLACES > ROOM ->                /* [makeRoom] */
			d_step { draw(g); drawn = drawn | BIT(g); exists = exists | BIT(g) };
			d_step {                                                /* [publish, seal] */
				intable = intable | BIT(g); committed = committed | BIT(g);
				drawn = drawn & ~BIT(g);
				if :: lane != 0 -> state[lane] = SEALED :: else fi;
				lane = g; state[g] = ACTIVE; g = 0 }
		:: else
		fi;
#ifdef BATCH
		if
		:: k == 1 ->                                                /* [applyShared]: id is 0 */
			d_step { pair = nextv; v = nextv; nextv = nextv + 2; idOf[v] = 0; idOf[v + 1] = 1;
				if :: second -> tomb = tomb | BIT(v + 1); removed[1] = v + 1 :: else fi;
				rec[lane * CAP + tail[lane]] = v;
#ifndef APART
				containers = containers | BIT(lane * CAP + tail[lane]);
#endif
				tail[lane]++;
#ifdef APART
				slot[0] = LOC(lane, tail[lane] - 1) };
			d_step {
#endif
				rec[lane * CAP + tail[lane]] = v + 1; tail[lane]++;
				slot[0] = LOC(lane, tail[lane] - 2); slot[1] = (second -> 0 : LOC(lane, tail[lane] - 1));
				acked[0] = v; acked[1] = v + 1;
				laneMu = false; contentR--; id = 0; del = false; second = false; v = 0 };
			goto written
		:: else
		fi;
#endif
		d_step {                                                    /* [finishLocked, pointTo, removeSlot] */
			v = nextv; nextv++; idOf[v] = id;
			if :: del -> tomb = tomb | BIT(v); removed[id] = v :: else fi;
			rec[lane * CAP + tail[lane]] = v; tail[lane]++;
			slot[id] = (del -> 0 : LOC(lane, tail[lane] - 1)); acked[id] = v;
			laneMu = false; contentR--; id = 0; del = false; v = 0 };
written:	skip
	:: d_step { k == WRITES || failed -> finished++ }; break
	od
}

/* [snapshotManifest] without those of leaving, with those of joining */
#define LISTED(leaving, joining)  ((intable & committed & durable & ~(leaving)) | (joining))
#ifdef NO_PENDING
#define PENDING(leaving)          0
#else
#define PENDING(leaving)          ((intable & committed & ~durable & ~(leaving)) | drawn)
#endif

/* [dir.FS.Sync] */
inline syncDir() { d_step { named = exists; dlisted = listed; dpending = pending; dnext = next } }

/* i becomes the next segment to be flushed */
inline advance() { do :: i < SEGS && extent[i] == 0 -> i++ :: else -> break od; skip }

/* [flush, flushAll] ok is false after a failure, which is final */
inline flush(ok) {
	atomic { !flushing && !laneMu -> flushing = true; contentR++;   /* [failedSync, pinDirty] lanes first */
		ok = !failed;
		if :: ok && lane != 0 && (tail[lane] > synced[lane] || tail[lane] > says[lane]) -> extent[lane] = tail[lane] :: else fi };
	d_step {
		for (i : 1 .. SEGS - 1) {
			if
			:: ok && HAS(intable & committed, i) && state[i] == SEALED && extent[i] == 0 &&
			   (tail[i] > synced[i] || !HAS(sealedSays, i)) ->      /* [isDirty] */
				extent[i] = tail[i]; extentSealed = extentSealed | BIT(i)
			:: else fi }
		contentR--; i = 1; advance() };
	do
	:: d_step { i < SEGS -> header = header | BIT(i); durable = durable | BIT(i);  /* [flushSegment] */
		dsays[i] = says[i]; dsealedSays = dsealedSays & ~BIT(i) | sealedSays & BIT(i);
		synced[i] = (extent[i] > synced[i] -> extent[i] : synced[i]);
		says[i] = extent[i]; sealedSays = sealedSays & ~BIT(i) | extentSealed & BIT(i);  /* [writeState] */
		extent[i] = 0; advance() }
	:: d_step { i < SEGS && HAS(durable, i) && !HAS(extentSealed, i) ->           /* without marks */
		dsays[i] = says[i]; dsealedSays = dsealedSays & ~BIT(i) | sealedSays & BIT(i);
		synced[i] = (extent[i] > synced[i] -> extent[i] : synced[i]);
		extent[i] = 0; advance() }
#if CLEARS > 0
	:: d_step { i < SEGS && HAS(cleared, i) -> extent[i] = 0; advance() }  /* [isCleared]: its file may be gone */
#endif
#ifdef FAULTS
	:: d_step { i < SEGS -> bad = bad | BIT(i); limit[i] = synced[i];  /* [disk.fail] */
#ifndef SYNC_RETRIED
		failed = true;
#endif
		ok = false;
		for (i : 1 .. SEGS - 1) { extent[i] = 0 } i = SEGS }
#endif
	:: i == SEGS -> break
	od;
#ifdef CLEAR_UNSEEN
	atomic { !manifestMu || (LISTED(0, 0) & ~known) == 0 -> i = 0; extentSealed = 0;
#else
	atomic { !manifestMu -> i = 0; extentSealed = 0;                                 /* [listSegments] */
#endif
#ifndef FAILURE_UNSEEN
		ok = ok && !failed;                                         /* [failedSync] */
#endif
		l = LISTED(0, 0); p = PENDING(0); n = lastID + 1; q = nextv - 1;
		if
		:: ok && (l & ~known) -> manifestMu = true
		:: else -> l = 0; p = 0; n = 0; q = 0; flushing = false
		fi };
	if
	:: manifestMu && l != 0 ->
#ifndef NAMES_UNSYNCED
		syncDir();
#endif
		replaceManifest();
		d_step { named = exists; dlisted = listed; dpending = pending; dnext = next; known = l;
			manifestMu = false; flushing = false; l = 0; p = 0; n = 0; q = 0 }
	:: else
	fi
}

/* [writeManifest] up to the rename */
inline replaceManifest() {
	d_step {
#ifdef TEMP_UNSYNCED
		torn = true;
#endif
#ifndef NUMBER_KEPT
		number = q;
#endif
		listed = l; pending = p; next = n }
}

/* [Sync] */
proctype Syncer() IMMORTAL {
	byte k, i, l, p, n, q, goal[IDS]; bool ok;
	do
	:: d_step { k < SYNCS && !failed -> k++; goal[0] = acked[0]; goal[1] = acked[1] };
		flush(ok);
		d_step { for (i : 0 .. IDS - 1) {
			if :: ok && goal[i] > safe[i] -> safe[i] = goal[i] :: else fi; goal[i] = 0 } i = 0; ok = false }
	:: d_step { k == SYNCS || failed -> finished++ }; break
	od
}

/* [segment.deadBytes > tombstoneBytes] a dead record that is no tombstone; m becomes the lowest number */
inline examine(seg) {
	dead = false; m = SEQS;
	for (j : 0 .. CAP - 1) {
		if
		:: j < tail[seg] ->
			if :: NUMBER(rec[seg * CAP + j]) < m -> m = NUMBER(rec[seg * CAP + j]) :: else fi;
			if
			:: !BURIES(rec[seg * CAP + j]) && slot[idOf[rec[seg * CAP + j]]] != LOC(seg, j) -> dead = true
			:: else fi
		:: else fi } j = 0
}

/* [oldestDead] the lowest number of a dead record, no tombstone, in a segment that is not of gone */
inline askLanes() {
	atomic { !laneMu ->
		if :: lane != 0 -> examine(lane); if :: dead && m < oldest -> oldest = m :: else fi
		   :: else fi; m = 0; dead = false }
}
inline askSealed(set) {
	atomic { for (i : 1 .. SEGS - 1) {
		if
		:: HAS(intable & (set) & ~cleared, i) && state[i] == SEALED ->
			examine(i);
			if :: dead && m < oldest -> oldest = m :: else fi
		:: else fi } i = 0; m = 0; dead = false }
}
/* A lane that resumes a segment in between could hide it from both looks. */
inline oldestDead(gone) {
	do
	:: d_step { seen = resumes; oldest = SEQS };
#ifndef LANES_LAST
		askLanes();
#endif
#ifdef NO_SNAPSHOT
		askSealed(targetKind & ~(gone));
		askSealed(~targetKind & ~(gone));
#else
		askSealed(~(gone));
#endif
#ifdef LANES_LAST
		askLanes();
#endif
#ifdef RESUME_MISSED
		break
#else
		if :: seen == resumes -> break :: else fi
#endif
	od;
	seen = 0
}

/* [disk.commit] */
inline commit(gone, joining) {
#ifdef REMOVED_EARLY
	d_step { exists = exists & ~(gone) };
#endif
#ifndef FLUSH_LEFT_OUT
	flush(ok);
	if :: !ok || failed -> ok = false; goto uncommitted :: else fi;
#else
	ok = true;
#endif
	d_step { for (i : 1 .. SEGS - 1) {                          /* [flushTarget] */
		if :: HAS(joining, i) ->
#ifndef TARGETS_UNSYNCED
			says[i] = tail[i]; sealedSays = sealedSays | BIT(i); dsays[i] = tail[i]; dsealedSays = dsealedSays | BIT(i);
			synced[i] = tail[i]; header = header | BIT(i);
#endif
			durable = durable | BIT(i)
		   :: else fi } i = 0 };
	atomic { !manifestMu -> manifestMu = true;
		l = LISTED(gone, joining); p = PENDING(gone); n = lastID + 1; q = nextv - 1 };
#if CLEARS > 0 && !defined(CLEAR_COMMITTED)
	if :: era != clears -> manifestMu = false; ok = false; goto uncommitted :: else fi;  /* [isCleared] */
#endif
	if :: skip :: d_step { manifestMu = false; ok = false }; goto uncommitted fi;  /* no space, say */
#ifndef NAMES_UNSYNCED
	syncDir();
#endif
	replaceManifest();
#ifndef RENAME_UNSYNCED
	if
	:: syncDir()
	:: d_step { uncertain = true; failed = true; manifestMu = false; ok = false }; goto uncommitted
	fi;
#endif
	d_step { known = l; committed = committed | (joining);
#ifndef LISTED_AGAIN
		committed = committed & ~(gone);
#endif
		manifestMu = false };
uncommitted:	skip;
	d_step { l = 0; p = 0; n = 0; q = 0 }
}

/* [removeFromTable] and then [disk.remove], one by one */
inline leave(gone) {
	atomic { contentR == 0 -> intable = intable & ~(gone) };
	i = 1;
	do
	:: d_step { i < SEGS -> do :: i < SEGS && !HAS(gone, i) -> i++ :: else -> break od;
		if :: i < SEGS -> exists = exists & ~BIT(i); i++ :: else fi }
	:: else -> i = 0; break
	od
}

/* [segment.isDead] and nobody's */
#define DEAD(i) (HAS(intable & ~claimed, i) && state[i] == SEALED && SEG(slot[0]) != i && SEG(slot[1]) != i)

#if SWEEPS > 0
/* [Store.sweep] of all that is dead at some time */
proctype Sweeper() IMMORTAL {
	byte k, i, j, l, p, n, q, m, oldest, seen, mine, gone, stay; bool ok, dead, uncertain;
	do
	:: atomic { k < SWEEPS && !failed ->                            /* [claimAll] */
			for (i : 1 .. SEGS - 1) { if :: DEAD(i) -> gone = gone | BIT(i) :: else fi } i = 0;
			if :: gone == 0 -> goto nothing :: else -> k++; mine = gone; claimed = claimed | gone fi };
#ifndef TOMBSTONE_SWEPT
again:	oldestDead(gone);                                           /* [withoutNeeded, tombstonesOlder] */
		d_step { for (i : 1 .. SEGS - 1) { for (j : 0 .. CAP - 1) {
				if :: HAS(gone, i) && j < tail[i] && BURIES(rec[i * CAP + j]) && NUMBER(rec[i * CAP + j]) >= oldest ->
					stay = stay | BIT(i)
				   :: else fi } j = 0 } i = 0; oldest = 0;
			gone = gone & ~stay };
		if
#ifndef LOOKED_ONCE
		:: stay != 0 && gone != 0 -> stay = 0; goto again
#endif
		:: else -> stay = 0
		fi;
#endif
		if
		:: gone != 0 ->                                             /* [dropDead] */
			commit(gone, 0);
			if :: ok -> leave(gone) :: else fi
		:: else
		fi;
		skip;
		d_step { claimed = claimed & ~mine; mine = 0; gone = 0; ok = false; uncertain = false };
nothing:	skip
	:: d_step { true -> finished++ }; break
	od
}
#endif

/* [unsealLanes, claimSealed, unseal, resume] The lane gets back what the compaction had sealed. */
inline unsealLane() {
#ifndef FLUSH_BESIDE
	atomic { !flushing -> flushing = true };                        /* [holdFlushes] */
#endif
	atomic { !laneMu -> laneMu = true;
#ifdef LINKED_RESUMED
		ok = (lane == 0 && HAS(intable & ~claimed & ~cleared, sealed));
#else
		ok = (lane == 0 && !linking && HAS(intable & ~claimed & ~cleared & ~links, sealed));
#endif
		if
		:: ok ->
			claimed = claimed | BIT(sealed);
			if
#ifdef UNSEAL_PROMISES
			:: true ->
#else
			:: HAS(sealedSays, sealed) ->
#endif
#ifndef UNSEAL_UNWRITTEN
				says[sealed] = tail[sealed]; sealedSays = sealedSays & ~BIT(sealed)
#else
				skip
#endif
			:: else
			fi
		:: else
		fi };
	d_step { if :: ok -> claimed = claimed & ~BIT(sealed); state[sealed] = ACTIVE; lane = sealed; resumes++ :: else fi;
#ifndef FLUSH_BESIDE
		flushing = false;
#endif
		laneMu = false; ok = false }
}

/* [compaction.apply, Store.drop] what is staged, where the slot is still the same */
inline dropStaged() {
	do
	:: i < IDS ->
		atomic { !laneMu ->
			if
			:: from[i] != 0 && to[i] == 0 && slot[i] == from[i] ->
				slot[i] = 0; lost[i] = rec[from[i] - 1]
			:: else fi; i++ }
	:: else -> i = 0; break
	od
}

/* Compactions choose any sealed segments, one target holds all that is live in them. */
proctype Compactor() IMMORTAL {
	byte i, j, k, l, p, n, q, m, oldest, seen, target, victims, sealed, from[IDS], to[IDS];
	bool ok, dead, uncertain, era;
	do
	:: k < COMPACTIONS && !failed ->
		atomic { !laneMu -> k++; era = clears;                      /* [sealLanes] */
			if :: lane != 0 && tail[lane] > 0 -> sealed = lane; state[lane] = SEALED; lane = 0 :: else fi };
		/* [chooseVictims, claimFor] any of them: which ones is policy */
		atomic {
			i = 1;
			do
			:: i < SEGS && HAS(intable & ~claimed, i) && state[i] == SEALED -> victims = victims | BIT(i); i++
			:: i < SEGS -> i++
			:: i == SEGS -> i = 0; break
			od; claimed = claimed | victims };
		if :: victims == 0 -> goto over :: victims != 0 :: victims != 0 -> goto undone fi;  /* it may fail */
		/* [newTarget, build] memory.pml takes this apart. [carryTombstones] */
		atomic { !laneMu ->
			draw(target); exists = exists | BIT(target); targetKind = targetKind | BIT(target);
			state[target] = SEALED; claimed = claimed | BIT(target);
			for (i : 0 .. IDS - 1) {
				if
				:: slot[i] != 0 && HAS(victims, SEG(slot[i])) ->
					from[i] = slot[i]; to[i] = LOC(target, tail[target]);
					rec[to[i] - 1] = rec[from[i] - 1]; tail[target]++
#ifdef DROPS
				:: slot[i] != 0 && HAS(victims, SEG(slot[i])) -> from[i] = slot[i];  /* [stageDrops] */
					if :: rec[from[i] - 1] > removed[i] -> removed[i] = rec[from[i] - 1] :: else fi
#endif
				:: else fi } i = 0 };
		oldestDead(victims);
		atomic { for (i : 1 .. SEGS - 1) {
				for (j : 0 .. CAP - 1) {
					if
					:: HAS(victims, i) && j < tail[i] && BURIES(rec[i * CAP + j]) &&
#ifdef TOMBSTONE_DROPPED
					   false ->
#else
					   NUMBER(rec[i * CAP + j]) >= oldest ->
#endif
						assert(tail[target] < CAP);
						rec[target * CAP + tail[target]] = rec[i * CAP + j]; tail[target]++
					:: else fi } j = 0 } i = 0;
#if defined(DROPS) && !defined(NO_TOMBSTONE)
				for (i : 0 .. IDS - 1) {                            /* [leaveTombstone] */
					if
					:: from[i] != 0 && to[i] == 0 && rec[from[i] - 1] >= oldest ->
						assert(tail[target] < CAP);
						rec[target * CAP + tail[target]] = rec[from[i] - 1] + SEQS; tail[target]++
					:: else fi } i = 0;
#endif
				oldest = 0 };
		atomic { !laneMu -> intable = intable | BIT(target);        /* [publish, commit] */
			for (i : 0 .. IDS - 1) {
				if :: to[i] != 0 && slot[i] == from[i] -> slot[i] = to[i] :: else fi } i = 0 };
#ifdef DROP_EARLY
		dropStaged();
#endif
		commit(victims, BIT(target));
		if :: !ok -> goto undo :: else fi;
#if defined(DROPS) && !defined(DROP_EARLY)
		dropStaged();
#endif
		leave(victims);
		goto over;
undo:                                                               /* [undo] */
		atomic { !laneMu ->
			for (i : 0 .. IDS - 1) {
				if :: to[i] != 0 && slot[i] == to[i] -> slot[i] = from[i] :: else fi } i = 0 };
		atomic { contentR == 0 -> intable = intable & ~BIT(target) };
		if
#ifndef UNCERTAIN_REMOVED
		:: uncertain
#endif
		:: else -> exists = exists & ~BIT(target)
		fi;
undone:		skip;
		d_step { claimed = claimed & ~victims; victims = 0; ok = false };
		if :: sealed != 0 -> unsealLane() :: else fi;
over:		skip;
		d_step { claimed = claimed & ~(victims | BIT(target)); victims = 0; target = 0; sealed = 0; ok = false;
			for (i : 0 .. IDS - 1) { from[i] = 0; to[i] = 0 } i = 0 }
	:: d_step { k == COMPACTIONS || failed -> finished++ }; break
	od
}

#if CLEARS > 0
/* [Store.Clear] */
proctype Clearer() IMMORTAL {
	byte i, p, n, mine;
	if
	:: atomic { !manifestMu && !failed -> manifestMu = true; p = drawn; n = lastID + 1 }  /* [prepareManifest] */
	:: failed -> goto over
	fi;
#ifndef CLEAR_UNBARRED
	atomic { !laneMu -> barrier = true };                           /* [keepWritesOut] */
#endif
#ifndef CLEAR_STALE
	d_step { p = drawn; n = lastID + 1 };                           /* [renameEmpty] */
#endif
	d_step { clearv = nextv; nextv++;                               /* [renameManifest] */
		before[0] = removed[0]; before[1] = removed[1]; removed[0] = clearv; removed[1] = clearv;
		listed = 0; pending = p; next = n; number = clearv };
	atomic { contentR == 0 ->                                       /* [cut] */
		clears = true; cleared = intable; slot[0] = 0; slot[1] = 0; acked[0] = clearv; acked[1] = clearv;
#ifndef CLEAR_LANE_KEPT
		if :: lane != 0 -> state[lane] = SEALED; lane = 0 :: else fi;
#endif
		barrier = false };
#ifndef CLEAR_LISTED
	d_step { committed = committed & ~cleared };
#endif
#ifdef CLEAR_REMOVED_EARLY
	exists = exists & ~(cleared & ~claimed);
#endif
	if
	:: syncDir()                                                    /* [settleManifest] */
	:: d_step { failed = true; manifestMu = false }; goto over
	fi;
	d_step { known = 0; manifestMu = false; p = 0; n = 0;
		for (i : 0 .. IDS - 1) { if :: safe[i] < clearv -> safe[i] = clearv :: else fi } i = 0 };
	atomic { for (i : 1 .. SEGS - 1) {                              /* [noteCleared, claimAll] */
			if :: HAS(cleared, i) && DEAD(i) -> mine = mine | BIT(i) :: else fi } i = 0;
		claimed = claimed | mine };
	leave(mine);                                                    /* [giveBackCleared] */
	atomic { claimed = claimed & ~mine; mine = 0 };
over:	finished++
}
#endif

#if CHECKPOINTS > 0
/* [Store.Checkpoint] What is linked before the moment is left out: it is sealed and durable, and looked at again. */
proctype Checkpointer() IMMORTAL {
	byte i, set;
	if
	:: atomic { !laneMu && !failed -> linking = true }              /* [stopResuming] */
	:: failed -> goto over
	fi;
	atomic { !flushing -> flushing = true };                        /* [holdFlushes] */
	atomic { !manifestMu -> manifestMu = true };                    /* [checkpoint.cut] */
	if :: failed -> goto undone :: else fi;
	atomic { !laneMu ->                                             /* [checkpoint.seal] */
		set = intable & committed & ~drawn;
#ifndef CHECKPOINT_UNSEALED
		if :: lane != 0 && tail[lane] > 0 -> state[lane] = SEALED; lane = 0
		   :: lane != 0 && tail[lane] == 0 -> set = set & ~BIT(lane)
		   :: else fi;
#endif
		cwant[0] = (slot[0] == 0 -> 0 : rec[slot[0] - 1]); cwant[1] = (slot[1] == 0 -> 0 : rec[slot[1] - 1]) };
#ifdef CHECKPOINT_UNHELD
	manifestMu = false;
#endif
	i = 1;
	do
	:: i < SEGS && !HAS(set, i) -> i++
	:: i < SEGS && HAS(set, i) ->
#ifndef CHECKPOINT_UNFLUSHED
		if
		:: tail[i] > synced[i] || !HAS(sealedSays, i) ->            /* [checkpoint.flush] */
			d_step { header = header | BIT(i); durable = durable | BIT(i); synced[i] = tail[i];
				says[i] = tail[i]; sealedSays = sealedSays | BIT(i) }
		:: else
		fi;
#endif
#ifndef CHECKPOINT_HEADERS
		d_step { dsays[i] = says[i]; dsealedSays = dsealedSays & ~BIT(i) | sealedSays & BIT(i) };  /* [settleState] */
#endif
		d_step { assert(HAS(exists, i)); links = links | BIT(i); cend[i] = tail[i]; i++ }  /* [checkpoint.link] */
	:: i == SEGS -> break
	od;
	skip;
	d_step { manifestMu = false; flushing = false; i = 0 };
#ifdef CHECKPOINT_EARLY
	clisted = set;
	clinks = links;
#else
	clinks = links;                                                 /* [checkpoint.finish] */
	clisted = set;
#endif
	goto over;
undone:	skip;
	d_step { manifestMu = false; flushing = false };
over:	skip;
	d_step { linking = false; set = 0; finished++ }
}

/* The checkpoint opens as the store was at its moment, after a kill and after any power loss, whatever has become
 * of the store. A manifest that is not durable may be on the disk. */
inline judgeCopy() {
	for (i : 1 .. SEGS - 1) {
		if
		:: HAS(clisted, i) ->
			assert(HAS(clinks, i) && HAS(header, i));
			assert(tail[i] == cend[i] && synced[i] >= cend[i]);
			assert(says[i] == cend[i] && dsays[i] == cend[i] && HAS(sealedSays & dsealedSays, i));
			for (j : 0 .. CAP - 1) {
				if
				:: j < cend[i] && RANK(rec[i * CAP + j]) > RANK(got[idOf[NUMBER(rec[i * CAP + j])]]) ->
					got[idOf[NUMBER(rec[i * CAP + j])]] = rec[i * CAP + j]
				:: else fi } j = 0
		:: else fi } i = 0;
	assert(clisted == 0 || VALUE(got[0]) == cwant[0] && VALUE(got[1]) == cwant[1]);
	got[0] = 0; got[1] = 0; cwant[0] = 0; cwant[1] = 0; clisted = 0; clinks = 0; links = 0;
	for (i : 1 .. SEGS - 1) { cend[i] = 0 } i = 0
}
#endif

/* [recovery.openSegments, examine] Files that are not listed count when they are newer than the
 * manifest, or were being made when it was written; targets count when they are listed. */
#ifdef LEFTOVERS_COUNT
#define COUNTS(i) (i > 0)
#else
#define COUNTS(i) (HAS(listed, i) || !HAS(targetKind, i) && (HAS(pending, i) || (i) >= next))
#endif

/* A power loss keeps, of what was not synced, any names, either manifest, any headers, and in each file
 * any records up to the first that is missing: recovery cuts there; of each header the newest or the one
 * synced last. Files that do not count are spared. */
inline powerLoss() {
	if
	:: listed != dlisted || pending != dpending || next != dnext ->
		if :: listed = dlisted; pending = dpending; next = dnext; torn = false :: skip fi
	:: else torn = false
	fi;
	i = 1;
	do
	:: i < SEGS && !COUNTS(i) -> i++
	:: i < SEGS && COUNTS(i) ->
		if                                                          /* the name, or the header, is lost */
		:: !HAS(exists & named & header, i) -> exists = exists & ~BIT(i)
		:: HAS(exists | named, i) ->
			exists = exists | BIT(i);
			if :: HAS(bad, i) -> tail[i] = limit[i]; synced[i] = limit[i] :: else fi;
			if
			:: says[i] != dsays[i] || (sealedSays ^ dsealedSays) & BIT(i) ->
				if :: says[i] = dsays[i]; sealedSays = sealedSays & ~BIT(i) | dsealedSays & BIT(i) :: skip fi
			:: else
			fi;
			do :: tail[i] > synced[i] -> tail[i]-- :: break od;
#ifndef HALF_COUNTS
			/* [mayEndAt, segment.read] a container that is not whole is none */
			if :: tail[i] > 0 && HAS(containers, i * CAP + tail[i] - 1) -> tail[i]-- :: else fi
#endif
		fi;
		i++
	:: i == SEGS -> i = 0; break
	od
}

/* The newest record is as new as it must be; an id is absent only if a deletion may be the newest. A Clear
 * is one of both ids, or of none. */
inline judge() {
	for (i : 0 .. IDS - 1) {
		if
		:: got[i] != 0 && !BURIES(got[i]) -> assert(got[i] >= least[i] && got[i] > lost[i])
		:: got[i] == 0 && got[1 - i] != 0 && got[1 - i] < clearv -> assert(before[i] >= least[i])
		:: else -> assert(removed[i] >= least[i])
		fi } i = 0;
#ifdef BATCH
	/* All of the batch, or what superseded it, or nothing. */
	assert(pair == 0 || got[0] != pair || got[1] >= pair + 1 || got[1] == 0 && removed[1] > pair);
	assert(pair == 0 || got[1] != pair + 1 || got[0] >= pair || got[0] == 0 && removed[0] > pair)
#endif
}

/* [recovery.run] got[id] becomes the newest record of each id, 0 for none. Damage is an assertion. */
inline recover() {
	d_step {
		assert(!torn);
		counts = 0; got[0] = 0; got[1] = 0;
		for (i : 1 .. SEGS - 1) {
			assert(!HAS(listed, i) || HAS(exists, i));              /* [missing] */
			if
			:: HAS(exists, i) && COUNTS(i) ->
				counts = counts | BIT(i);
				assert(tail[i] >= says[i]);                         /* damage in what was durable */
				if :: HAS(sealedSays, i) -> tail[i] = says[i] :: else fi;
				for (j : 0 .. CAP - 1) {                            /* [scan, putScanned] */
					if
					:: j < tail[i] && RANK(rec[i * CAP + j]) > RANK(got[idOf[NUMBER(rec[i * CAP + j])]]) ->
						got[idOf[NUMBER(rec[i * CAP + j])]] = rec[i * CAP + j]
					:: else fi } j = 0
			:: else fi } i = 0;
		judge() }
}

/* [missingRecords] Every number above the manifest's is there. The code, where a record is no single step, allows
 * for those that a kill has cut off, and asks up to the highest one that is there. */
inline missing() {
	d_step {
		for (i : 1 .. SEGS - 1) { for (j : 0 .. CAP - 1) {
			if :: HAS(counts, i) && j < tail[i] -> numbers = numbers | BIT(NUMBER(rec[i * CAP + j])) :: else fi } j = 0 } i = 0;
		for (j : 1 .. nextv - 1) { assert(j <= number || HAS(numbers, j)) } j = 0;
		numbers = 0 }
}

proctype Crash() {
	byte i, j, counts, numbers, got[IDS], least[IDS], first[IDS]; bool opened, kept;
	atomic {
#ifdef CRASH_LAST
		finished == 3 + (SWEEPS > 0 -> 1 : 0) + CLEARS + CHECKPOINTS;                                              /* who is blocked is found then */
#endif
		crashed = true;
#if CHECKPOINTS > 0
		d_step { judgeCopy() };
#endif
		if
		:: kept = true; least[0] = acked[0]; least[1] = acked[1]    /* kill: the page cache stays */
		:: least[0] = safe[0]; least[1] = safe[1]; powerLoss()
#ifdef FAULTS
		/* kill, and the page cache has dropped what a failed sync left clean; a part of it before
		 * intact records is damage, which Open says */
		:: bad != 0 -> least[0] = safe[0]; least[1] = safe[1];
			for (i : 1 .. SEGS - 1) {
				if :: HAS(bad, i) && tail[i] > limit[i] -> tail[i] = limit[i] :: else fi } i = 0
#endif
		fi;
		recover();
		if :: kept -> missing(); kept = false :: else fi;
		/* [settle, settleSegment] What lies beyond the synced mark is rewritten, then synced: where
		 * a sync has failed the kernel believes it clean, and a sync alone would write nothing. */
		d_step {
			first[0] = VALUE(got[0]); first[1] = VALUE(got[1]);
			least[0] = safe[0]; least[1] = safe[1];
#ifndef SETTLE_UNSYNCED
			for (i : 1 .. SEGS - 1) {
				if :: HAS(counts, i) -> synced[i] = tail[i]; header = header | BIT(i);
					says[i] = tail[i]; dsays[i] = tail[i] :: else fi } i = 0;
			sealedSays = counts; dsealedSays = counts;
#ifndef NOT_REWRITTEN
			bad = bad & ~counts;
#endif
#endif
			named = exists; listed = counts; pending = 0; next = SEGS };
		if
		:: dlisted = listed; dpending = pending; dnext = next; exists = counts; opened = true
		:: skip                                                     /* cut short after the rename */
		fi;
		powerLoss();
		recover();
		assert(!opened || VALUE(got[0]) == first[0] && VALUE(got[1]) == first[1]);
		d_step {                                                    /* fewer final states */
			for (i : 0 .. SEGS - 1) { tail[i] = 0; synced[i] = 0; says[i] = 0; dsays[i] = 0 } i = 0;
			sealedSays = 0; dsealedSays = 0;
			header = 0; exists = 0; named = 0; listed = 0; pending = 0; next = 0; dlisted = 0; number = 0;
			dpending = 0; dnext = 0; counts = 0; opened = false; torn = false; bad = 0;
			got[0] = 0; got[1] = 0; least[0] = 0; least[1] = 0; first[0] = 0; first[1] = 0; pair = 0; containers = 0 }
	};
end:	do :: crashed od               /* the others stand still */
}

init {
	byte i;
	atomic {
#ifdef TOMBSTONES
		/* Everything is durable, and both ids are deleted: segments 1 and 2, sealed, with a dead record of
		 * id 1 and the tombstone of id 0; the tombstone of id 1. The lane has resumed segment 3, with a
		 * dead record of id 0. */
		d_step {
			rec[CAP] = 1; rec[CAP + 1] = 4; rec[2 * CAP] = 2; rec[3 * CAP] = 3; idOf[1] = 1; idOf[2] = 1; nextv = 5;
			tomb = BIT(2) | BIT(4); tail[1] = 2; tail[2] = 1; tail[3] = 1;
			for (i : 1 .. 3) { synced[i] = tail[i]; says[i] = tail[i]; dsays[i] = tail[i] } i = 0;
			lastID = 3; header = 14; exists = 14; named = 14; listed = 14; dlisted = 14; next = 4; dnext = 4; number = 4;
			intable = 14; committed = 14; durable = 14; known = 14; sealedSays = 6; dsealedSays = 6;
			state[1] = SEALED; state[2] = SEALED; state[3] = ACTIVE; lane = 3;
			acked[0] = 4; acked[1] = 2; safe[0] = 4; safe[1] = 2; removed[0] = 4; removed[1] = 2 };
#elif defined(HALF)
		/* Segment 1 holds a version of each id. That of id 0 was copied to segment 2, a target, in the last round of
		 * a compaction that was cut off. Both are sealed and durable. */
		d_step {
			rec[CAP] = 1; rec[CAP + 1] = 2; rec[2 * CAP] = 1; idOf[1] = 0; idOf[2] = 1; nextv = 3;
			tail[1] = 2; tail[2] = 1; targetKind = BIT(2);
			for (i : 1 .. 2) { synced[i] = tail[i]; says[i] = tail[i]; dsays[i] = tail[i] } i = 0;
			lastID = 2; header = 6; exists = 6; named = 6; listed = 6; dlisted = 6; next = 3; dnext = 3;
			intable = 6; committed = 6; durable = 6; known = 6; sealedSays = 6; dsealedSays = 6;
			state[1] = SEALED; state[2] = SEALED;
			slot[0] = LOC(2, 0); slot[1] = LOC(1, 1);
			acked[0] = 1; acked[1] = 2; safe[0] = 1; safe[1] = 2 };
#else
		/* Segment 1, sealed and durable, holds a version of each id. */
		d_step {
			rec[CAP] = 1; rec[CAP + 1] = 2; idOf[1] = 0; idOf[2] = 1; nextv = 3; tail[1] = 2; synced[1] = 2;
			lastID = 1; header = 2; exists = 2; named = 2; listed = 2; dlisted = 2; next = 2; dnext = 2; number = 2;
			says[1] = 2; dsays[1] = 2; sealedSays = 2; dsealedSays = 2;
			intable = 2; committed = 2; durable = 2; known = 2; state[1] = SEALED;
			slot[0] = LOC(1, 0); slot[1] = LOC(1, 1);
			acked[0] = 1; acked[1] = 2; safe[0] = 1; safe[1] = 2 };
#endif
		run Writer(); run Syncer(); run Compactor(); run Crash();
#if SWEEPS > 0
		run Sweeper();
#endif
#if CLEARS > 0
		run Clearer();
#endif
#if CHECKPOINTS > 0
		run Checkpointer();
#endif
		i = 0
	}
}
