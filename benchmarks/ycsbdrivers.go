package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/magiconair/properties"
	_ "github.com/pingcap/go-ycsb/db/badger" // registers its driver
	_ "github.com/pingcap/go-ycsb/db/redis"  // registers its driver
	"github.com/pingcap/go-ycsb/pkg/util"
	"github.com/pingcap/go-ycsb/pkg/ycsb"
)

// ycsbDriver says how go-ycsb's client reaches a store.
type ycsbDriver struct {
	label   string
	open    func(p *properties.Properties, dir string) (ycsb.DB, error)
	nothing bool // it stores nothing
}

// drivers has all of them, by the names in results.
var drivers = map[string]ycsbDriver{
	"ycsb-directory": {label: "warmtier in a directory", open: overPeer(openWarmtierDefault)},
	"ycsb-memory":    {label: "warmtier in memory", open: overPeer(openWarmtierMemory)},
	"ycsb-badger":    {label: "badger 1.5.4", open: openOwnBadger},
	"ycsb-badger4":   {label: "badger 4", open: overPeer(openBadger)},
	"ycsb-pebble":    {label: "pebble", open: overPeer(openPebble)},
	"ycsb-redis":     {label: "redis-server", open: openRedis},
	"ycsb-rows":      {label: "rows without a store", open: overPeer(openOne)},
	"ycsb-client":    {label: "the client alone", open: openNoDB, nothing: true},
}

func openWarmtierMemory(c *contents, _ string) (peer, error) { return openWarmtierDefault(c, "") }

// openOwnBadger opens go-ycsb's own driver.
func openOwnBadger(p *properties.Properties, dir string) (ycsb.DB, error) {
	p.MustSet("badger.dir", dir)
	return ycsb.GetDBCreator("badger").Create(p)
}

// updater is a peer that reads and writes a memory as one operation; badger's own driver does that too.
type updater interface {
	update(id string, fn func(content []byte) ([]byte, error)) error
}

func (p warmtierDefaultPeer) update(id string, fn func(content []byte) ([]byte, error)) error {
	return p.Update(id, func(content []byte, exists bool) ([]byte, error) {
		if !exists {
			return nil, fmt.Errorf("there is no %q", id)
		}
		return fn(content)
	})
}

// onePeer holds the content it was given last.
type onePeer struct{ content []byte }

func openOne(*contents, string) (peer, error) { return &onePeer{}, nil }

func (p *onePeer) get([]byte, string) ([]byte, bool, error) { return p.content, true, nil }

func (p *onePeer) put(_ string, content []byte) error {
	p.content = append(p.content[:0], content...)
	return nil
}

func (p *onePeer) close() error { return nil }

// peerDB is a driver of rows over a peer, encoded as go-ycsb's own drivers encode them.
type peerDB struct {
	peer
	codec *util.RowCodec
}

func overPeer(open func(*contents, string) (peer, error)) func(*properties.Properties, string) (ycsb.DB, error) {
	return func(p *properties.Properties, dir string) (ycsb.DB, error) {
		store, err := open(&contents{}, dir)
		return peerDB{store, util.NewRowCodec(p)}, err
	}
}

// ycsbThread is what a goroutine of the client uses again. What Read returns is valid until the next Read.
type ycsbThread struct{ read, old, row []byte }

type ycsbThreadKey struct{}

func (db peerDB) InitThread(ctx context.Context, _, _ int) context.Context {
	return context.WithValue(ctx, ycsbThreadKey{}, &ycsbThread{})
}

func (db peerDB) CleanupThread(context.Context) {}
func (db peerDB) Close() error                  { return db.close() }

func rowID(table, key string) string { return table + ":" + key }

func (db peerDB) Read(ctx context.Context, table, key string, fields []string) (map[string][]byte, error) {
	t := ctx.Value(ycsbThreadKey{}).(*ycsbThread)
	row, err := db.row(t.read, rowID(table, key))
	if err != nil {
		return nil, err
	}
	t.read = row
	return db.codec.Decode(row, fields)
}

