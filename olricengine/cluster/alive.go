package cluster

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/warmtier/warmtier"
)

// aliveID is where the store of a node has when the node was last there. It cannot be that of an
// entry.
const aliveID = "alive"

// aliveInterval is how exactly that is known after a kill.
const aliveInterval = 10 * time.Second

// AwayError is returned by Open for the directory of a node that was away for so long that the
// others may have forgotten what was deleted meanwhile: what this node holds would come back.
// Remove the directory, and the node gets everything from the others; or, if all of them were away,
// set Options.AwayTooLong.
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

// comeBack returns an error when the node was away for too long.
func comeBack(store *warmtier.Store, opts Options, now time.Time) error {
	content, err := store.Get(aliveID)
	if errors.Is(err, warmtier.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	milliseconds, err := strconv.ParseInt(string(content), 10, 64)
	if err != nil {
		return fmt.Errorf("%w: when %s was last used: %w", ErrFormat, opts.Directory, err)
	}
	last := time.UnixMilli(milliseconds)
	if now.Sub(last) > opts.DeletionsKept && !opts.AwayTooLong {
		return &AwayError{opts.Directory, last, opts.DeletionsKept}
	}
	return nil
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
	return c.store.Put(aliveID, strconv.AppendInt(nil, now.UnixMilli(), 10))
}
