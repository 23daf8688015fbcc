package cluster_test

import (
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier/olricengine/cluster"
)

// A node whose disk is full refuses what is new, keeps what it has, and the others go on.
func TestCluster_FullDisk(t *testing.T) {
	directory := t.TempDir()
	if err := syscall.Mount("none", directory, "tmpfs", 0, "size=8m"); err != nil {
		t.Skip("needs to mount a file system: ", err)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(directory, 0)) })
	all := nodes(t, 3, func(i int, opts *cluster.Options) {
		if i == 0 {
			opts.Directory = directory + "/store"
		}
	})
	ctx := timeout(t)
	content := make([]byte, 20_000)
	var acknowledged []string
	refused := 0
	for i := range 900 {
		id := strconv.Itoa(i)
		if err := all[1].Put(ctx, id, content); err == nil {
			acknowledged = append(acknowledged, id)
		} else {
			refused++
		}
	}
	require.Positive(t, refused)
	require.Greater(t, len(acknowledged), 200, "a third of the partitions has no copy on the full node")
	failed := all[0].Put(ctx, acknowledged[0], content)
	for i := 0; failed == nil; i++ {
		failed = all[0].Put(ctx, "more "+strconv.Itoa(i), content)
	}
	require.ErrorContains(t, failed, "no space")
	for _, node := range all {
		for _, id := range acknowledged {
			got, err := node.Get(ctx, id)
			require.NoError(t, err)
			require.Len(t, got, len(content))
		}
	}
}
