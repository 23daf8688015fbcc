package cluster

import (
	"bytes"
	"errors"
	"fmt"
)

// What Olric stores is the content as it is, so that any Redis client can read it, unless it begins
// with mark: then a kind follows, and the rest.
const (
	mark = "\x00wt\xff\x01"

	kindContent = 'c' // the rest is a content, which itself begins with mark
	kindDeleted = 'd' // nothing: the id was deleted
	kindStatus  = 's' // the rest is what a node says of itself
	kindProbe   = 'p' // the rest is a number: see probe
)

// Ids that begin with reserved are those of nodes.
const (
	reserved = "\x00warmtier:"
	statusID = reserved + "node:"  // the name of the node follows
	probeID  = reserved + "probe:" // a number follows
)

// ErrFormat is returned for a content that a newer version of this package has written.
var ErrFormat = errors.New("cluster: unknown format of a content")

var errDeleted = errors.New("deleted")

func encodeContent(content []byte) []byte {
	if !bytes.HasPrefix(content, []byte(mark)) {
		return content
	}
	return marked(kindContent, content)
}

func marked(kind byte, rest []byte) []byte {
	return append(append([]byte(mark), kind), rest...)
}

// decodeContent returns the content. Errors: errDeleted, bare; [ErrFormat].
func decodeContent(value []byte) ([]byte, error) {
	rest, ok := bytes.CutPrefix(value, []byte(mark))
	switch {
	case !ok:
		return value, nil
	case len(rest) > 0 && rest[0] == kindContent:
		return rest[1:], nil
	case len(rest) == 1 && rest[0] == kindDeleted:
		return nil, errDeleted
	}
	return nil, fmt.Errorf("%w: it begins with %q", ErrFormat, value[:min(len(value), len(mark)+1)])
}

// isMarker reports whether the value marks a deletion, or is a probe: nothing that a Scan should
// have, or that should be remembered once it has expired.
func isMarker(value []byte) bool {
	return bytes.HasPrefix(value, []byte(mark)) && len(value) > len(mark) &&
		(value[len(mark)] == kindDeleted || value[len(mark)] == kindProbe)
}
