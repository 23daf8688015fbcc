package cluster

import (
	"errors"
	"strings"
	"time"
	"unicode"

	"github.com/warmtier/warmtier"
)

// Progress says what a node has done to bring copies where they belong.
type Progress struct {
	Recovered    int       // entries found in the directory that are still to be offered
	Offered      int64     // entries offered to owners since Open
	OfferedBytes int64     // sent for that
	Damaged      int       // entries that this node could not offer, since they cannot be read; others may have copies
	Doing        string    // what it is at, or was when Trouble began: joining, reconciling, leaving
	Trouble      error     // why it cannot go on, nil when it can; it tries again
	TroubleSince time.Time // zero when there is none
}

// Stats are the figures of this node.
type Stats struct {
	Address  string
	Members  []string // names of the nodes, this one included, in their order; empty before it has joined
	Joined   bool
	Settled  bool // the owners of all partitions have what this node holds, and the others know
	Progress Progress
	Store    warmtier.Stats
}

// Stats returns the figures of this node. It asks no other.
func (c *Cluster) Stats() Stats {
	s := Stats{Address: c.self, Progress: c.Progress(), Store: c.store.Stats()}
	select {
	case <-c.joined:
		s.Joined = true
	default:
	}
	for _, m := range c.members() {
		s.Members = append(s.Members, m.name)
	}
	c.mu.Lock()
	s.Settled = c.latest != nil && c.announced.Load() == c.latest.signature && c.progress.Trouble == nil
	c.mu.Unlock()
	return s
}

// Progress returns what the node has done to bring copies where they belong.
func (c *Cluster) Progress() Progress {
	c.mu.Lock()
	p := c.progress
	c.mu.Unlock()
	p.Recovered = c.engine.Recovered()
	p.Damaged, _ = c.engine.Damaged()
	return p
}

// note keeps what the node is at, until it ends, and logs when it gets into trouble, and out of it.
func (c *Cluster) note(doing string, err error) {
	if c.ending.Err() == nil {
		c.noteAlways(doing, err)
	}
}

// noteAlways is note for what a node does while it ends.
func (c *Cluster) noteAlways(doing string, err error) {
	c.mu.Lock()
	before := c.progress.Trouble
	c.progress.Doing, c.progress.Trouble = doing, err
	switch {
	case err == nil:
		c.progress.TroubleSince = time.Time{}
	case before == nil:
		c.progress.TroubleSince = time.Now()
	}
	c.mu.Unlock()
	switch {
	case err != nil && (before == nil || like(before) != like(err)) && !errors.Is(err, errUnsettled):
		c.opts.Logger.Warn("cluster: "+doing, "node", c.self, "error", err)
	case err == nil && before != nil:
		c.opts.Logger.Info("cluster: "+doing+" goes on", "node", c.self)
	}
}

// like returns an error without figures: those of a store without room change all the time, and the log has them once.
func like(err error) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsDigit(r) {
			return -1
		}
		return r
	}, err.Error())
}
