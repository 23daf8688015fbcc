/*
 * The plan one writes down first: one buffer, plain offsets. "Build a new buffer under the read lock,
 * update every offset, swap the buffers under the write lock." Each order of the last two is wrong, and
 * so is doing both under one lock, when what was written since the build is forgotten.
 *
 *	(no define)      everything under one write lock: right, and everybody waits for it
 *	-DOFFSETS_FIRST  offsets, then buffers
 *	-DSWAP_FIRST     buffers, then offsets
 *	-DLOST_WRITE     build under the read lock, offsets and buffers together under the write lock
 *
 * The names of contents are versions: 1 is of id 0, 2 of id 1, 3 is what the writer puts.
 */
#define CELLS 4
byte offset[2], cell[2 * CELLS], tail, which;
byte readers; bool writing, shardMu;
byte cur[2], finished;
bool legal[4];             /* versions that the read under way may return */

#define RLOCK  atomic { !writing -> readers++ }
#define RUNLOCK readers--
#define LOCK   atomic { readers == 0 && !writing -> writing = true }
#define UNLOCK writing = false

proctype Writer() {        /* Put of id 0 */
	RLOCK;
	d_step { cell[which * CELLS + tail] = 3; tail++ };
	atomic { !shardMu -> offset[0] = tail - 1; cur[0] = 3; legal[3] = true };
	RUNLOCK;
	finished++
}

proctype Reader() {        /* Get */
	byte id, at, v;
	atomic { !writing -> readers++; if :: id = 0 :: id = 1 fi; legal[cur[id]] = true };
	at = offset[id];
	v = cell[which * CELLS + at];
	assert(legal[v] && (v == 2) == (id == 1));
	RUNLOCK;
	finished++
}

inline build() {           /* the dead record in front goes, so everything moves down */
	d_step { cell[CELLS] = cell[offset[0]]; cell[CELLS + 1] = cell[offset[1]] }
}
inline offsets() { offset[0] = 0; offset[1] = 1 }
inline buffers() { d_step { which = 1; tail = 2 } }

proctype Compactor() {
#if defined(OFFSETS_FIRST) || defined(SWAP_FIRST) || defined(LOST_WRITE)
	RLOCK;
	build();
	RUNLOCK;
#ifdef OFFSETS_FIRST
	offsets();
	LOCK; buffers(); UNLOCK;
#endif
#ifdef SWAP_FIRST
	LOCK; buffers(); UNLOCK;
	offsets();
#endif
#ifdef LOST_WRITE
	LOCK; offsets(); buffers(); UNLOCK;
#endif
#else
	LOCK; build(); offsets(); buffers(); UNLOCK;
#endif
	finished++
}

proctype Monitor() {
	finished == 3 -> assert(cell[which * CELLS + offset[0]] == cur[0]);
	assert(cell[which * CELLS + offset[1]] == cur[1])
}

init {
	atomic {
		offset[0] = 1; offset[1] = 2; cell[1] = 1; cell[2] = 2; tail = 3; cur[0] = 1; cur[1] = 2;
		run Writer(); run Reader(); run Compactor(); run Monitor()
	}
}
