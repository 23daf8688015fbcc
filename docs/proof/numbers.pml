/*
 * Numbers of records that a kill leaves without a record, and recoveries that are killed themselves: none of them may
 * take such a number for a file that is gone. README.md says how to read this.
 *
 * Names in [brackets] are the Go functions that a step models. One define, -DNAME, puts one mistake into it.
 */
#define LANES 2
#define PUTS 2                 /* of each lane */
#define CUTS 2                 /* recoveries that are killed, at most */

byte drawn, listed;            /* highest number drawn; that of the manifest */
byte begun[LANES], done[LANES];/* records with a digest; those of them that are whole */
byte numbers;                  /* of whole records: bit n - 1 for number n */
bool killed;

proctype Writer(byte lane) {
	byte n, k;
	{
		do
		:: k < PUTS ->
#ifdef DRAWN_FIRST
			atomic { drawn++; n = drawn };
			begun[lane]++;
#else
			begun[lane]++;                                      /* [finishLocked] putDigest */
			atomic { drawn++; n = drawn };
#endif
			atomic { done[lane]++; numbers = numbers | 1 << (n - 1); k++ }
		:: k == PUTS -> break
		od
	} unless { killed }
}

proctype Flusher() {
	{ listed = drawn } unless { killed }                        /* [newManifest] */
}

/* A digest without a record goes with what else lies behind the records. */
#define CLEAR begun[lane] = done[lane]                          /* [clearRemains] */

inline mayBeKilled() {
	if :: cuts < CUTS -> cuts++; goto open :: skip fi
}

proctype Recovery() {
	byte lane, n, found, highest, unfinished, cuts;
	killed = true;
open:	skip;
	d_step {                                                    /* [missingRecords] */
		found = 0; unfinished = 0; highest = listed;
		for (n : 1 .. LANES * PUTS) {
			if :: (numbers >> (n - 1) & 1) && n > listed -> found++; highest = n :: else fi };
		for (lane : 0 .. LANES - 1) { unfinished = unfinished + begun[lane] - done[lane] };
		assert(highest <= listed + found + unfinished);
		lane = 0; n = 0 };
#ifdef CLEARED_FIRST
	do :: lane < LANES -> CLEAR; lane++; mayBeKilled() :: lane == LANES -> break od;
#endif
	listed = drawn;                                             /* [settle] the manifest, beyond what may be missing */
	mayBeKilled();
	lane = 0;
	do :: lane < LANES -> CLEAR; lane++; mayBeKilled() :: lane == LANES -> break od
}

init {
	byte lane;
	atomic { for (lane : 0 .. LANES - 1) { run Writer(lane) }; run Flusher(); run Recovery() }
}
