//go:build unix

package shadow

import (
	"cmp"
	"hash/fnv"
	"maps"
	"slices"

	"github.com/warmtier/warmtier/internal/vm"
)

/*
Names take space as they do in ext4: blocks of the directory hold them by their hash. A block that is full when one more
name comes is split, and that takes one more block; a rename gives the new name before it takes the old one. Blocks
do not become fewer.
*/

// nameBlock is a block of the directory: the names whose hash is from from on, up to that of the next block.
type nameBlock struct {
	from  uint32
	names map[string]bool
}

func hashOfName(name string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // never fails
	return h.Sum32()
}

// blockOf returns the number of the block of a hash. REQUIRES: d.Mu held.
func (d *FS) blockOf(hash uint32) int {
	i, found := slices.BinarySearchFunc(d.blocks, hash, func(b nameBlock, h uint32) int { return cmp.Compare(b.from, h) })
	if !found {
		i-- // the first one is from 0 on
	}
	return i
}

// makeRoomForName gives the directory a block more if it takes one for a file of this name, where there is none.
// REQUIRES: d.Mu held.
func (d *FS) makeRoomForName(name string) error {
	if d.NamesPerBlock == 0 || d.Files[name] != nil {
		return nil
	}
	for {
		i := d.blockOf(hashOfName(name))
		full := d.blocks[i]
		if len(full.names) < d.NamesPerBlock {
			return nil
		}
		if err := d.take(0, vm.PageSize); err != nil {
			return err
		}
		hashes := []uint32{}
		for name := range full.names {
			hashes = append(hashes, hashOfName(name))
		}
		slices.Sort(hashes)
		upper := nameBlock{from: hashes[(len(hashes)+1)/2], names: map[string]bool{}}
		for name := range maps.Clone(full.names) {
			if hashOfName(name) >= upper.from {
				delete(full.names, name)
				upper.names[name] = true
			}
		}
		d.blocks = slices.Insert(d.blocks, i+1, upper)
	}
}

// noteNames follows a change of names. REQUIRES: d.Mu held, there is room.
func (d *FS) noteNames(op dirOperation) {
	if op.kind != CallCreate {
		delete(d.blocks[d.blockOf(hashOfName(op.name))].names, op.name)
	}
	switch op.kind {
	case CallCreate:
		d.blocks[d.blockOf(hashOfName(op.name))].names[op.name] = true
	case CallRename:
		d.blocks[d.blockOf(hashOfName(op.to))].names[op.to] = true
	}
}