func (db peerDB) row(dst []byte, id string) ([]byte, error) {
	row, found, err := db.get(dst, id)
	if err == nil && !found {
		err = fmt.Errorf("there is no %q", id)
	}
	return row, err
}

// Update changes some fields of a row. Where the peer is no updater, another goroutine's change of the same row
// could be lost: the client has one goroutine.
func (db peerDB) Update(ctx context.Context, table, key string, values map[string][]byte) error {
	t, id := ctx.Value(ycsbThreadKey{}).(*ycsbThread), rowID(table, key)
	change := func(old []byte) ([]byte, error) {
		fields, err := db.codec.Decode(old, nil)
		if err != nil {
			return nil, err
		}
		for field, value := range values {
			fields[field] = value
		}
		t.row, err = db.codec.Encode(t.row, fields)
		return t.row, err
	}
	if u, ok := db.peer.(updater); ok {
		return u.update(id, change)
	}
	old, err := db.row(t.old, id)
	if err != nil {
		return err
	}
	t.old = old
	row, err := change(old)
	if err != nil {
		return err
	}
	return db.put(id, row)
}

func (db peerDB) Insert(ctx context.Context, table, key string, values map[string][]byte) error {
	t := ctx.Value(ycsbThreadKey{}).(*ycsbThread)
	row, err := db.codec.Encode(t.row, values)
	if err != nil {
		return err
	}
	t.row = row
	return db.put(rowID(table, key), row)
}

func (db peerDB) Scan(context.Context, string, string, int, []string) ([]map[string][]byte, error) {
	return nil, errors.ErrUnsupported
}

func (db peerDB) Delete(context.Context, string, string) error { return errors.ErrUnsupported }

// noDB does nothing: what remains is the client.
type noDB struct{}

func openNoDB(*properties.Properties, string) (ycsb.DB, error) { return noDB{}, nil }

func (noDB) Close() error                                             { return nil }
func (noDB) InitThread(ctx context.Context, _, _ int) context.Context { return ctx }
func (noDB) CleanupThread(context.Context)                            {}

func (noDB) Read(context.Context, string, string, []string) (map[string][]byte, error) {
	return nil, nil //nolint:nilnil // the client does not look
}

func (noDB) Scan(context.Context, string, string, int, []string) ([]map[string][]byte, error) {
	return nil, errors.ErrUnsupported
}

func (noDB) Update(context.Context, string, string, map[string][]byte) error { return nil }
func (noDB) Insert(context.Context, string, string, map[string][]byte) error { return nil }
func (noDB) Delete(context.Context, string, string) error                    { return nil }

const redisServer = "redis-server"

// redisDB is go-ycsb's driver with the server that it talks to.
type redisDB struct {
	ycsb.DB
	server *exec.Cmd
	alive  io.Closer
}

// openRedis starts a server that keeps everything in memory and listens in dir alone. A shell ends it when its
// input ends: also when this process is killed.
func openRedis(p *properties.Properties, dir string) (ycsb.DB, error) {
	socket := filepath.Join(dir, "redis.sock")
	server := exec.Command("sh", "-c", `"$@" </dev/null & read -r _; kill $!; wait`, "sh", redisServer, "--port", "0",
		"--unixsocket", socket, "--save", "", "--appendonly", "no", "--dir", dir, "--loglevel", "warning")
	server.Stderr = os.Stderr
	alive, err := server.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := server.Start(); err != nil {
		return nil, err
	}
	r := redisDB{server: server, alive: alive}
	for range 1000 { // ten seconds
		if _, err = os.Stat(socket); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // another program makes the socket
	}
	if err == nil {
		p.MustSet("redis.network", "unix")
		p.MustSet("redis.addr", socket)
		r.DB, err = ycsb.GetDBCreator("redis").Create(p)
	}
	if err != nil {
		return nil, errors.Join(err, r.end())
	}
	return r, nil
}

func (r redisDB) Close() error { return errors.Join(r.DB.Close(), r.end()) }

func (r redisDB) end() error {
	err := r.alive.Close()
	_ = r.server.Wait() // the shell's own status is that of the kill
	return err
}
