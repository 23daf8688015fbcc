package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/magiconair/properties"
	"github.com/pingcap/go-ycsb/pkg/client"
	"github.com/pingcap/go-ycsb/pkg/measurement"
	"github.com/pingcap/go-ycsb/pkg/prop"
	_ "github.com/pingcap/go-ycsb/pkg/workload" // registers the core workload
	"github.com/pingcap/go-ycsb/pkg/ycsb"
)

/*
The core workloads of go-ycsb, with its own client, generators and measurement. Each measurement is a process and
a store of its own, loaded just before: what loading leaves to do (files to write, tables to merge) is done beside
the operations, as in a program that has just begun.
*/

// ycsbWorkloads are go-ycsb's files of these names, without what they leave at the defaults. E scans in the
// order of ids, which the store does not keep.
var ycsbWorkloads = []struct {
	name       string
	title      string
	properties map[string]string
}{
	{"load", "load", nil},
	{"a", "A: 1 update in 2", map[string]string{prop.ReadProportion: "0.5", prop.UpdateProportion: "0.5"}},
	{"b", "B: 1 update in 20", map[string]string{prop.ReadProportion: "0.95", prop.UpdateProportion: "0.05"}},
	{"c", "C: reads", map[string]string{prop.ReadProportion: "1", prop.UpdateProportion: "0"}},
	{"d", "D: reads of the latest", map[string]string{prop.ReadProportion: "0.95", prop.UpdateProportion: "0",
		prop.InsertProportion: "0.05", prop.RequestDistribution: "latest"}},
	{"f", "F: 1 read-modify-write in 2", map[string]string{prop.ReadProportion: "0.5", prop.UpdateProportion: "0",
		prop.ReadModifyWriteProportion: "0.5"}},
}

// ycsbSuites has a suite for each workload, so that each can be measured alone; together they are one
// section of the document.
func ycsbSuites(p profile) []suite {
	var all []suite
	for _, size := range []struct {
		name                string
		records, operations int
	}{{"ycsb-", 100_000, 150_000}, {"million-ycsb-", 1_000_000, 300_000}} {
		records, operations := min(size.records, p.maxN), size.operations
		if p.name != fullProfile.name {
			operations = 2 * records
		}
		if records < 1_000_000 && len(all) == len(ycsbWorkloads) {
			break
		}
		for _, w := range ycsbWorkloads {
			peers := ycsbDrivers()
			if len(all) >= len(ycsbWorkloads) { // loading alone takes a minute and more
				peers = []string{"ycsb-directory", "ycsb-memory", "ycsb-badger", "ycsb-client"}
			}
			all = append(all, suite{name: size.name + w.name, section: ycsbSection, extra: true,
				title: "go-ycsb's workloads", note: ycsbNote, cells: []cell{{
					table: "go-ycsb, " + countName(records) + " records of 1 KB", column: w.title, unit: "ns/operation",
					do: "ycsb", peers: peers, data: dataset{N: records, Directory: true},
					work: workload{IDs: w.name, Operations: operations}}}})
		}
	}
	return all
}

const ycsbSection = "ycsb"

const ycsbNote = "The core workloads of go-ycsb as its files have them (uniform ids, except for D; 10 fields of " +
	"100 B), with its own client, one goroutine, operations right after loading; every figure is of a process and a " +
	"store of its own. Warmtier has default options. Badger 1.5.4 is go-ycsb's own driver with its options, badger 4 " +
	"and pebble are driven as warmtier is, with their defaults; no store flushes before it returns. The client alone " +
	"is a driver that does nothing, and rows without a store one that encodes and decodes what the others do. Redis is " +
	"asked through go-ycsb's driver over a Unix socket: its figures have the round trip and the protocol in them, and " +
	"stand here for orientation. go-ycsb's driver of boltdb flushes every write, and is left out. The last rows are " +
	"ratios of what is left when the client alone is taken off both, or the rows without a store, which have the " +
	"client in them; a store that costs less than the noise has no such ratio."

// ycsb opens the driver, loads the records, and measures the operations, or for the workload "load" the loading.
// Value of the reply is wall time over operations, ns.
func (c *child) ycsb(q request) (r reply, err error) {
	d, ok := drivers[q.Peer]
	if !ok {
		return r, fmt.Errorf("no such driver: %q", q.Peer)
	}
	stdout := os.Stdout
	defer func() { os.Stdout = stdout }()
	// go-ycsb writes to it, and it is where replies go.
	if os.Stdout, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0); err != nil {
		return r, err
	}
	log.SetOutput(io.Discard) //nolint:forbidigo // badger 1.5.4 tells it what it does
	db, err := d.open(ycsbProperties(q, nil), q.Dir)
	if err != nil {
		return r, err
	}
	checked := checkedDB{DB: db, nothing: d.nothing, failure: new(atomic.Pointer[error])}
	defer func() {
		if closed := db.Close(); err == nil {
			err = closed
		}
	}()
	load := map[string]string{prop.DoTransactions: "false"}
	if r, err = checked.measure(q, load, q.Data.N); err != nil || q.Work.IDs == "load" {
		return r, err
	}
	for _, w := range ycsbWorkloads {
		if w.name == q.Work.IDs {
			return checked.measure(q, w.properties, q.Work.Operations)
		}
	}
	return r, fmt.Errorf("no such workload: %q", q.Work.IDs)
}

