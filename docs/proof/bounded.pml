/*
 * Writers at the budget's limit: they wait for a compaction, which can always run, and every one of them
 * ends, with a segment or an error. README.md says how to read this, and what is left out.
 *
 * Names in [brackets] are the Go functions that a step models. One define, -DNAME, puts one mistake
 * into it; README.md lists them, and the script `check` demands that Spin refutes each.
 *
 * All memory is counted in segments. One of MAX is the survivor segment, which compactions alone may use.
 * What a round does to records is in memory.pml; here it is one step.
 */
#ifndef WRITES
#define WRITES 1           /* of each writer */
#endif
#ifndef MANUAL
#define MANUAL 0           /* compactions that somebody calls for, and may cancel */
#endif
#ifndef CLOSES
#define CLOSES 0
#endif
#ifndef PINS
#define PINS 0             /* victims that a reader may have pinned */
#endif
#ifndef FAILS
#define FAILS 1            /* rounds that may fail */
#endif
#define LANES 2            /* and writers, one each */
#define CAP 2              /* records in a segment */
#define MAX 4              /* the budget */

#define BIT(i) (1 << (i))
#define HAS(set, i) ((set) & BIT(i))

#define NONE 0
#define ACTIVE 1
#define SEALED 2
#define RETIRED 3          /* out of the table, and pinned */
#define TARGET 4           /* not in it yet */

byte state[MAX + 1], tail[MAX + 1], live[MAX + 1];  /* segments, 0 is none */
byte lane[LANES];
bool rolling[LANES];
byte used;                 /* segments mapped, the survivor and the retired among them */
bool survivor = true;      /* the survivor segment is there */
bool lent;                 /* a compaction has it, or what it gave back instead */
byte pins = PINS, fails = FAILS;
bool compacting, wake;     /* Store.compacting; the channel of one that maintenance waits at */
bool closing;
byte entered, running;     /* calls and goroutines that Close waits for */

/* Of each writer: what it took before its attempt is no longer the newest; it waits; a compaction has begun
 * since; one that has begun since has ended and gave nothing. */
bool woken[LANES], waits[LANES], begun[LANES], barren[LANES];
bool gave;                 /* this compaction has given something to lanes */
byte finished;

#define VICTIM(i) (state[i] == SEALED && live[i] < tail[i])
#define DEAD(i)   ((state[i] == SEALED || state[i] == ACTIVE) && live[i] < tail[i])
#define FITS (used + 1 <= MAX)
/* [keepSurvivor, hasSurvivor] A lane gets none while the survivor is missing, and not lent. */
#ifdef SURVIVOR_FOR_LANES
#define LANE_FITS (FITS || survivor)
#else
#define LANE_FITS (used + 1 + (survivor || lent -> 0 : 1) <= MAX)
#endif

/* A round ended, a compaction ended, memory was given back, Close began. */
inline signal() { woken[0] = true; woken[1] = true }

/* [segmentPool.offer, giveBack] Memory of segment i is given back: to the survivor first, lent or not. */
inline give(i) {
	state[i] = NONE; tail[i] = 0;
	if
#ifndef SURVIVOR_LAST
	:: !survivor -> survivor = true
#endif
	:: else -> used--; gave = true
	fi;
	signal()
}

/* A segment with nothing live leaves: memory.pml and sweep.pml have how. */
inline forget(i) { for (l : 0 .. LANES - 1) { if :: sealed[l] == i -> sealed[l] = 0 :: else fi } l = 0 }
inline leave(i) { forget(i); give(i) }

inline newSegment(s) {
	i = 1; do :: state[i] != NONE -> i++ :: else -> break od;
	assert(i <= MAX); s = i; i = 0
}

byte sealed[LANES];        /* the compaction's: what it has sealed, as long as that is in the table */

