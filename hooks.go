package warmtier

// point names a place in the code where a test can wait, count, or make a step fail.
type point string

// Points, in the order in which a call passes them.
const (
	pointPutAppended      point = "put: record written, index not"
	pointViewPinned       point = "view: record pinned, callback not called"
	pointCompactSealed    point = "compact: lanes sealed"
	pointCompactWalked    point = "compact: live records listed"
	pointCompactTarget    point = "compact: target about to be mapped"
	pointCompactRecord    point = "compact: record about to be copied"
	pointCompactBuilt     point = "compact: round built, nothing flipped"
	pointCompactFlip      point = "compact: slot about to be flipped"
	pointCompactCommitted point = "compact: round committed, victims in the table"
	pointCompactSwapped   point = "compact: victims out of the table"
	pointManifestWritten  point = "manifest: synced under its temporary name"
	pointManifestRenamed  point = "manifest: renamed, directory not synced"
)

// hooks are the knobs of tests; the zero value is production.
type hooks struct {
	hash      func(id string) uint64        // replaces the seeded hash
	available func() (bytes int64, ok bool) // replaces what the system says
	at        func(point) error             // called at every point, with or without locks held
}

// reach calls the hook of a point. An error makes the step that begins there fail.
func (s *Store) reach(p point) error {
	if s.hooks.at == nil {
		return nil
	}
	return s.hooks.at(p)
}
