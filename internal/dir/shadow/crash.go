//go:build unix

package shadow

import (
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/warmtier/warmtier/internal/vm"
)

// Loss decides what of a directory survives.
type Loss struct {
	Sector    func() bool                    // one that was written and not synced is on the disk
	Operation func(i, n int) bool            // number i of the n in the journal has happened
	Size      func(durable, current int) int // of a file whose size is not durable; nil: the current one
}

// RandomLoss draws how much survives, and then what.
func RandomLoss(rng *rand.Rand) Loss {
	chance := []float64{0, 0.1, 0.5, 1, rng.Float64()}
	sectors, operations := chance[rng.IntN(5)], chance[rng.IntN(5)]
	l := Loss{
		Sector:    func() bool { return rng.Float64() < sectors },
		Operation: func(int, int) bool { return rng.Float64() < operations },
		Size:      func(_, current int) int { return current },
	}
	if rng.IntN(3) == 0 { // a file grows as it is written, where nothing reserves space at once
		l.Size = func(durable, current int) int {
			return min(durable, current) + rng.IntN(max(durable, current)-min(durable, current)+1)
		}
	}
	switch rng.IntN(4) {
	case 0: // the last one has overtaken all others
		l.Operation = func(i, n int) bool { return i == n-1 }
	case 1: // one has been overtaken by all others
		late := rng.Int()
		l.Operation = func(i, n int) bool { return i != late%n }
	}
	return l
}

// Crash returns the directory as it could be after a power loss at this moment.
func (d *FS) Crash(l Loss) *FS {
	d.Mu.Lock()
	defer d.Mu.Unlock()
	names := maps.Clone(d.durable)
	for i, op := range d.journal {
		if l.Operation(i, len(d.journal)) {
			op.apply(names)
		}
	}
	if d.unnamed && !l.Operation(0, 1) {
		clear(names)
	}
	after := New()
	after.Sites, after.ID, after.Mount, after.NamesPerBlock = d.Sites, d.ID, d.Mount+1, d.NamesPerBlock
	after.NoIDs = d.NoIDs
	binary.LittleEndian.PutUint64(after.Boot[:], binary.LittleEndian.Uint64(d.Boot[:])+1)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		b := names[name].afterCrash(l)
		f := &Inode{Current: b, Durable: slices.Clone(b), ID: names[name].ID, links: names[name].names(), maker: after}
		if f.links > 1 {
			f.linkedAs = slices.Clone(b)
		}
		after.add(name, f)
		after.durable[name] = after.Files[name]
	}
	return after
}

// Remount returns the directory as it could be after its file system was shut down by errors and
// mounted again, at this moment: what was not synced may be lost, and the machine was not restarted.
func (d *FS) Remount(l Loss) *FS {
	after := d.Crash(l)
	after.Boot = d.Boot
	return after
}

// Copying is a copy under way.
type Copying struct {
	from, to *FS
	names    []string // that are left
}

// StartCopy lists the files, in the order in which they will be copied. Nothing of the copy is durable.
func (d *FS) StartCopy(order func(names []string)) *Copying {
	d.Mu.Lock()
	defer d.Mu.Unlock()
	c := &Copying{from: d, to: New()}
	c.to.unnamed = true
	c.to.Sites, c.to.Boot, c.to.Mount, c.to.NoIDs = d.Sites, d.Boot, d.Mount, d.NoIDs
	c.names = slices.Sorted(maps.Keys(d.Files))
	order(c.names)
	return c
}

// Next copies the next file as it is at this moment, unless it was removed, and reports whether more are left.
func (c *Copying) Next() (more bool) {
	if len(c.names) == 0 {
		return false
	}
	name := c.names[0]
	c.names = c.names[1:]
	c.from.Mu.Lock()
	f := c.from.Files[name]
	var b []byte
	if f != nil {
		b = make([]byte, len(f.Current))
		copyShared(b, f.Current)
	}
	c.from.Mu.Unlock()
	if f != nil {
		c.to.put(name, c.to.newInode(b))
	}
	return len(c.names) > 0
}

