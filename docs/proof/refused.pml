/*
 * Three ways in which writes were refused for good though most of the store was dead: a round over one target that
 * gives nothing back, tombstones that one dead record keeps, and a writer whose answers are to others. Each is a small
 * model of its own; a run is one of them. README.md says how to read this.
 *
 * Names in [brackets] are the Go functions that a step models. One define, -DNAME, puts one mistake into it.
 */
#define CAP 4                  /* records that a target has room for */

/* One target, made of the space kept back, for two victims; a writer supersedes what the walk has listed. */
byte live[2], left[2], tomb[2];
bool leaves[2];

proctype Superseder() {
	do
	:: atomic { live[0] > 0 -> live[0]-- }
	:: atomic { live[1] > 0 -> live[1]-- }
	:: break
	od
}

#ifdef FITS_BY_LIVE
#define NEED(v) live[v]
#else
#define NEED(v) left[v]
#endif

proctype OneTarget() {
	byte v, n, need, room = CAP, used, kept; bool partial;
	atomic { left[0] = live[0]; left[1] = live[1] };            /* [walk] */
	atomic {                                                    /* [fitOneTarget] */
		if
		:: NEED(0) + tomb[0] <= CAP -> skip
		:: else -> goto none                                    /* another one comes first, or none fits */
		fi;
		do
		:: n < 2 ->
			need = NEED(n);
			if
			:: need + tomb[n] <= room -> room = room - need - tomb[n]; kept = kept + tomb[n]; n++
			:: else -> if :: need > 0 -> partial = true; n++ :: else fi; break
			fi
		:: else -> break
		od };
	do                                                          /* [take, allocate] */
	:: atomic { v < n && left[v] == 0 -> leaves[v] = true; v++ }
	:: atomic { v < n && left[v] > 0 ->
		if
		:: partial && v == n - 1 && left[v] == 1 -> break       /* it would leave, and its tombstones have no room */
		:: else -> if :: used < CAP - kept -> used++; left[v]-- :: else -> break fi
		fi }
	:: v == n -> break
	od;
	atomic {                                                    /* [carryTombstones] */
		if :: leaves[0] -> used = used + tomb[0] :: else fi;
		if :: leaves[1] -> used = used + tomb[1] :: else fi;
		assert(used <= CAP);                                    /* no second target: there is none */
		assert(leaves[0] || leaves[1]) };                       /* or the space kept back is gone for nothing */
none:	skip
}

/* A segment of tombstones, and the segment of a lane that is hardly used, in which dead records may be older. */
#define RECORDS 4              /* of the lane's segment */
byte dead;

proctype Tombstones() {
	byte tombs = RECORDS; bool sealed, gave;
	atomic {                                                    /* [urgentSealShare, sealLane] */
#ifdef SEALED_BY_SHARE
		if :: 2 * dead >= RECORDS -> sealed = true :: else fi;
#else
		if :: dead > 0 -> sealed = true :: else fi;
#endif
		if :: dead == 0 || sealed -> tombs = 0; gave = true     /* [oldestDead]: nothing older stays */
		   :: else -> skip                                      /* all are copied, and nothing is given back */
		fi };
	assert(gave && tombs == 0)                                  /* or the writer is refused, the next one too */
}

/* A writer that waits, and compactions that give nothing back. */
byte asked, fruitless, number, compactions;
bool woken, refused;

proctype Asker() {
	do
	:: atomic { woken = false;                                  /* [withRoom] */
		if :: number > 0 && number <= fruitless -> refused = true; break :: else fi;
#ifdef ASKS_ANEW
		asked++; number = asked
#else
		if :: number == 0 || number <= fruitless -> asked++; number = asked :: else fi
#endif
		};
		woken                                                   /* [awaitChange] */
	od
}

proctype Compactions() {
	byte heard;
	do
	:: atomic { !refused && asked > fruitless -> heard = asked; compactions++; assert(compactions <= 2) };
		woken = true;                                           /* a round ended */
		d_step { fruitless = heard; woken = true }              /* [answer] */
	:: refused -> break
	od
}

init {
	byte v;
	atomic { if
	:: select(v : 0 .. CAP); live[0] = v; select(v : 0 .. CAP); live[1] = v;
		select(v : 0 .. 2); tomb[0] = v; select(v : 0 .. 2); tomb[1] = v;
		run Superseder(); run OneTarget()
	:: select(v : 0 .. RECORDS); dead = v; run Tombstones()
	:: run Asker(); run Compactions()
	fi }
}
