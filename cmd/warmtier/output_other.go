//go:build !unix

package main

import (
	"io/fs"
	"os"
)

// keepOwner returns the mode of old: there is no owner to be kept here.
func keepOwner(_ *os.File, old fs.FileInfo) fs.FileMode { return old.Mode().Perm() }
