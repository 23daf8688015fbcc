package cluster

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/olric-data/olric/hasher"
)

// member is one life of a node. One that is started again has the same name.
type member struct {
	name string
	born int64 // Unix nanoseconds
}

// Kinds of owners, with the numbers that Olric's protocol has for them.
const (
	primary = 1
	backup  = 2
)

// owner is a member that must have a partition.
type owner struct {
	member
	kind int
}

// view is who must have what, as one node tells it.
type view struct {
	members []member
	owners  [][]owner // by partition: the primary owner, then the backups
	// signature stands for members and owners.
	signature uint64
}

// errUnsettled is returned while members and tables of the cluster do not fit together.
var errUnsettled = errors.New("cluster: membership is changing")

// members asks a node, which knows them by itself.
func (w *wire) members(ctx context.Context, name string) ([]member, error) {
	answer, err := w.to(name).Do(ctx, "cluster.members").Slice()
	if err != nil {
		return nil, err
	}
	members := make([]member, 0, len(answer))
	for _, item := range answer {
		fields, ok := item.([]any)
		if !ok || len(fields) < 2 {
			return nil, fmt.Errorf("cluster: %s describes a member as %v", name, item)
		}
		m := member{}
		m.name, _ = fields[0].(string)
		m.born, _ = fields[1].(int64)
		members = append(members, m)
	}
	slices.SortFunc(members, func(a, b member) int { return strings.Compare(a.name, b.name) })
	return members, nil
}

// view asks a node, which asks the coordinator for the table.
func (w *wire) view(ctx context.Context, name string, opts Options) (*view, error) {
	members, err := w.members(ctx, name)
	if err != nil {
		return nil, err
	}
	v := &view{members: members}
	answer, err := w.to(name).Do(ctx, "cluster.routingtable").Slice()
	if err != nil {
		return nil, err
	}
	if len(answer) != opts.Partitions {
		return nil, fmt.Errorf("cluster: %s has %d partitions, this node %d", name, len(answer), opts.Partitions)
	}
	v.owners = make([][]owner, len(answer))
	for _, item := range answer {
		if err := v.addPartition(item, opts.Replicas); err != nil {
			return nil, err
		}
	}
	v.sign()
	return v, nil
}

// addPartition adds a line of a table: number, primary owners, backup owners; of each those who
// must have it are last.
func (v *view) addPartition(item any, replicas int) error {
	fields, ok := item.([]any)
	if !ok || len(fields) != 3 {
		return fmt.Errorf("cluster: a table has the line %v", item)
	}
	number, ok := fields[0].(int64)
	if text, isText := fields[0].(string); isText {
		_, err := fmt.Sscan(text, &number)
		ok = err == nil
	}
	if !ok || number < 0 || number >= int64(len(v.owners)) {
		return fmt.Errorf("cluster: a table has a partition %v", fields[0])
	}
	primaries, backups := names(fields[1]), names(fields[2])
	if len(primaries) == 0 {
		return errUnsettled
	}
	owners, err := v.lookUp(primaries[len(primaries)-1:], primary)
	if err != nil {
		return err
	}
	replaced, err := v.lookUp(current(backups, replicas), backup)
	v.owners[number] = append(owners, replaced...)
	return err
}

// current returns those of the backup owners that must have the partition; the others before them
// still have some of it.
func current(backups []string, replicas int) []string {
	return backups[max(0, len(backups)-replicas+1):]
}

func names(item any) []string {
	var all []string
	list, _ := item.([]any)
	for _, one := range list {
		if name, ok := one.(string); ok {
			all = append(all, name)
		}
	}
	return all
}

// lookUp returns the members that have the names.
func (v *view) lookUp(names []string, kind int) ([]owner, error) {
	owners := make([]owner, 0, len(names))
	for _, name := range names {
		i, ok := slices.BinarySearchFunc(v.members, name, func(m member, name string) int {
			return strings.Compare(m.name, name)
		})
		if !ok {
			return nil, errUnsettled
		}
		owners = append(owners, owner{v.members[i], kind})
	}
	return owners, nil
}

// ownersOf returns the names of the nodes that must have an id.
func (v *view) ownersOf(id string, opts Options) (names []string) {
	hkey := hasher.NewDefaultHasher().Sum64([]byte(opts.Name + id))
	for _, o := range v.owners[hkey%uint64(opts.Partitions)] {
		names = append(names, o.name)
	}
	return names
}

// number stands for the owners of a partition. It is never 0.
func number(owners []owner) uint64 {
	hash := fnv.New64a()
	fmt.Fprintln(hash, owners)
	return max(hash.Sum64(), 1)
}

// sign sets the signature.
func (v *view) sign() {
	hash := fnv.New64a()
	fmt.Fprintln(hash, v.members)
	for partition, owners := range v.owners {
		fmt.Fprintln(hash, partition, owners)
	}
	v.signature = hash.Sum64()
}

// see returns the view of this node.
func (c *Cluster) see(ctx context.Context) (*view, error) { return c.wire.view(ctx, c.self, c.opts) }

// view returns the last one for which everything was done, nil before the first.
func (c *Cluster) view() *view {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.latest
}

// members returns those of the last view.
func (c *Cluster) members() []member {
	if v := c.view(); v != nil {
		return v.members
	}
	return nil
}
