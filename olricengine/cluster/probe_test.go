package cluster_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/olric-data/olric"
	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/olricengine/cluster"
)

// A probe that a node had no room for proves nothing, in whichever form Olric passes that on; any other failure says
// that writes do not reach the owner yet.
func TestIsFull(t *testing.T) {
	for want, errs := range map[bool][]error{
		true: {
			fmt.Errorf("put: %w", warmtier.ErrNoSpace),
			fmt.Errorf("put: %w", olric.ErrWriteQuorum),
			errors.New("ERR put: " + warmtier.ErrNoSpace.Error() + ": over MaxBytes"), // of another node, as text
		},
		false: {olric.ErrClusterQuorum, olric.ErrOperationTimeout, errors.New("connection refused"), warmtier.ErrClosed},
	} {
		for _, err := range errs {
			require.Equal(t, want, cluster.IsFull(err), "%v", err)
		}
	}
}