// End copies what is left, and returns the copy.
func (c *Copying) End() *FS {
	for c.Next() {
	}
	return c.to
}

// Replace puts a copy of a file of another directory in place of the one of this name, or under this name alone.
// Nobody has it mapped.
func (d *FS) Replace(name string, from *FS) {
	d.put(name, d.newInode(slices.Clone(from.Files[name].Current)))
}

// Overwrite writes the bytes of a file of another directory over those of the one of this name, which stays the same
// file, as cp does; where there is none it makes one. Nobody has it mapped.
func (d *FS) Overwrite(name string, from *FS) {
	f := d.Files[name]
	if f == nil {
		d.Replace(name, from)
		return
	}
	f.Current, f.lost = slices.Clone(from.Files[name].Current), nil
}

// put gives a file a name that is not durable.
func (d *FS) put(name string, f *Inode) {
	d.Mu.Lock()
	defer d.Mu.Unlock()
	d.log(dirOperation{kind: CallCreate, name: name, file: f})
	d.charge(f)
}

// add gives a file a name. REQUIRES: nobody else uses d.
func (d *FS) add(name string, f *Inode) {
	_ = d.makeRoomForName(name) // there is no bound yet
	d.Files[name] = f
	d.noteNames(dirOperation{kind: CallCreate, name: name})
	d.charge(f)
}

// afterCrash is what is left of the bytes of a file.
func (f *Inode) afterCrash(l Loss) []byte {
	size := len(f.Durable)
	if len(f.Current) != size && l.Sector() {
		if l.Size == nil {
			size = len(f.Current)
		} else {
			size = l.Size(size, len(f.Current))
		}
	}
	b := make([]byte, size)
	copy(b, f.Durable)
	for at := 0; at < min(size, len(f.Current)); at += SectorSize {
		end := min(at+SectorSize, size, len(f.Current))
		if _, ok := f.lost[at/SectorSize]; !ok && !equalShared(b[at:end], f.Current[at:end]) && l.Sector() {
			copyShared(b[at:end], f.Current[at:end])
		}
	}
	return b
}

// Kill returns the directory as it is after the process was killed at this moment. What was not durable
// is not durable yet.
func (d *FS) Kill() *FS {
	d.Mu.Lock()
	defer d.Mu.Unlock()
	after := New()
	after.Sites, after.Boot, after.ID, after.Mount, after.NoIDs = d.Sites, d.Boot, d.ID, d.Mount, d.NoIDs
	after.unnamed = d.unnamed
	clones := map[*Inode]*Inode{}
	clone := func(f *Inode) *Inode {
		if clones[f] == nil {
			c := &Inode{Current: make([]byte, len(f.Current)), Durable: slices.Clone(f.Durable),
				ID: f.ID, lost: maps.Clone(f.lost), links: f.names(), linkedAs: f.linkedAs, maker: after}
			copyShared(c.Current, f.Current)
			clones[f] = c
		}
		return clones[f]
	}
	for name, f := range d.Files {
		after.add(name, clone(f))
	}
	for name, f := range d.durable {
		after.durable[name] = clone(f)
	}
	for _, op := range d.journal {
		op.file = clone(op.file)
		after.journal = append(after.journal, op)
	}
	after.blocks = slices.Clone(d.blocks)
	for i := range after.blocks {
		after.blocks[i].names = maps.Clone(d.blocks[i].names)
	}
	after.Used += int64(len(d.blocks)-1) * int64(vm.PageSize) // nobody else has it yet
	after.Budget, after.NamesPerBlock = d.Budget, d.NamesPerBlock
	return after
}

// Freeze ends the machine: calls from here on fail, and have no effect.
func (d *FS) Freeze() {
	d.Mu.Lock()
	defer d.Mu.Unlock()
	d.frozen = true
}
