package olricengine_test

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"testing"

	"github.com/olric-data/olric/pkg/storage"
	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier/olricengine"
)

// A payload that says of an entry that it is longer than the payload is an error, on systems of 32
// bits too, where the length is negative as an int.
func TestImport_LengthBeyondPayload(t *testing.T) {
	engine := openEngine(t, olricengine.Options{})
	for _, size := range []uint32{1, 1 << 31, math.MaxUint32} {
		data := append([]byte{2}, make([]byte, 16)...) // of no owners, and no life
		data = binary.BigEndian.AppendUint64(data, 7)
		data = binary.BigEndian.AppendUint32(data, size)
		data = binary.BigEndian.AppendUint32(data, crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)))
		err := engine.Import(data, func(uint64, storage.Entry) error { panic("there is no entry") })
		require.ErrorIs(t, err, olricengine.ErrFormat, size)
	}
}
