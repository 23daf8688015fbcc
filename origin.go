package warmtier

import (
	"fmt"

	"github.com/warmtier/warmtier/internal/dir"
	"github.com/warmtier/warmtier/internal/layout"
)

/*
Origin: are these the files that the store wrote, at one moment? Checksums cannot tell. A copy of a directory
that is in use has each file as it was when its turn came, and looks like what a crash leaves; a backup may be
restored over a directory that is newer. What tells:

	the manifest of a clean Close   has the salt, the end and the number of records of each segment, and nothing
	                                was made since. A directory that fits it is that moment, wherever its
	                                files come from. One that does not is damaged (candidates.go).
	any other manifest              has the id of the directory and of each listed file: of a copy they differ.
	                                Then the files are of one moment only if the user says so. cp writes into
	                                files that are there, which keep their ids, but for one: each manifest has
	                                a file of its own, and knows its id.
	headers of segments             have the Open, by a number drawn at random, that made them, and the generation
	                                of the manifest in force then. An unlisted one counts only if the
	                                manifest's own Open made it (isNewer).

What Open takes for durable rests on the same: a file that another program made may lie in the page cache
alone, so settle syncs all of it, and its name. So an id in a manifest says: this file was durable up to there.
*/

// checkDirectory decides what can be believed of a directory with this manifest.
func (r *recovery) checkDirectory(m *layout.Manifest) error {
	d := r.s.disk
	r.cacheKept = m.Cache == d.boot && d.boot != [16]byte{} && !r.s.opts.AfterPowerLoss
	moved := r.isOther(m.Directory, d.directory)
	r.elsewhere = moved || r.isOther(m.File, r.manifestFile)
	if r.salvage != nil {
		d.trueHint = m.Hint // until the repair has ended: another one may have to begin again
		r.salvage.keepBoot(m.Cache)
		if r.s.opts.AfterPowerLoss {
			r.salvage.keepBoot([16]byte{})
		}
	}
	switch {
	case !r.elsewhere || r.mayBeCopied():
	case moved:
		return fmt.Errorf("%w: it is not the directory that the store wrote to, and was not closed; %s",
			ErrCopied, copiedAdvice)
	default:
		return fmt.Errorf("%w: %s is another file than the one that the store wrote, which was not closed: a copy was "+
			"put back over it; %s", ErrCopied, layout.ManifestName, copiedAdvice)
	}
	if r.elsewhere && !m.Closed {
		r.s.opts.Logger.Warn("the directory is a copy of one that was not closed, taken to be of one moment")
	}
	return nil
}

const copiedAdvice = "a copy made while the store was in use lacks memories: copy a closed one; " +
	"if all files are of one moment (a snapshot, the disk of a machine that crashed), open it with AfterPowerLoss"

// mayBeCopied reports whether other files than those that were written are accepted.
func (r *recovery) mayBeCopied() bool {
	return r.manifest.Closed || r.s.opts.AfterPowerLoss || r.salvage != nil
}

// isOther reports whether two ids are known, and differ.
func (r *recovery) isOther(want, got uint64) bool {
	return want != 0 && got != 0 && want != got && !r.s.hooks.sameFiles
}

// checkOrigin decides what can be believed of a segment's file.
func (r *recovery) checkOrigin(c *candidate, f *foundSegment) error {
	f.copied = r.elsewhere
	if c.listed != nil {
		f.copied = f.copied || c.file.ID == 0 || c.file.ID != c.listed.File
		if r.isOther(c.listed.File, c.file.ID) && !r.elsewhere && !r.mayBeCopied() {
			return fmt.Errorf("%w: %s is another file than the one that the store wrote, and the store was not closed; %s",
				ErrCopied, c.name(), copiedAdvice)
		}
	}
	if r.elsewhere && f.seg.inFile.linked.Load() && !f.state.Sealed && !r.s.opts.ReadOnly {
		return fmt.Errorf("%w: %s is not sealed, and has another name (a hard link), under which a store may write to it: "+
			"copy the file", ErrCopied, c.name())
	}
	return nil
}

// identify notes which directory this is.
func (d *disk) identify() error {
	var st dir.Stat
	st, err := d.fs.Stat()
	d.directory = st.ID
	return err
}
