/*
 * contentLock: a lock whose readers count themselves in slots of their own. contentlock.go has the
 * argument; README.md says how to read this.
 */
#define SLOTS 2
#ifndef READERS
#define READERS 3
#endif
#ifndef READS
#define READS 2
#endif
#define WRITERS 2

byte holders[SLOTS];
bool biased = true;
byte underR; bool underW, underWaiting;   /* the RWMutex beneath: a waiting writer stops new readers */
byte in;                   /* readers that are in */
bool writing;              /* a writer is in */

proctype Reader(byte slot) {
	byte k; bool under;
	do
	:: k < READS ->
		k++;
#ifdef BIAS_FIRST
		if
		:: biased -> holders[slot]++
		:: else -> goto queue
		fi;
#else
		holders[slot]++;                                            /* [RLock] */
		if
		:: biased -> skip
		:: else -> holders[slot]--; goto queue
		fi;
#endif
		under = false;
		goto enter;
queue:		atomic { !underW && !underWaiting -> underR++; under = true };  /* [queue] */
enter:		skip;
		d_step { in++; assert(!writing) };
		in--;
		if                                                          /* [RUnlock] */
		:: under -> underR--
		:: !under -> holders[slot]--
		fi
	:: else -> break
	od
}

proctype Writer() {
	byte i;
	atomic { !underW && !underWaiting -> underWaiting = true };     /* [Lock] */
	atomic { underR == 0 -> underWaiting = false; underW = true };
#ifndef SCAN_FIRST
	biased = false;
#endif
#ifdef SLOT_SKIPPED
	i = 1;
#endif
	do
	:: i < SLOTS -> holders[i] == 0; i++
	:: else -> break
	od;
#ifdef SCAN_FIRST
	biased = false;
#endif
	skip;
	d_step { assert(in == 0 && !writing); writing = true };
	writing = false;
#ifdef BIAS_LATE
	underW = false;                                                 /* [Unlock] */
	biased = true
#else
	biased = true;
	underW = false
#endif
}

init {
	byte n;
	atomic {
		n = 0; do :: n < READERS -> run Reader(n % SLOTS); n++ :: else -> break od;
		n = 0; do :: n < WRITERS -> run Writer(); n++ :: else -> break od
	}
}
