package main

// checkpointFaults are mistakes in checkpoints, in what may still write to a file with two names, and in imports.
var checkpointFaults = []fault{
	{
		name: "checkpoint seals nothing", file: "checkpoint.go",
		old: "s.sealActiveLocked(ln, seg.isMergeable())\n\t\t\tc.sealed", new: "c.sealed",
		test: "TestCheckpoint_EveryCall",
	},
	{
		name: "checkpoint links what is not durable", file: "checkpoint.go",
		old: "if err := c.flush(seg); err != nil {", new: "if err := stopped(ctx); err != nil {",
		test: "TestCheckpoint_EveryCall",
	},
	{
		name: "checkpoint's manifest comes before the names", file: "checkpoint.go",
		old: "if err := c.to.Sync(); err != nil { // the names", new: "if err := stopped(ctx); err != nil { // the names",
		test: "TestCheckpoint_UndoneNotDurably",
	},
	{
		name: "unfinished checkpoint does not say so", file: "checkpoint.go",
		old: "Store: c.d.store, Unfinished: true}", new: "Store: c.d.store}",
		test: "TestCheckpoint_EveryCall",
	},
	{
		name: "checkpoint that fails forgets the one before", file: "checkpoint.go",
		old: "c.linked[seg] = seg.inFile.linked.Swap(true)", new: "c.linked[seg] = seg.inFile.linked.Swap(true) && false",
		test: "TestLinked_ByTwoCheckpoints",
	},
	{
		name: "checkpoint begins beside a lane that resumes", file: "checkpoint.go",
		old: "s.lanes[i].awaitRolling()", new: "_ = i",
		test: "TestLinked_WaitsForLaneThatResumes",
	},
	{
		name: "checkpoint takes the directory of another", file: "checkpoint.go",
		old: "if names, err = to.Names(); err == nil {", new: "if names, err = to.Names(); err != nil {",
		test: "TestCheckpoint_ToThePathOfAnother",
	},
	{
		name: "checkpoint that fails is undone, not durably", file: "checkpoint.go",
		old:  "return errors.Join(err, failed)\n\t}\n\tfor",
		new:  "err = errors.Join(err, failed)\n\t}\n\tfor",
		test: "TestCheckpoint_UndoneNotDurably",
	},
	{
		name: "checkpoint fails over what has left", file: "checkpoint.go",
		old: "if !seg.inFile.committed.Load() {", new: "if false {",
		test: "TestCheckpoint_SegmentLeavesBeforeItsHeaderIsSynced",
	},
	{
		name: "lane resumes a linked segment", file: "lane.go",
		old: "if seg.inFile.linked.Load() {", new: "if false {",
		test: "TestLinked_NotGivenBackByCompaction",
	},
	{
		name: "lanes resume while a checkpoint is under way", file: "lane.go",
		old: "for !t.linking.Load() {", new: "for {",
		test: "TestLinked_NotResumedMeanwhile",
	},
	{
		name: "linked segment is offered after Open", file: "settle.go",
		old: "<= r.s.opts.SegmentSize && !seg.inFile.linked.Load() {", new: "<= r.s.opts.SegmentSize {",
		test: "TestLinked_NotResumedAfterOpen",
	},
	{
		name: "linked segment is cleared by Open", file: "settle.go",
		old: "case sealed && (seg.inFile.linked.Load() || ", new: "case sealed && (false || ",
		test: "TestLinked_NotCleared",
	},
	{
		name: "checkpoints leave a trail", file: "stats.go",
		old: "case seg.isUnfilled():", new: "case false:",
		test: "TestCheckpoint_LeavesNoTrail",
	},
	{
		name: "nobody waits for room that checkpoints leave", file: "stats.go",
		old: "z.DeadBytes + z.ExpiredBytes + z.unfilled +", new: "z.DeadBytes + z.ExpiredBytes +",
		test: "TestUnfilled_PutWaitsForIt",
	},
	{
		name: "room counts that merging does not give back", file: "stats.go",
		old: "m.room+m.kept-targetsFor(m.kept, size)*size", new: "m.room",
		test: "TestUnfilled_LittleToGive",
	},
	{
		name: "merging is taken for barren", file: "evict.go",
		old: "c.gave() < c.segmentSize()", new: "c.stats.BytesReclaimed < c.segmentSize()",
		test: "TestUnfilled_CountsAsGiven",
	},
	{
		name: "what checkpoints keep takes the last spare", file: "victims.go",
		old: "return known && left >= 2*c.segmentSize()", new: "return known && left >= 0",
		test: "TestUnfilled_OnFullDisk",
	},
	{
		name: "who asked beside a compaction is answered by none", file: "compact.go",
		old: "heard = s.room.heard()\n\t\t}", new: "_ = heard\n\t\t}",
		test: "TestUnfilled_NothingIsEvictedForWhoHasRoom",
	},
	{
		name: "failures beside a Put leave a trail", file: "lane.go",
		old: "s.segments.noteUnresumed(l.seg)", new: "_ = l.seg",
		test: "TestUnfilled_LeftByFailures",
	},
	{
		name: "Close does not wait for an import", file: "warmtier.go",
		old:  "s.importing <- struct{}{} // one that",
		new:  "s.lifeMu.Lock()\n\ts.closing = true\n\ts.lifeMu.Unlock()\n\ts.importing <- struct{}{} // one that",
		test: "TestImport_BesideClose",
	},
	{
		name: "import that fails deletes what others have stored", file: "import.go",
		old: "d.condition = condition{asked: true, wanted: v}", new: "_ = v",
		test: "TestImport_Undone",
	},
	{
		name: "import that fails leaves a part", file: "import.go",
		old: "if failed := i.undo(); failed != nil {", new: "if failed := err; failed == nil {",
		test: "TestImport_Undone",
	},
	{
		name: "numbers that an import skips are in no manifest", file: "import.go",
		old: "m.MaxSeq = seq\n", new: "\n",
		test: "TestImport_KilledAfterSkip",
	},
	{
		name: "chunk of an export in another place", file: "internal/stream/stream.go",
		old: "case binary.LittleEndian.Uint64(number[:]) != s.number:", new: "case false:",
		test: "TestStream_EveryByteCounts",
	},
	{
		name: "export through a writer that takes less than it says", file: "internal/stream/stream.go",
		old: "if err == nil && n < len(b) {", new: "if err == nil && n < 0 {",
		test: "TestWriter_ShortWrite",
	},
}
