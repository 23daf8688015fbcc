package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/vmihailenco/msgpack/v5"
	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/olricengine"
)

// wireTimeout bounds an answer of another node. Taking a chunk in is the longest.
const wireTimeout = 30 * time.Second

// wire speaks Olric's protocol with nodes, this one included.
type wire struct {
	mu      sync.Mutex
	clients map[string]*redis.Client
	closed  bool // what to returns from then on is closed too
}

func newWire() *wire { return &wire{clients: make(map[string]*redis.Client)} }

func (w *wire) to(name string) *redis.Client {
	w.mu.Lock()
	defer w.mu.Unlock()
	client := w.clients[name]
	if client == nil {
		client = redis.NewClient(&redis.Options{
			Addr: name, Protocol: 2, DisableIdentity: true,
			ReadTimeout: wireTimeout, WriteTimeout: wireTimeout, PoolSize: 2,
		})
		if w.closed { // nobody would close it
			_ = client.Close()
			return client
		}
		w.clients[name] = client
	}
	return client
}

// keep closes the connections to nodes that are not among names.
func (w *wire) keep(names map[string]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, client := range w.clients {
		if !names[name] {
			_ = client.Close() // nobody waits for an answer
			delete(w.clients, name)
		}
	}
}

// close closes all connections, those too that calls under way would open.
func (w *wire) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.keep(nil)
}

// ping returns nil when the node has joined a cluster that works.
func (w *wire) ping(ctx context.Context, name string) error {
	return w.to(name).Do(ctx, "ping").Err()
}

// fragment is how Olric packs entries that move. The names are those of its own type, in
// internal/dmap/balance.go.
type fragment struct {
	PartID  uint64
	Kind    int
	Name    string
	Payload []byte
}

// move has an owner merge a chunk into what it has. Timestamps decide. Errors: also when the node
// does not own the partition.
func (w *wire) move(ctx context.Context, to owner, dmap string, chunk olricengine.Chunk) error {
	packed, err := msgpack.Marshal(fragment{chunk.Partition, to.kind, dmap, chunk.Payload})
	if err != nil {
		return err
	}
	if err := w.to(to.name).Do(ctx, "internal.node.movefragment", packed).Err(); err != nil {
		return fmt.Errorf("cluster: partition %d to %s: %w", chunk.Partition, to.name, known(err))
	}
	return nil
}

// known returns an error of a node so that it is warmtier.ErrNoSpace if it was there, or errUnsettled if the node sees
// other owners: Olric passes on the text.
func known(err error) error {
	switch text := err.Error(); {
	case strings.Contains(text, warmtier.ErrNoSpace.Error()):
		return noSpaceError{err}
	case strings.Contains(text, olricengine.ErrOtherOwners.Error()):
		return fmt.Errorf("%w: %w", errUnsettled, err)
	}
	return err
}

type noSpaceError struct{ error }

func (noSpaceError) Is(target error) bool { return target == warmtier.ErrNoSpace }

func (err noSpaceError) Unwrap() error { return err.error }

// replica returns what a node has of an id as a backup owner, encoded.
func (w *wire) replica(ctx context.Context, name, dmap, id string) ([]byte, error) {
	text, err := w.to(name).Do(ctx, "dm.getentry", dmap, id, "RC").Text()
	return []byte(text), err
}

// errStopped is returned when the caller of a scan wants no more.
var errStopped = errors.New("stopped")

// scan passes on the ids that a node has of a partition it owns.
func (w *wire) scan(ctx context.Context, name, dmap string, partition int, yield func(id string) bool) error {
	for cursor := uint64(0); ; {
		command := redis.NewScanCmd(ctx, nil, "dm.scan", partition, dmap, cursor, "COUNT", scanCount)
		if err := w.to(name).Process(ctx, command); err != nil {
			return err
		}
		ids, next, err := command.Result()
		if err != nil {
			return err
		}
		for _, id := range ids {
			if !yield(id) {
				return errStopped
			}
		}
		if next == 0 {
			return nil
		}
		cursor = next
	}
}
