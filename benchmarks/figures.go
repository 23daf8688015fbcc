package main

import "slices"

// The figures are the rows that matter most, in suites of about a minute each, so that one can be measured alone.

func figureGet(p profile, name string, n int) suite {
	s := suite{name: name, title: "Get of random memories, " + countName(n),
		note: "Peers that hand out a pointer do not read the content at all."}
	peers := []string{"warmtier", "warmtier-get", "fastcache", "bigcache", "freecache",
		"otter", "otter-unbounded", "otter-copied", "floor"}
	d := readOnly(p.sized(n, 256))
	for _, g := range []int{1, 2} {
		s.cells = append(s.cells, calls("Get of "+d.String(), goroutines(g), peers, d, hit.by(g)))
	}
	return s
}

func figureWrite(p profile, name, table string, w workload) suite {
	s := suite{name: name, title: "Overwriting: " + table, note: writeNote}
	peers := []string{"warmtier", "fastcache", "bigcache", "freecache", "otter", "floor"}
	if w.WriteEvery == 1 {
		peers = slices.Insert(peers, 1, "warmtier-batch")
	}
	d := p.sized(1_000_000, 256)
	for _, g := range []int{1, 2} {
		s.cells = append(s.cells, calls(table+", "+d.String(), goroutines(g), peers, d, w.by(g)))
	}
	return s
}

func figureLarge(p profile) suite {
	d := p.sized(1_000_000, 16<<10)
	peers := []string{"warmtier", "fastcache", "freecache", "floor"}
	return suite{name: "figure-large", title: "Overwriting: large contents", note: writeNote,
		cells: []cell{calls("Put, "+d.String(), goroutines(1), peers, d, put.by(1))}}
}

const writeNote = "Warmtier's compactions run in the goroutine that writes, and its turns are whole " +
	"numbers of compaction cycles. The rings of fastcache and bigcache have room for three times the " +
	"live records and are full before the clock starts; what they dropped shows as hits below 100 %."

func figureMemory(p profile) suite {
	d := readOnly(p.sized(1_000_000, 256))
	return suite{name: "figure-memory", title: "Resident memory", note: memoryNote, cells: []cell{
		{table: "Resident bytes per memory beyond id and content", column: d.String(), unit: "bytes",
			do: "open", peers: caches, data: d},
	}}
}

const memoryNote = "Each in a process of its own: resident memory after filling, garbage given back, " +
	"less that before, less all ids and contents."

func figureGC(p profile) suite {
	d := readOnly(dataset{N: min(10_000_000, p.maxN), Content: 64})
	return suite{name: "figure-gc", title: "A whole garbage collection", cells: []cell{
		{table: "runtime.GC", column: d.String(), unit: "µs", do: "gc",
			peers: []string{"none", "warmtier", "fastcache", "map"}, data: d},
	}}
}
