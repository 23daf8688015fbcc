package main

// faults are the mistakes that the protocol's tests must notice, in the order of a round. Those of what only
// directories have are in directoryFaults, those of batches in batchFaults.
var faults = []fault{
	{
		name: "lane goes on in a victim", file: "lane.go",
		old: "ln.active = nil", new: "_ = ln",
		test: "TestCompact_OperationAtEveryPoint",
	},
	{
		name: "lane takes a victim again", file: "lane.go",
		old: "if !seg.claimFor(ownerLane) { // a", new: "if !seg.claimFor(ownerLane) && false { // a",
		test: "TestDirectory_LaneGoesOnInNoVictim",
	},
	{
		name: "large put sealed early", file: "large.go",
		old: "s.segments.publishNew(seg)", new: "seg.seal(false); s.segments.publishNew(seg)",
		test: "TestCompact_LargePutUnderWay",
	},
	{
		name: "scan parts ids of one tag", file: "all.go",
		old: "i >= b.want && b.slots[i].tag() != b.slots[i-1].tag()", new: "i >= b.want",
		test: "TestScan_EqualTags",
	},
	{
		name: "cursor of any store", file: "cursor.go",
		old: "uint64(c)>>placeBits != s.stamp() || place == 0", new: "place == 0",
		test: "TestScan_CursorOfAnotherStore",
	},
	{
		name: "clear skips the lanes", file: "clear.go",
		old: "s.sealActiveLocked(ln, false)", new: "_ = ln",
		test: "TestClear_NothingLeft",
	},
	{
		name: "clear leaves segments to be listed again", file: "clear.go",
		old: "seg.inFile.committed.Store(false)", new: "_ = seg",
		test: "TestClear_DuringCompaction",
	},
	{
		name: "clear keeps no write out", file: "put.go",
		old: "\tif s.barrier != nil {\n\t\treturn false, s.refusal()", new: "\tif s.closed {\n\t\treturn false, s.refusal()",
		test: "TestPower_ClearKeepsWritesOut",
	},
	{
		name: "clear with a manifest of before", file: "clear.go",
		old: "next != m.Next || !maps.Equal(pending, still) ||", new: "false && next != m.Next && !maps.Equal(pending, still) ||",
		test: "TestPower_ClearKeepsWritesOut",
	},
	{
		name: "cleared segments go before the manifest is durable", file: "sweep.go",
		old:  "\td.manifestMu.Lock()\n\tdefer d.manifestMu.Unlock()\n\tfor _, seg := range segs {",
		new:  "\tfor _, seg := range segs {",
		test: "TestPower_SweepDuringClear",
	},
	{
		name: "load outlives a clear", file: "load.go",
		old: " || c.clears != s.segments.clears.Load()", new: "",
		test: "TestClear_SupersedesLoads",
	},
	{
		name: "wake-up lost", file: "room.go",
		old: "\t\tcase <-change:\n\t\t\treturn true, nil", new: "\t\tcase <-s.room.next():\n\t\t\treturn true, nil",
		test: "TestRoom_NoWakeUpLost",
	},
	{
		name: "answer of the past", file: "room.go",
		old: "number <= r.fruitless && dead <= r.dead", new: "number <= r.fruitless",
		test: "TestRoom_AnswerOfThePast",
	},
	{
		name: "patience by the clock", file: "room.go",
		old: "now != before {", new: "false && now != before {",
		test: "TestRoom_PatienceIsNotTime",
	},
	{
		name: "answered while a caller compacts", file: "maintain.go",
		old: "\tif s.compacting.Load() {\n\t\treturn\n\t}", new: "",
		test: "TestRoom_CallersCompaction",
	},
	{
		name: "refused while a caller compacts", file: "room.go",
		old: "(hopeless || fruitless) && !compacting", new: "fruitless || hopeless && !s.compacting.Load()",
		test: "TestRoom_CallersCompaction",
	},
	{
		name: "copies of a round are news for a writer", file: "room.go",
		old: "dead = 0 // what its rounds", new: "_ = 0 // what its rounds",
		test: "TestRoom_CopiesAreNoNews",
	},
	{
		name: "room in half empty segments not counted", file: "stats.go",
		old: "case seg.isHalfEmpty():", new: "case false:",
		test: "TestMaxBytes_FullOfHalfEmpty",
	},
	{
		name: "refused for want of a smaller table", file: "resize.go",
		old: "\t\t\t\tif full {", new: "\t\t\t\tif full || err != errNoBlock {",
		test: "TestMaxBytes_TableStays",
	},
	{
		name: "asks anew with each round", file: "room.go",
		old: "if asked == 0 || s.room.isAnswered(asked) {", new: "if true {",
		test: "TestMaxBytes_BuriedForGood",
	},
	{
		name: "what fits counted by what is live", file: "victims.go",
		old: "int(v.left), int(v.seg.tombstoneBytes", new: "int(v.seg.live.Load()), int(v.seg.tombstoneBytes",
		test: "TestOneTarget_SupersededSinceTheWalk",
	},
	{
		name: "any round takes the space kept back", file: "build.go",
		old: "least := math.MaxInt", new: "least := size",
		test: "TestUnfilled_OnFullDisk",
	},
	{
		name: "lanes not given back", file: "compact.go",
		old: "c.s.unsealLanes(c.sealed)", new: "_ = c.sealed",
		test: "TestBounded_FailedCompactionGivesLanesBack",
	},
	{
		name: "lanes sealed before it is known that a round can run", file: "compact.go",
		old: "\tif err := c.mayRun(); err != nil {", new: "\tc.sealed = nil; c.s.sealLanes(0); if err := c.mayRun(); err != nil {",
		test: "TestBounded_RefusedCyclesChangeNothing",
	},
	{
		name: "budget not checked", file: "mmap.go",
		old: "m.limit > 0 && now+int64(size) > m.limit", new: "false",
		test: "TestMaxBytes_ClaimedToTheLast",
	},
	{
		name: "survivor as small as the first segments", file: "memory.go",
		old: "\t\t\t\tsize = spec.size", new: "\t\t\t\tsize = 0",
		test: "TestGrowth_CompactsAtTheLimit",
	},
	{
		name: "spares as small as the first segments", file: "reserve.go",
		old: "d.growLocked(spec.size)", new: "d.growLocked(0)",
		test: "TestGrowth_Sizes/directory",
	},
	{
		name: "reserve kept for good", file: "maintain.go",
		old: "s.pool.takeUnused(start.Add(-s.opts.Maintenance.Interval))", new: "nil",
		test: "TestMaintain_Reserve",
	},
	{
		name: "failed unmapping forgotten", file: "unreturned.go",
		old: "u.kept, u.cause = append(u.kept, m), err\n\tu.bytes", new: "u.cause = err\n\tu.bytes",
		test: "TestUnreturned_Close",
	},
	{
		name: "pages of kept memory not given back", file: "unreturned.go",
		old: "_ = vm.Discard(m.mem)", new: "_ = vm.Discard",
		test: "TestUnreturned_KeptAndTold",
	},
	{
		name: "mappings without a bound", file: "mmap.go",
		old: "vm.Room(room)", new: "error(nil)",
		test: "TestMappings_NearLimit",
	},
	{
		name: "failed put leaves its body", file: "writing.go",
		old: "!layout.IsZero(part) && !yield(", new: "part == nil && !yield(",
		test: "TestDirectory_FailedPutLeavesNoBody",
	},
	{
		name: "miss believed at once", file: "get.go",
		old: "err == nil && before%2 == 0 && sh.shifts.Load() == before", new: "_ = before; err == nil",
		test: "TestFind_RemovalMovesSlotPastReader",
	},
	{
		name: "write misses the table being filled", file: "resize.go",
		old: "\t\tr.next.exchange(t.get(pos), w)\n", new: "\t\t_ = r\n",
		test: "TestResize_WritesBetweenMoves",
	},
	{
		name: "table moved in one hold", file: "resize.go",
		old: "sh.moveLocked(resizeBatch)", new: "sh.moveLocked(tagCount)",
		test: "TestHolds_TableInBatches",
	},
	{
		name: "old table released at once", file: "resize.go",
		old: "s.replaced.add(old)", new: "s.releaseTables([]table{old})",
		test: "TestReplaced_Bounded",
	},
	{
		name: "sparse blocks of tables are never emptied", file: "index.go",
		old: "emptied := s.evacuate()", new: "emptied := false",
		test: "TestIndex_BytesPerMemory_AnyPattern",
	},
	{
		name: "table moved without a look after Close", file: "tablemem.go",
		old: "\tif !b.holds(sh.current()) {\n\t\treturn false\n\t}\n\t_ = s", new: "\t_ = s",
		test: "TestEvacuate_ClosedBeforeMove",
	},
	{
		name: "drain skips a slot", file: "internal/biaslock/biaslock.go",
		old: "for i := range l.slots {\n\t\tfor n := 0; ", new: "for i := range l.slots[1:] {\n\t\tfor n := 0; ",
		test: "TestLock_WriterWaitsForEverySlot",
	},
	{
		name: "answer taken back by a later look", file: "room.go",
		old: "number > r.answered && number", new: "number",
		test: "TestRoom_Answers",
	},
	{
		name: "room without the reserve", file: "stats.go",
		old: " + details.RetiredBytes + details.ReserveBytes", new: " + details.RetiredBytes",
		test: "TestStats_Budget",
	},
	{
		name: "dead bytes not counted", file: "put.go",
		old: "if superseded.live.Add(-int64(oldSize)) == 0 {", new: "if superseded == nil {",
		test: "TestStore_RandomHistory/one_lane",
	},
	{
		name: "copy not verified", file: "copies.go",
		old: " || !record.Intact(rec, h, seg.seedAt(from))", new: "",
		test: "TestCompact_UndoneOnCorruptRecord",
	},
	{
		name: "content not verified", file: "get.go",
		old: "!record.IntactContent(out[len(dst):], m.h)", new: "false",
		test: "TestGet_EveryByteDamaged",
	},
	{
		name: "targets published late", file: "flip.go",
		old: "\tr.publish()", new: "\tdefer r.publish()",
		test: "TestCompact_ContentPreserved", by: panics, // the flip finds no segment
	},
	{
		name: "swap before commit", file: "round.go",
		old:  "moved, superseded, err := r.commit(ctx)",
		new:  "for _, v := range c.work { c.s.segments.removeLocked([]*segment{v.seg}) }; moved, superseded, err := r.commit(ctx)",
		test: "TestCompact_ContentPreserved",
	},
	{
		name: "flip without comparing", file: "flip.go",
		old: "pos, ok := sh.current().find(m.from); ok", new: "pos, w := sh.current().first(m.from.tag()); w != 0",
		test: "TestCompact_OperationAtEveryPoint/workers=1",
	},
	{
		name: "hand leaves the bit of a large record", file: "evict.go",
		old: "sh.setLocked(pos, w)", new: "_ = pos",
		test: "TestEvict_HandClearsTheBitOfLarge",
	},
	{
		name: "bit of reads stored blindly", file: "evict.go",
		old: "atomic.CompareAndSwapUint64((*uint64)(&t[pos]), uint64(w), uint64(w|readBit))", new: "t.set(pos, w|readBit)",
		test: "TestMarkRead_SlotChanged",
	},
	{
		name: "flip compares the bit of reads", file: "index.go",
		old: "if v.same(w) {", new: "if v == w {",
		test: "TestEvict_FlipsIgnoreTheBit",
	},
	{
		name: "slot moves without its bit", file: "resize.go",
		old: "r.next.insert(w)", new: "r.next.insert(w &^ readBit)",
		test: "TestResize_ReadsBetweenMoves",
	},
	{
		name: "hand keeps the bit of reads", file: "flip.go",
		old: "\t\tbits = 0\n", new: "\t\tbits = readBit\n",
		test: "TestEvict_HandClearsTheBit",
	},
	{
		name: "room made in vain", file: "large.go",
		old: "!s.canHold(spec.size)", new: "false",
		test: "TestEvict_TooLargeDropsNothing",
	},
	{
		name: "evicted only for writes that wait", file: "maintain.go",
		old: "return s.lacksRoom() || s.evicts()", new: "return s.evicts()",
		test: "TestEvict_BeforeRoomIsGone",
	},
	{
		name: "small ones go too", file: "evict.go",
		old: "!v.read.contains(unit) && !c.isSmall(size)", new: "!v.read.contains(unit)",
		test: "TestEvict_SmallOnesStay",
	},
	{
		name: "small ones never go", file: "evict.go",
		old: "rand.IntN(smallGone) > 0", new: "rand.IntN(smallGone) >= 0",
		test: "TestEvict_SmallOnesStay",
	},
	{
		name: "evicted again before the writer runs", file: "maintain.go",
		old: "s.room.isAsked() && !s.keepsForLanes()", new: "s.room.isAsked()",
		test: "TestEvict_NotAgainBeforeWriterRuns",
	},
	{
		name: "offer not earned back", file: "workers.go",
		old: "max(least, a.owed)", new: "least",
		test: "TestPace_EarnsWhatAnOfferCost",
	},
	{
		name: "preemption taken for work", file: "workers.go",
		old: "min(now.Sub(a.last), longestStep)", new: "now.Sub(a.last)",
		test: "TestPace_PreemptionEarnsNothing",
	},
	{
		name: "a walk for each few rounds", file: "victims.go",
		old: "max(rounds, c.liveBytes/mostWalks)", new: "rounds",
		test: "TestCompact_WalksAreFew",
	},
	{
		name: "debt forgotten at each shard", file: "walk.go",
		old:  "\tslots := make([]slot, 0, 2*walkBatch)\n",
		new:  "\tslots := make([]slot, 0, 2*walkBatch)\n\tc.pace.workers[worker] = account{}\n",
		test: "TestPace_DebtSurvivesShardsAndRounds",
	},
	{
		name: "worker joins a phase that has ended", file: "workers.go",
		old: "if p.ended {", new: "if false {",
		test: "TestPhase_EndWaitsForThoseWhoJoined",
	},
	{
		name: "round undone beside its workers", file: "workers.go",
		old: "\t\tcancel(nil)\n\t\t_ = p.end()\n", new: "\t\tcancel(nil)\n",
		test: "TestTogether_PanicStopsAll",
	},
	{
		name: "no undo", file: "flip.go",
		old: "c.s.unflip(&c.s.shards[i], batch)", new: "_ = batch",
		test: "TestCompact_OperationThenUndo/workers=1",
	},
	{
		name: "undo without comparing", file: "flip.go",
		old: "pos, ok := sh.current().find(m.to); ok", new: "pos, w := sh.current().first(m.to.tag()); w != 0",
		test: "TestUndo_AtEveryFlipAfterWrites",
	},
	{
		name: "victim leaves half copied", file: "round.go",
		old: "case v.live.len() > 0:", new: "case false:",
		test: "TestCompact_OverheadBounded",
	},
	{
		name: "victim leaves with live bytes", file: "round.go",
		old: "case live <= v.dropBytes():", new: "case true:",
		test: "TestCompact_WalkMissesMemory",
	},
	{
		name: "drop before the manifest", file: "round.go",
		old: "\tdrops := c.leavingDrops()\n", new: "\tdrops := c.leavingDrops()\n\tc.apply(drops)\n",
		test: "TestDrop_DeletedBeforeManifest",
	},
	{
		name: "drop of a victim that stays", file: "drops.go",
		old: "v.live.len() > 0 || v.drops.len() == 0", new: "v.drops.len() == 0",
		test: "TestDrop_KilledAtEveryPoint",
	},
	{
		name: "drop without comparing", file: "drops.go",
		old: "pos, ok := sh.current().find(d.slot)", new: "pos, w := sh.current().first(d.slot.tag()); ok := w != 0",
		test: "TestDrop_SupersededIsNotDropped",
	},
	{
		name: "drop does not wait for its lane", file: "drops.go",
		old: "\tsh.lane.mu.Lock() // positions change (I3)\n\tdefer sh.lane.mu.Unlock()\n", new: "",
		test: "TestDrop_WaitsForWriteOfItsLane",
	},
	{
		name: "copy without its flag", file: "copies.go",
		old: "\trecord.Reseed(rec, h, target.seedAt(offset))", new: "\trec[9] = 0; h, _ = record.Decode(rec); record.Reseed(rec, h, target.seedAt(offset))",
		test: "TestExpiry_CompactionsKeepDeadlines",
	},
	{
		name: "expired although replaced", file: "expiry.go",
		old: "if exists && m.h.Seq == seq {", new: "if m.h.Seq == seq || true {",
		test: "TestPutTTL_ReplacedWhileRead",
	},
	{
		name: "what has expired is copied", file: "drops.go",
		old: "record.Deadline(rec, h) <= r.now {", new: "record.Deadline(rec, h) <= r.now && false {",
		test: "TestExpiry_CompactionsKeepDeadlines",
	},
	{
		name: "expired bytes rated as live", file: "victims.go",
		old: "live, tombstones := s.unexpired(seg),", new: "live, tombstones := seg.live.Load(),",
		test: "TestExpiry_WholeSegmentsLeaveUncopied",
	},
	{
		name: "recycled in spite of pins", file: "round.go",
		old: "if c.s.retire(seg) {", new: "if c.s.retire(seg); true {",
		test: "TestView_BytesStayDuringCompactions",
	},
	{
		name: "pins not counted", file: "segment.go",
		old: "seg.refs.Add(1)", new: "_ = seg",
		test: "TestView_CallbackEnds",
	},
	{
		name: "lock order reversed", file: "segmenttable.go",
		old: "\ts.contentMu.Lock()", new: "\ts.lanes[0].mu.Lock(); defer s.lanes[0].mu.Unlock(); s.contentMu.Lock()",
		test: "TestCompact_ContentPreserved", tags: "warmtier_invariants", by: panics, // that is the check
	},
	{
		name: "version not compared", file: "version.go",
		old: "if c.found != c.wanted {", new: "if c.found != c.wanted && c.wanted == 0 {",
		test: "TestUpdate_Increments",
	},
	{
		name: "what was found is not durable", file: "load.go",
		old: "return err == nil && m.h.Seq <= s.disk.group.durable.Load()", new: "return err == nil",
		test: "TestSyncWrites_WhatWasFound",
	},
	{
		name: "files removed in doubt", file: "round.go",
		old: "c.giveBack(r.targets, !r.uncertain)", new: "c.giveBack(r.targets, true)",
		test: "TestPower_EveryCallFails/syncDir",
	},
	{
		name: "seed that a content can know", file: "segment.go",
		old: "record.SegmentSeed(id, salt)", new: "record.SegmentSeed(id, 0)",
		test: "TestOrigin_RepairBelievesNoContent",
	},
}
