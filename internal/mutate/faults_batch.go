package main

// batchFaults are mistakes in conditional writes, batches and their containers.
var batchFaults = []fault{
	{
		name: "room is made for a PutIf that is refused", file: "put.go",
		old: "return false, s.changedLocked(d)", new: "return false, nil",
		test: "TestPutIf_RefusedWhereNoRoomIs",
	},
	{
		name: "batch forgets a moment", file: "application.go",
		old: "d.deadline = w.until", new: "_ = w.until",
		test: "TestApply_PutUntil",
	},
	{
		name: "batch locks one lane", file: "application.go",
		old: "a.lanes[s.laneOf(shardIndex)] = true\n\t\t\ta.addWrite", new: "a.lanes[0] = true\n\t\t\ta.addWrite",
		test: "TestApply_HoldsAllLanes",
	},
	{
		name: "batch written whatever its checks say", file: "application.go",
		old: "if found != c.version {", new: "if false {",
		test: "TestApply_Checks",
	},
	{
		name: "first write of an id counts too", file: "application.go",
		old: "if b.writes[uint32(k)].id == id {", new: "if false {",
		test: "TestApply_LastWriteCounts",
	},
	{
		name: "batch believes positions of before the table grew", file: "application.go",
		old: "if sh.table.Load() == looked {", new: "if looked == looked {",
		test: "TestApply_OneShard",
	},
	{
		name: "batch believes positions of before its removals", file: "application.go",
		old: "pos, _ := t.find(w.old)", new: "pos := w.pos",
		test: "TestApply_OneShard",
	},
	{
		name: "batch leaves loads alone", file: "application.go",
		old: "s.loads.supersede(w.id)", new: "_ = w.id",
		test: "TestApply_SupersedesLoads",
	},
	{
		name: "some of a container is enough", file: "internal/record/record.go",
		old: "|| !Intact(inner, ih, seed(offset)) {", new: "{",
		test: "TestContained",
	},
	{
		name: "digests in a container taken for later records", file: "scan.go",
		old: "n+1+layout.Contained(f.seg.digestOf(n)))", new: "n+1)",
		test: "TestContainer_KilledBetweenStores",
	},
	{
		name: "container not finished stands for one number", file: "scan.go",
		old: "return 1 + layout.Contained(digest)", new: "return 1",
		test: "TestContainer_NumbersOfUnfinished",
	},
	{
		name: "digests of a failed batch stay", file: "container.go",
		old: "if c.records > 0 {\n\t\tn, size", new: "if false {\n\t\tn, size",
		test: "TestContainer_Fault",
	},
	{
		name: "repair leaves a container", file: "resync.go",
		old: "return offset + h.Next(), true", new: "return offset + h.Size(), true",
		test: "TestContainer_RepairKeepsTheRest",
	},
	{
		name: "tail may end in a container", file: "scan.go",
		old: "if offset >= contained && r.mayEndAt(f, offset) {", new: "if offset >= 0*contained && r.mayEndAt(f, offset) {",
		test: "TestContainer_NoTailWithin",
	},
}
