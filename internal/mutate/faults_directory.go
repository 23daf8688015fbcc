package main

// directoryFaults are mistakes in what is written to a directory, and in what the next Open makes of it.
var directoryFaults = []fault{
	{
		name: "tables of a hint are believed as they are", file: "hint.go",
		old: "if record.Checksum(mem) != sum {", new: "if false {",
		test: "TestRecover_HintFlippedAnywhere",
	},
	{
		name: "segment of another file is believed", file: "origin.go",
		old: "if r.isOther(c.listed.File, c.file.ID) && !r.elsewhere", new: "if false && !r.elsewhere",
		test: "TestCopies_SegmentOfEarlier",
	},
	{
		name: "no copy is repaired", file: "origin.go",
		old: "r.s.opts.AfterPowerLoss || r.salvage != nil", new: "r.s.opts.AfterPowerLoss",
		test: "TestCopies_Repaired",
	},
	{
		name: "manifest that cannot be read is damage", file: "recover.go",
		old:  "\tif err != nil {\n\t\treturn false, err\n\t}\n\tm, whole, err",
		new:  "\tif err != nil {\n\t\treturn r.withoutManifest(err.Error())\n\t}\n\tm, whole, err",
		test: "TestLack_WhileOpening",
	},
	{
		name: "names that cannot be listed are none", file: "recover.go",
		old:  "names, err := d.fs.Names()\n\tif err != nil {\n\t\treturn false, err\n\t}\n\tif highestID",
		new:  "names, _ := d.fs.Names()\n\tif highestID",
		test: "TestLack_WhileOpening",
	},
	{
		name: "spare for one manifest", file: "spares.go",
		old: "return max(size, 2*size-int(d.spares.manifest.Load()))", new: "return size",
		test: "TestShrink_ManySegments",
	},
	{
		name: "round takes more than it gives", file: "victims.go",
		old: "if gives < size {\n\t\ta.size", new: "if false {\n\t\ta.size",
		test: "TestOneTarget_SmallerVictims",
	},
	{
		name: "no room for names", file: "reserve.go",
		old: "[]int{nameSpare, manifestSpare}", new: "[]int{}",
		test: "TestShrink_NoSpaceForNames",
	},
	{
		name: "larger spare before others", file: "spares.go",
		old: "size = d.enough(i)", new: "_ = size",
		test: "TestShrink_EverySpareBeforeLargerOnes",
	},
	{
		name: "room before the file is gone", file: "sweep.go",
		old:  "\t\ts.medium.remove(seg)\n\t\tif s.retire(seg) {\n\t\t\ts.recycle(seg)\n\t\t}\n",
		new:  "\t\tif s.retire(seg) {\n\t\t\ts.recycle(seg)\n\t\t}\n\t\ts.medium.remove(seg)\n",
		test: "TestMaxBytes_CountsFilesToTheirEnd",
	},
	{
		name: "round lists what was cleared", file: "manifest.go",
		old: "if d.s.segments.isCleared(target) {", new: "if target == nil {",
		test: "TestClear_DuringCompaction",
	},
	{
		name: "flush fails on what was cleared", file: "sync.go",
		old: "err != nil && !d.s.segments.isCleared(dirty.seg)", new: "err != nil",
		test: "TestClear_BesideFlush",
	},
	{
		name: "dropped memory leaves no tombstone", file: "tombstones.go",
		old: "if dropped.Seq < oldest {", new: "if true {",
		test: "TestDrop_TombstoneOutlivesOlderRecord",
	},
	{
		name: "copy of a dropped memory counts", file: "scan.go",
		old: "tombstone != (oldHeader.Kind() == record.KindTombstone)", new: "tombstone && !tombstone",
		test: "TestDrop_CopyOfSameNumberStays",
	},
	{
		name: "clock of the manifest forgotten", file: "recover.go",
		old: "r.s.clock.notBefore(m.Clock)", new: "_ = m.Clock",
		test: "TestExpiry_ClockOfTheManifest",
	},
	{
		name: "hint without deadlines", file: "hint.go",
		old: "f.seg.deadlines.decode(h.Segments[i].DeadlineBase, deadlines[i])", new: "_, _ = f, deadlines[i]",
		test: "TestExpiry_Reopening",
	},
	{
		name: "repair forgets deadlines", file: "rescue.go",
		old: "s.putMeasured(id, content, deadline)", new: "s.putMeasured(id, content, 0*deadline)",
		test: "TestExpiry_Repair",
	},
	{
		name: "tombstone dropped too early", file: "tombstones.go",
		old: "if h.Seq < oldest {", new: "if true {",
		test: "TestDirectory_TombstoneOutlivesOlderRecord",
	},
	{
		name: "versions of a power loss drawn again", file: "settle.go",
		old: "s.sequence.Add(versionGap)", new: "s.sequence.Add(0)",
		test: "TestVersion_NeverAgain",
	},
	{
		name: "no flush before the manifest", file: "manifest.go",
		old: "d.sync(); err != nil {\n\t\treturn false, err", new: "error(nil); err != nil {\n\t\treturn false, err",
		test: "TestPower_NewVersionBeforeVictimGoes",
	},
	{
		name: "targets not flushed", file: "manifest.go",
		old: "err := target.syncRecords(e)", new: "err := error(nil)",
		test: "TestPower_EveryCall",
	},
	{
		name: "victims listed again", file: "manifest.go",
		old: "seg.inFile.committed.Store(false)", new: "_ = seg",
		test: "TestDirectory_SyncBetweenCommitAndSwap",
	},
	{
		name: "failed flush forgotten", file: "sync.go",
		old: "return *err\n", new: "return nil\n",
		test: "TestRecover_FailedSyncOfDirectory",
	},
	{
		name: "directory gone unnoticed", file: "sync.go",
		old: "return d.fs.Present()", new: "return nil",
		test: "TestDirectory_Removed",
	},
	{
		name: "lack is final", file: "sync.go",
		old: "if errors.Is(err, dir.ErrUnsynced) {", new: "if dir.ErrUnsynced == nil {",
		test: "TestLack_NoDescriptors",
	},
	{
		name: "acknowledged after a failed sync of names", file: "manifest.go",
		old:  "having made the names durable.\n\tif err := d.s.failedSync(); err != nil {",
		new:  "having made the names durable.\n\tif err := d.s.failedSync(); err != nil && d.s == nil {",
		test: "TestSyncWrites_DirectorySyncFailed",
	},
	{
		name: "durable too early", file: "sync.go",
		old: "seq := d.s.sequence.Load()", new: "seq := uint64(1 << 62)",
		test: "TestSyncWrites_FoundWhileFlushed",
	},
	{
		name: "file named before its header", file: "disk.go",
		old: "name := layout.SegmentFileName(id) + layout.NewSuffix", new: "name := layout.SegmentFileName(id)",
		test: "TestDirectory_UnfinishedFileIsRemoved",
	},
	{
		name: "lost pages not rewritten", file: "settle.go",
		old: "seg.file.Rewrite(min(int(f.state.Synced), int(e.tail)), int(e.tail))", new: "_ = e",
		test: "TestRecover_FailedFlush",
	},
	{
		name: "older record wins", file: "scan.go",
		old: "oldHeader.Seq > sc.seq ||", new: "oldHeader.Seq < sc.seq ||",
		test: "TestDirectory_RandomHistory",
	},
	{
		name: "copy of a store in use believed", file: "origin.go",
		old: "case !r.elsewhere || r.mayBeCopied():", new: "case true:",
		test: "TestCopies_TargetHalfFilled",
	},
	{
		name: "manifest that was put back", file: "origin.go",
		old: "r.elsewhere = moved || r.isOther(m.File, r.manifestFile)", new: "r.elsewhere = moved",
		test: "TestCopies_PutBackOverTheSameFiles",
	},
	{
		name: "file that is newer than the manifest", file: "candidates.go",
		old: "case ours && c.isNewer(m):", new: "case false:",
		test: "TestCandidate_Outcomes",
	},
	{
		name: "end of a closed segment not compared", file: "candidates.go",
		old: "case m.Closed && c.listed != nil && !c.isAsListed():", new: "case false:",
		test: "TestCopies_FilesOfTwoMoments",
	},
	{
		name: "hint of another Close believed", file: "hint.go",
		old: "case h.Open != r.manifest.Hint:", new: "case false:",
		test: "TestCopies_HintOfAnotherClose",
	},
	{
		name: "restored file not synced", file: "settle.go",
		old: "case sealed && r.manifest.Closed && !f.copied:", new: "case sealed && r.manifest.Closed:",
		test: "TestOrigin_RestoredIsDurable",
	},
	{
		name: "mount left out", file: "disk.go",
		old: "^st.Mount", new: "",
		test: "TestOrigin_MountedAgain",
	},
	{
		name: "end in the manifest not believed", file: "scan.go",
		old: "offset < f.floor()", new: "offset < int(f.state.Synced)",
		test: "TestOrigin_TwoFlippedBits",
	},
	{
		name: "durable taken for sealed", file: "settle.go",
		old: "sealed := f.state.Sealed", new: "sealed := f.state.Sealed || int64(f.state.Synced) == e.tail",
		test: "TestSettle_DurableIsNotSealed",
	},
	{
		name: "remains stay in a copy", file: "settle.go",
		old: "f.copied && (r.manifest.Closed || !seg.clearRemains())", new: "f.copied",
		test: "TestSettle_RemainsInCopy",
	},
	{
		name: "copy not synced where remains were", file: "settle.go",
		old: "case sealed && !f.copied && (r.cacheKept", new: "case sealed && (r.cacheKept",
		test: "TestSettle_RemainsInCopy",
	},
	{
		name: "never the store's, and lost", file: "repair.go",
		old: "\tif v.r.manifest.Closed {\n\t\treturn\n\t}", new: "",
		test: "TestRepair_UnlistedAfterClose",
	},
	{
		name: "unsealed file with two names opened elsewhere", file: "origin.go",
		old: "r.elsewhere && f.seg.inFile.linked.Load() && !f.state.Sealed", new: "false",
		test: "TestOrigin_HardLinks",
	},
	{
		name: "ids drawn after any name", file: "candidates.go",
		old: "id-r.manifest.Next >= farAhead", new: "false",
		test: "TestOrigin_FilesOfOthers",
	},
	{
		name: "pending segment removed", file: "candidates.go",
		old: "claims[id] = claimOptional", new: "_ = id",
		test: "TestRecover_PendingSegmentCounts",
	},
	{
		name: "file that another Open made", file: "candidates.go",
		old: "case c.claim == claimOptional && h.Open != m.Open:", new: "case false:",
		test: "TestCandidate_Outcomes",
	},
	{
		name: "file with another salt", file: "candidates.go",
		old: "case err == nil && c.listed != nil && h.Salt", new: "case false && h.Salt",
		test: "TestCandidate_Outcomes",
	},
	{
		name: "target that no manifest lists", file: "candidates.go",
		old: "case c.claim == claimOptional && ours && h.Kind", new: "case false && h.Kind",
		test: "TestCandidate_Outcomes",
	},
	{
		name: "file of another store removed", file: "candidates.go",
		old: "(ours || (unwritten || !cacheKept) && c.mayBeUnwritten(m.Store))", new: "(ours || unwritten)",
		test: "TestCandidate_Outcomes",
	},
	{
		name: "file set aside not found again", file: "candidates.go",
		old: "slices.Contains(names, aside) {", new: "slices.Contains(names, aside+aside) {",
		test: "TestRepair_CutOffReportsTheSame",
	},
	{
		name: "repair without a note", file: "repair.go",
		old: "if err := v.writeNote(); err != nil {", new: "if err := error(nil); err != nil {",
		test: "TestRepair_CutOffReportsTheSame",
	},
	{
		name: "note not durable", file: "losses.go",
		old: "err = d.fs.SyncFile(layout.RepairName)", new: "err = nil",
		test: "TestRepair_CutOffReportsTheSame",
	},
	{
		name: "note of nothing replaced taken for done", file: "losses.go",
		old: "note.committed = len(note.Damaged) > 0", new: "note.committed = true",
		test: "TestRepair_CutOffReportsTheSame",
	},
	{
		name: "losses of two repairs not added", file: "losses.go",
		old: "if redone {", new: "if true {",
		test: "TestRepair_DamagedAgainAfterCommit",
	},
	{
		name: "deleted by a repair, and back", file: "repair.go",
		old: "range v.deleted {", new: "range v.deleted[:0] {",
		test: "TestRepair_DeletedStaysDeleted",
	},
	{
		name: "tombstones lost with their segment", file: "rescue.go",
		old: "!s.isStored(id) {", new: "false {",
		test: "TestRepair_DeletedStaysDeleted",
	},
	{
		name: "tombstone over what was stored again", file: "rescue.go",
		old: "!s.isStored(id) {", new: "true {",
		test: "TestRepair_DeletedStaysDeleted",
	},
	{
		name: "cache of before a repair", file: "rescue.go",
		old: "s.disk.boot = s.bootID()", new: "_ = s.bootID()",
		test: "TestRepair_ManifestIsOfThisBoot",
	},
	{
		name: "one look at a file", file: "verifydirectory.go",
		old: "const looks = 3", new: "const looks = 1",
		test: "TestVerify_LooksAgain",
	},
	{
		name: "manifest of another store", file: "verifydirectory.go",
		old: "if m.Store != d.store {", new: "if false {",
		test: "TestVerify_FindsWhatTheNextOpenNeeds/manifest_of_another_store",
	},
	{
		name: "record that was not finished is missed", file: "scan.go",
		old: "drawn-r.newer-r.unfinished", new: "drawn-r.newer",
		test: "TestMissing_NotFinishedIsNotMissing",
	},
	{
		name: "manifest lists what a repair found as durable", file: "settle.go",
		old: "seg.inFile.synced.Store(max(layout.HeaderSize, int64(f.listed.End)))", new: "_ = layout.HeaderSize",
		test: "TestUnsynced_CutOff",
	},
	{
		name: "repair gives up what was durable", file: "repair.go",
		old: "if offset < f.floor() {", new: "if false {",
		test: "TestUnsynced_RepairRefusesBelowTheMark",
	},
	{
		name: "what was written of a body stays", file: "writing.go",
		old: "!layout.IsZero(part) && !yield(", new: "part == nil && !yield(",
		test: "TestWritten_EveryWriteFails",
	},
	{
		name: "written body cleared by stores", file: "writing.go",
		old:  "if w.prefix == nil || w.seg.file.WriteAt(w.offset+at, zeros[:len(part)], nil) != nil {",
		new:  "if at >= 0 {",
		test: "TestRecover_FaultInUnfinishedRecord",
	},
	{
		name: "number drawn before the header", file: "writing.go",
		old: "\t\tw.touchHeader()\n", new: "",
		test: "TestRecover_FaultInUnfinishedRecord",
	},
	{
		name: "numbers drawn before the headers of a batch", file: "container.go",
		old: "headers[0], headers[len(headers)-1] = 0, 0", new: "_ = headers",
		test: "TestRecover_FaultInUnfinishedRecord",
	},
	{
		name: "copies that were not written", file: "copies.go",
		old:  "if err := ch.target.writeAt(ch.offset, copies, nil); err != nil {",
		new:  "if err := ch.target.writeAt(ch.offset, copies, nil); err != nil && false {",
		test: "TestWritten_EveryWriteFails",
	},
	{
		name: "sealed before writes end", file: "segment.go",
		old:  "\t\tseg.file.EndWrites() // first: any lane may resume what is sealed\n",
		new:  "\t\tdefer seg.file.EndWrites()\n",
		test: "TestSeal_EndsWritesBefore",
	},
	{
		name: "cut closes descriptors", file: "clear.go",
		old: "\td.s.endWrites()\n", new: "",
		test: "TestClear_EndsWritesBeforeTheCut",
	},
	{
		name: "recovery forgets what was begun", file: "settle.go",
		old: "!f.damaged && !f.state.Sealed && f.unfinished() > 0", new: "false",
		test: "TestMissing_RecoveryCutOff",
	},
}