proctype Writer(byte me) {
	byte k, i, l, s; bool ok;
	do
	:: atomic { k < WRITES && !closing -> k++; entered++; begun[me] = false; barren[me] = false };
attempt:	skip;
#ifndef TAKEN_LATE
		woken[me] = false;                                          /* before the attempt */
#endif
		atomic {
			if
			:: lane[me] != 0 && tail[lane[me]] < CAP ->             /* [tryPut] */
				s = lane[me]; tail[s]++; live[s]++;
				if :: s = 0 :: live[1] > 0 -> s = 1 :: live[2] > 0 -> s = 2 :: live[3] > 0 -> s = 3 fi;
				if :: s != 0 && state[s] != TARGET -> live[s]-- :: else fi;  /* what it supersedes */
				s = 0; goto written
			:: else -> !rolling[me]; rolling[me] = true             /* [roll] */
			fi };
#ifdef CHECK_THEN_ADD
		ok = LANE_FITS;
#else
		d_step { ok = LANE_FITS; if :: ok && FITS -> used++ :: ok && !FITS -> survivor = false :: else fi };
#endif
		if
		:: ok ->
			d_step {                                                /* [createSegment, install] */
#ifdef CHECK_THEN_ADD
				used++;
#endif
				assert(used <= MAX);
				newSegment(s);
				if :: lane[me] != 0 -> state[lane[me]] = SEALED :: else fi;
				state[s] = ACTIVE; live[s] = 0; lane[me] = s; s = 0; ok = false; rolling[me] = false };
			goto attempt
		:: else
		fi;
#ifndef WAITS_ROLLING
		rolling[me] = false;                                        /* no lock is held from here on */
#endif
		atomic {
			if :: closing -> goto closed :: else fi;
			d_step { for (i : 1 .. MAX) {                           /* what is dead leaves at once */
				if :: state[i] == SEALED && live[i] == 0 && !compacting -> leave(i); ok = true :: else fi } i = 0 };
			if :: ok -> ok = false; goto attempt :: else fi;
			d_step { for (i : 1 .. MAX) { if :: DEAD(i) -> ok = true :: else fi } i = 0 };
			if
#ifndef REFUSED_STALE
			:: (!ok || barren[me]) && woken[me] -> ok = false; goto attempt  /* something has changed since */
#endif
			:: else -> if :: !ok || barren[me] -> ok = false; goto refused :: else fi
			fi;
			ok = false; waits[me] = true;
#ifndef NOBODY_RUNS
			if :: !compacting -> wake = true :: else fi
#endif
		};
#ifdef TAKEN_LATE
		woken[me] = false;
#endif
		atomic { if
			:: woken[me] -> skip
#ifndef CLOSE_UNSEEN
			:: closing -> skip
#endif
			fi;
			waits[me] = false };
#ifdef WAITS_ROLLING
		rolling[me] = false;
#endif
		goto attempt;
refused:	skip;                                                   /* ErrNoSpace */
		d_step { ok = false;
#ifdef WAITS_ROLLING
			rolling[me] = false;
#endif
			/* Not while its lane has room, nor while a whole segment could be had */
			assert(lane[me] == 0 || tail[lane[me]] == CAP || compacting || barren[me]) };
written:
progress:	entered--
	:: atomic { k == WRITES || closing -> break }
	od;
	goto over;
closed:	entered--;                                                  /* ErrClosed */
over:	skip;
	d_step { k = 0; begun[me] = false; barren[me] = false; woken[me] = false; finished++ }
}

