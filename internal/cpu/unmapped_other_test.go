//go:build !unix

package cpu

import "testing"

func unmapped(*testing.T) []byte { return nil }
