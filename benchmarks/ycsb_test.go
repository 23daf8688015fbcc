package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pingcap/go-ycsb/pkg/ycsb"
	"github.com/stretchr/testify/require"
)

// Each driver returns the rows that it was given, an update changes the fields it names and no other one, and a
// row that is not there is an error.
func TestYCSB_DriversReturnWhatWasStored(t *testing.T) {
	for name, d := range drivers {
		if d.nothing || name == "ycsb-rows" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(redisServer); name == "ycsb-redis" && err != nil {
				t.Skip("there is no " + redisServer)
			}
			db, err := d.open(ycsbProperties(request{Data: dataset{N: 10}}, nil), t.TempDir())
			require.NoError(t, err)
			defer func() { require.NoError(t, db.Close()) }()
			ctx := db.InitThread(t.Context(), 0, 1)
			const rows = 10
			fields := make([]string, 10)
			want := map[string]map[string][]byte{}
			for i := range rows {
				row := map[string][]byte{}
				for f := range fields {
					fields[f] = fmt.Sprintf("field%d", f)
					row[fields[f]] = fmt.Appendf(nil, "%d of %d", f, i)
				}
				key := fmt.Sprint("user", i)
				want[key] = row
				require.NoError(t, db.Insert(ctx, "usertable", key, row))
			}
			for key, row := range want {
				row["field3"] = []byte("another one of " + key)
				require.NoError(t, db.Update(ctx, "usertable", key, map[string][]byte{"field3": row["field3"]}))
			}
			for key, row := range want {
				got, err := db.Read(ctx, "usertable", key, fields)
				require.NoError(t, err)
				require.Equal(t, row, got)
			}
			if name == "ycsb-redis" {
				return // a hash that is not there has empty fields for it
			}
			_, err = db.Read(ctx, "usertable", "nobody", fields)
			require.Error(t, err)
			require.Error(t, db.Update(ctx, "usertable", "nobody", want["user0"]))
		})
	}
}

// The client goes on after an error, and counts it as an operation: a store that fails is no fast one.
func TestYCSB_FailuresAreNoFigures(t *testing.T) {
	q := request{Data: dataset{N: 10}, Work: workload{IDs: "c", Operations: 10}}
	db := checkedDB{DB: noDB{}, failure: new(atomic.Pointer[error])}
	_, err := db.measure(q, nil, 10)
	require.ErrorContains(t, err, "0 fields of 10")

	full := errors.New("no room")
	db = checkedDB{DB: failingDB{full}, nothing: true, failure: new(atomic.Pointer[error])}
	_, err = db.measure(q, map[string]string{"dotransactions": "false"}, 10)
	require.ErrorIs(t, err, full)

	_, err = (&child{}).ycsb(request{Peer: "ycsb-client", Data: q.Data, Work: workload{IDs: "z", Operations: 10}})
	require.ErrorContains(t, err, `no such workload: "z"`)
}

type failingDB struct{ err error }

func (db failingDB) Close() error                                             { return nil }
func (db failingDB) InitThread(ctx context.Context, _, _ int) context.Context { return ctx }
func (db failingDB) CleanupThread(context.Context)                            {}

func (db failingDB) Read(context.Context, string, string, []string) (map[string][]byte, error) {
	return nil, db.err
}

func (db failingDB) Scan(context.Context, string, string, int, []string) ([]map[string][]byte, error) {
	return nil, db.err
}

func (db failingDB) Update(context.Context, string, string, map[string][]byte) error { return db.err }
func (db failingDB) Insert(context.Context, string, string, map[string][]byte) error { return db.err }
func (db failingDB) Delete(context.Context, string, string) error                    { return db.err }

var _ ycsb.DB = failingDB{}

// Workloads that are measured one by one fill one table, and ratios are of what the client does not take itself.
func TestYCSB_SuitesFillOneTable(t *testing.T) {
	all := results{}
	for _, s := range ycsbSuites(tinyProfile)[:2] {
		r := newSuiteResult(s)
		c := s.cells[0]
		for peer, ns := range map[string]float64{"ycsb-client": 1000, "ycsb-directory": 3000, "ycsb-badger": 5000} {
			r.add(c, peer, reply{Value: ns, Hits: 1}, nil)
		}
		all.put(r, false)
	}
	require.Len(t, all, 1)
	require.Len(t, all[ycsbSection].Tables, 1)
	require.Equal(t, []string{"load", "A: 1 update in 2"}, all[ycsbSection].Tables[0].Columns)
	var b strings.Builder
	writeYCSBRatios(&b, all[ycsbSection].Tables[0])
	require.Contains(t, b.String(), "| **warmtier in a directory / badger 1.5.4** | **0.50** | **0.50** |\n")
	require.NotContains(t, b.String(), "pebble") // of which there is no figure
	s := ycsbSuites(tinyProfile)[0]
	for _, more := range []bool{true, true, false} {
		r := newSuiteResult(s)
		r.add(s.cells[0], "ycsb-directory", reply{Value: 4000, Hits: 1}, nil)
		all.put(r, more)
		values := all[ycsbSection].Tables[0].row("ycsb-directory").cell("load").Values
		if more {
			require.Equal(t, 3000.0, values[0])
		} else {
			require.Equal(t, []float64{4000}, values)
		}
	}
	require.Equal(t, 3000.0, all[ycsbSection].Tables[0].row("ycsb-directory").cell("A: 1 update in 2").median())
}
