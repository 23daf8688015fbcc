package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/warmtier/warmtier"
)

// aliveID is where the store of a node has when the node was last there. It cannot be that of an
// entry.
const aliveID = "alive"

// aliveInterval is how exactly that is known after a kill.
const aliveInterval = 10 * time.Second

// A store that is full does not take this note. A node whose writes need all replicas was not away for that: a deletion
// that it did not take was not acknowledged. So it goes on in a file, which is made when the node is opened and written
// in place, for the disk may be full too. The file counts for one note: once the store takes another, or is replaced by
// a backup, it means nothing. Numbers are big-endian.
//
//	0  the note in the store, Unix milliseconds
//	8  when the node was last there, Unix milliseconds
//	16 CRC-32C of all that
const (
	aliveFileName = "ALIVE"
	aliveFileSize = 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// AwayError is returned by Open for the directory of a node that was away for so long that the
// others may have forgotten what was deleted meanwhile: what this node holds would come back.
// Remove the directory, and the node gets from the others what they have: everything, if there are other replicas. If
// there are none, or all nodes were away, set Options.AwayTooLong instead.
//
// It is also what Ready returns, and Progress.Trouble is, when the time was over before the others had taken what the
// directory holds, for want of room for example. That is not offered any more; everything else is.
type AwayError struct {
	Directory     string
	Last          time.Time     // when the node was last there
	DeletionsKept time.Duration // of the options
}

// Error gives the figures.
func (err *AwayError) Error() string {
	return fmt.Sprintf("cluster: the node of %s was last there at %s, and deletions are kept for %v: "+
		"what was deleted since could come back (see AwayError)",
		err.Directory, err.Last.UTC().Format(time.RFC3339), err.DeletionsKept)
}

// away returns an error when a node that was last there at last, and knows of no deletion since, is too late to offer
// what it holds; zero means that it never was there.
func (o Options) away(last, now time.Time) error {
	if last.IsZero() || o.AwayTooLong || now.Sub(last) <= o.DeletionsKept {
		return nil
	}
	return &AwayError{o.Directory, last, o.DeletionsKept}
}

// lastThere returns when the node was last there, zero when never. Errors: [ErrFormat], those of the store.
func lastThere(store *warmtier.Store, opts Options) (time.Time, error) {
	noted, err := aliveNote(store)
	switch {
	case errors.Is(err, warmtier.ErrNotFound):
		return time.Time{}, nil
	case err != nil:
		return time.Time{}, fmt.Errorf("%w: when %s was last used", err, opts.Directory)
	}
	return time.UnixMilli(max(noted, opts.aliveSince(noted))), nil
}

// aliveNote returns the note in the store, Unix milliseconds.
func aliveNote(store *warmtier.Store) (int64, error) {
	content, err := store.Get(aliveID)
	if err != nil {
		return 0, err
	}
	milliseconds, err := strconv.ParseInt(string(content), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return milliseconds, nil
}

func (o Options) aliveFile() string { return filepath.Join(o.Directory, aliveFileName) }

// makeAliveFile makes the file, unless it is there, with room for what it may have to say.
func (o Options) makeAliveFile() error {
	file, err := os.OpenFile(o.aliveFile(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = file.Write(make([]byte, aliveFileSize))
	return errors.Join(err, file.Sync(), file.Close())
}

// writeAliveFile writes down that the node was there, for a store that has noted an earlier time.
func (o Options) writeAliveFile(noted, now int64) error {
	line := binary.BigEndian.AppendUint64(nil, uint64(noted))
	line = binary.BigEndian.AppendUint64(line, uint64(now))
	line = binary.BigEndian.AppendUint32(line, crc32.Checksum(line, castagnoli))
	file, err := os.OpenFile(o.aliveFile(), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteAt(line, 0)
	return errors.Join(err, file.Sync(), file.Close())
}

// aliveSince returns what the file says for the note in the store, Unix milliseconds; 0 when nothing.
func (o Options) aliveSince(noted int64) int64 {
	line, err := os.ReadFile(o.aliveFile())
	if err != nil || len(line) != aliveFileSize ||
		binary.BigEndian.Uint32(line[16:]) != crc32.Checksum(line[:16], castagnoli) ||
		int64(binary.BigEndian.Uint64(line)) != noted {
		return 0 // the note is older then, and an AwayError the worst that comes of it
	}
	return int64(binary.BigEndian.Uint64(line[8:]))
}

// keepAlive writes down that the node is there.
func (c *Cluster) keepAlive() {
	for c.ending.Err() == nil {
		// Until it has offered what it recovered, it has not learned what was deleted while it was
		// away.
		if c.engine.Recovered() == 0 {
			if err := c.stayedUntil(time.Now()); err != nil {
				c.cannotStay(err)
			}
		}
		c.pause(aliveInterval)
	}
}

func (c *Cluster) cannotStay(err error) {
	c.opts.Logger.Warn("cluster: cannot write down that the node is there", "node", c.self, "error", err)
}

// stayedUntil writes down that the node was there. What it has forgotten until now is durably forgotten then: an entry
// that was offered, and is back after a power loss, must not look as if it had been offered lately.
func (c *Cluster) stayedUntil(now time.Time) error {
	if c.opts.Directory == "" || c.engine.Recovered() > 0 {
		return nil
	}
	if err := c.store.Sync(); err != nil {
		return err
	}
	err := c.store.Put(aliveID, strconv.AppendInt(nil, now.UnixMilli(), 10))
	if !errors.Is(err, warmtier.ErrNoSpace) || c.opts.WriteQuorum < c.opts.Replicas {
		return err
	}
	noted, failed := aliveNote(c.store)
	if errors.Is(failed, warmtier.ErrNotFound) {
		return err
	}
	if failed == nil {
		failed = c.opts.writeAliveFile(noted, now.UnixMilli())
	}
	if failed != nil {
		return fmt.Errorf("%w; %w", err, failed)
	}
	return nil
}