/* [Store.compact] cancel: its caller may cancel it at any time */
inline compaction(cancel) {
	atomic { if :: compacting || closing -> goto busy :: else -> compacting = true; entered++ fi;
		gave = false; failed = false; cancelled = false;
		for (l : 0 .. LANES - 1) { begun[l] = waits[l] } l = 0 };
	/* Nothing changes before it is known that a round can run: what is dead, and memory for a target. */
	d_step { any = false; for (i : 1 .. MAX) {
		if :: DEAD(i) -> any = true :: else fi } i = 0;
		for (i : 1 .. MAX) { if :: state[i] == RETIRED -> ok = true :: else fi } i = 0;
		assert(survivor || FITS || ok); ok = false;                 /* at any limit a round can run */
		any = any && (survivor || FITS) };
	if :: !any -> goto ended :: else -> lent = true fi;             /* [lend, mayRun] */
	do                                                              /* [sealLanes] */
	:: l < LANES -> atomic { !rolling[l] ->
		if :: lane[l] != 0 && tail[lane[l]] > 0 -> sealed[l] = lane[l]; state[lane[l]] = SEALED; lane[l] = 0
		   :: else fi; l++ }
	:: else -> l = 0; break
	od;
	skip;
	d_step { for (i : 1 .. MAX) { if :: VICTIM(i) -> victims = victims | BIT(i) :: else fi } i = 0 };
	do
	:: victims != 0 ->
		d_step { ok = true;                                         /* [newTarget] */
			if
			:: survivor -> survivor = false
			:: !survivor && FITS -> used++
			:: else -> ok = false; failed = true
			fi;
			if :: ok -> newSegment(target); state[target] = TARGET :: else fi;
			/* At the limit a round can run, unless readers hold what others gave. */
			any = false;
			for (i : 1 .. MAX) { if :: state[i] == RETIRED -> any = true :: else fi } i = 0;
			assert(ok || any); any = false;
			assert(used <= MAX) };
		if :: !ok -> break :: else fi;
		if
		:: d_step { fails > 0 -> fails--; failed = true; give(target); target = 0 }; break
		:: d_step { cancel || closing -> failed = true; cancelled = true; give(target); target = 0 }; break
		:: atomic { true ->
			d_step { state[target] = SEALED; i = 1;                 /* [build, commit] */
				do
				:: i <= MAX && HAS(victims, i) && live[i] > 0 && tail[target] < CAP ->
					live[i]--; live[target]++; tail[target]++
				:: i <= MAX && !(HAS(victims, i) && live[i] > 0 && tail[target] < CAP) -> i++
				:: i > MAX -> break
				od; target = 0; i = 1 };
			do                                                      /* [swap] */
			:: i <= MAX && HAS(victims, i) && live[i] == 0 ->
				victims = victims & ~BIT(i);
				if
				:: d_step { leave(i) }
				:: d_step { pins > 0 -> pins--; state[i] = RETIRED; tail[i] = 0; forget(i) }
				fi;
				i++
			:: i <= MAX && !(HAS(victims, i) && live[i] == 0) -> i++
			:: i > MAX -> i = 0; break
			od;
			signal() }                                              /* a round ended */
		fi
	:: else -> break
	od;
#ifdef SIGNAL_EARLY
	skip;
	d_step { signal() };
#endif
	do                                                              /* lanes get back what was sealed */
	:: l < LANES -> atomic { !rolling[l] ->
#ifndef NOT_GIVEN_BACK
		if :: failed && lane[l] == 0 && sealed[l] != 0 -> lane[l] = sealed[l]; state[sealed[l]] = ACTIVE
		   :: else fi;
#endif
		assert(!failed || sealed[l] == 0 || lane[l] != 0); sealed[l] = 0; l++ }
	:: else -> l = 0; break
	od;
ended:	skip;
	d_step { for (l : 0 .. LANES - 1) {
		if :: begun[l] && !gave && !cancelled -> barren[l] = true :: else fi } l = 0;
		victims = 0; any = false; ok = false; sealed[0] = 0; sealed[1] = 0;
		failed = false; cancelled = false; lent = false;
#ifndef SIGNAL_EARLY
		compacting = false; signal()
#endif
	};
#ifdef SIGNAL_EARLY
	compacting = false;
#endif
	entered--;
busy:	skip
}

/* The goroutine of maintenance */
proctype Maintenance() {
	byte i, l, victims, target; bool any, ok, failed, cancelled;
again:	if
	:: atomic { wake && !closing -> wake = false };
		compaction(false);
		goto again
	:: closing || finished == LANES + (MANUAL > 0 -> 1 : 0)
	fi;
	running--
}

#if MANUAL > 0
proctype Caller() {
	byte i, l, victims, target, c; bool any, ok, failed, cancelled;
	do
	:: c < MANUAL -> c++; compaction(true)
	:: else -> break
	od;
	finished++
}
#endif

/* [Store.unpin] of the last reader, at some time */
proctype Unpinner() {
end:	do
	:: d_step { state[1] == RETIRED -> give(1) }
	:: d_step { state[2] == RETIRED -> give(2) }
	:: d_step { state[3] == RETIRED -> give(3) }
	:: d_step { state[4] == RETIRED -> give(4) }
	od
}

/* [Store.Close] */
proctype Closer() {
	closing = true;
#ifndef CLOSE_UNSEEN
	d_step { signal() };
#endif
	entered == 0 && running == 0
}

init {
	byte i;
	atomic {
		/* At the limit: a sealed segment with more or less live, and each lane's, one full and one not. */
		used = MAX; running = 1;
		state[1] = SEALED; tail[1] = CAP; if :: live[1] = 0 :: live[1] = 1 :: live[1] = CAP fi;
		state[2] = ACTIVE; tail[2] = CAP; lane[0] = 2; if :: live[2] = 1 :: live[2] = CAP fi;
		state[3] = ACTIVE; lane[1] = 3; live[3] = 1; tail[3] = 1;
		run Writer(0); run Writer(1); run Maintenance();
#if MANUAL > 0
		run Caller();
#endif
#if CLOSES > 0
		run Closer();
#endif
#ifdef UNPINS
		run Unpinner();
#endif
		i = 0
	}
}