func ycsbProperties(q request, more map[string]string) *properties.Properties {
	p := properties.NewProperties()
	for _, all := range []map[string]string{{
		prop.RecordCount:         strconv.Itoa(q.Data.N),
		prop.OperationCount:      strconv.Itoa(q.Work.Operations),
		prop.ThreadCount:         "1",
		prop.RequestDistribution: "uniform",
		prop.LogInterval:         "3600", // seconds: no table in between
	}, more} {
		for key, value := range all {
			p.MustSet(key, value)
		}
	}
	return p
}

// measure runs the client once.
func (db checkedDB) measure(q request, more map[string]string, operations int) (reply, error) {
	p := ycsbProperties(q, more)
	measurement.InitMeasure(p)
	w, err := ycsb.GetWorkloadCreator("core").Create(p)
	if err != nil {
		return reply{}, err
	}
	start, used := time.Now(), processorTime()
	client.NewClient(p, w, client.DbWrapper{DB: db}).Run(context.Background())
	elapsed := time.Since(start)
	used = processorTime() - used
	if failure := db.failure.Load(); failure != nil {
		return reply{}, *failure
	}
	r := reply{Value: float64(elapsed) / float64(operations), Hits: 1}
	if used > 0 {
		r.Extra = map[string]float64{processorTimeUnit: float64(used) / float64(operations)}
	}
	return r, w.Close()
}

// checkedDB keeps the first error, which the client only counts, and takes a row that lacks a field for one.
type checkedDB struct {
	ycsb.DB
	nothing bool // the driver stores nothing
	failure *atomic.Pointer[error]
}

func (db checkedDB) note(err error) error {
	if err != nil {
		db.failure.CompareAndSwap(nil, &err)
	}
	return err
}

func (db checkedDB) Read(ctx context.Context, table, key string, fields []string) (map[string][]byte, error) {
	row, err := db.DB.Read(ctx, table, key, fields)
	if err == nil && len(row) != len(fields) && !db.nothing {
		err = fmt.Errorf("reading %s: %d fields of %d", key, len(row), len(fields))
	}
	return row, db.note(err)
}

func (db checkedDB) Update(ctx context.Context, table, key string, values map[string][]byte) error {
	return db.note(db.DB.Update(ctx, table, key, values))
}

func (db checkedDB) Insert(ctx context.Context, table, key string, values map[string][]byte) error {
	return db.note(db.DB.Insert(ctx, table, key, values))
}

// ycsbDrivers returns the names of the drivers that this machine has; without a redis-server there is none of it.
func ycsbDrivers() []string {
	names := []string{"ycsb-directory", "ycsb-memory", "ycsb-badger", "ycsb-badger4", "ycsb-pebble"}
	if _, err := exec.LookPath(redisServer); err == nil {
		names = append(names, "ycsb-redis")
	}
	return append(names, "ycsb-rows", "ycsb-client")
}

// writeYCSBRatios compares warmtier with others, what is the same for all taken off both.
func writeYCSBRatios(b *strings.Builder, t *table) {
	figure := func(peer, column string) float64 {
		for _, r := range t.Rows {
			if r.Peer == peer {
				return r.Cells[column].median()
			}
		}
		return 0
	}
	for _, ratio := range []struct{ own, other, off, title string }{
		{"ycsb-directory", "ycsb-badger", "ycsb-client", ""},
		{"ycsb-directory", "ycsb-badger4", "ycsb-client", ""},
		{"ycsb-directory", "ycsb-pebble", "ycsb-client", ""},
		{"ycsb-memory", "ycsb-badger", "ycsb-client", ""},
		{"ycsb-directory", "ycsb-badger", "ycsb-rows", ", rows taken off too"},
	} {
		var line strings.Builder
		for _, column := range t.Columns {
			off := figure(ratio.off, column)
			own, other := figure(ratio.own, column)-off, figure(ratio.other, column)-off
			if off <= 0 || own <= 0 || other <= 0 {
				line.WriteString(" |")
				continue
			}
			fmt.Fprintf(&line, " **%.2f** |", own/other)
		}
		if strings.Contains(line.String(), "*") {
			fmt.Fprintf(b, "| **%s / %s%s** |%s\n", label(ratio.own), label(ratio.other), ratio.title, &line)
		}
	}
}
