package warmtier

import "time"

// point names a place in the code where a test can wait, count, or make a step fail.
type point string

// Points, in the order in which a call passes them.
const (
	pointFindOther        point = "find: slot with the tag of the id met, its record has another id"
	pointPutFound         point = "put: old record asked for, lane not locked"
	pointPutBody          point = "put: body written, header not"
	pointPutDrawn         point = "put: number drawn, header not written"
	pointPutAppended      point = "put: record written, index not"
	pointDeleteAppended   point = "delete: tombstone written, index not"
	pointApplyLocked      point = "apply: one more lane locked"
	pointApplyDigests     point = "apply: bodies and digests written, no number drawn"
	pointApplyHeaders     point = "apply: records in the container written, its header not"
	pointApplyIndexed     point = "apply: writes of one shard in the index"
	pointRoomWait         point = "room: writer about to wait, no lock held"
	pointSweepClaimed     point = "sweep: dead segments claimed, in the table"
	pointSegmentCreated   point = "segment: file made and mapped, header not written"
	pointSegmentMade      point = "segment: header written, in no table"
	pointTableFound       point = "index: table of a sparse block found, nothing locked"
	pointTableMoving      point = "index: table about to leave a sparse block, its lane locked"
	pointTableMoved       point = "index: some slots moved to another table, its lane locked"
	pointLaneRolled       point = "lane: new segment published, old one not sealed"
	pointViewPinned       point = "view: record pinned, callback not called"
	pointCopyPinned       point = "get: record pinned, content not copied"
	pointCompactSealed    point = "compact: lanes sealed"
	pointCompactWalked    point = "compact: live records listed"
	pointCompactTarget    point = "compact: target about to be mapped"
	pointCompactRecord    point = "compact: record about to be copied"
	pointCompactDead      point = "compact: lanes looked at for dead records, sealed segments not"
	pointCompactBuilt     point = "compact: round built, nothing flipped"
	pointTargetsPublished point = "compact: a few targets in the table, no lock held"
	pointCompactFlip      point = "compact: slot about to be flipped"
	pointCompactCommitted point = "compact: round committed, victims in the table"
	pointCompactDrop      point = "compact: round in force, its drops not applied"
	pointSegmentsRemoved  point = "swap: a few segments out of the table, no lock held"
	pointCompactSwapped   point = "compact: victims out of the table"
	pointTargetsFlushed   point = "compact: targets durable, manifest not written"
	pointUnlink           point = "compact: file about to be removed"
	pointFlushActive      point = "sync: active segments pinned, table not read"
	pointFlushed          point = "sync: segment flushed, state not written"
	pointStateWritten     point = "sync: state written"
	pointManifestNumbered point = "manifest: next and pending ids noted, table not read"
	pointManifestTemp     point = "manifest: written under its temporary name, not synced"
	pointManifestWritten  point = "manifest: synced under its temporary name"
	pointManifestRenamed  point = "manifest: renamed, directory not synced"
	pointManifestSynced   point = "manifest: in force"
	pointClearPrepared    point = "clear: empty manifest written under its temporary name, writes not kept out"
	pointCloseTold        point = "close: a call under way knows of it"
	pointClearBarred      point = "clear: writes kept out, empty manifest not renamed"
	pointCleared          point = "clear: index empty, segments in the table"
	pointCheckpointLooked point = "checkpoint: its directory is empty, not locked yet"
	pointCheckpointPinned point = "checkpoint: a sealed segment pinned, its header not synced"
	pointCheckpointLinked point = "checkpoint: a sealed segment linked, the moment not yet"
	pointCheckpointLocked point = "checkpoint: one more lane locked"
	pointCheckpointAhead  point = "checkpoint: the next segments of lanes are made, no lane locked"
	pointCheckpointSealed point = "checkpoint: lanes sealed at one moment, nothing of that flushed"
	pointCheckpointWhole  point = "checkpoint: every segment linked, no manifest"
	pointCheckpointListed point = "checkpoint: manifest in force, not durable"
	pointImportWaits      point = "import: stream whole, another import stores"
	pointCloseSealed      point = "close: lanes sealed"
	pointCloseFlushed     point = "close: everything flushed"
	pointCloseHinted      point = "close: hint written"
	pointRecoverScanned   point = "open: segments read, nothing changed"
	pointRecoverSealed    point = "open: tails sealed, manifest not written"
	pointRecoverListed    point = "open: manifest written, leftovers not removed"
	pointRepairNoted      point = "repair: note of what is lost written, nothing else changed"
	pointRepairAside      point = "repair: damaged files renamed, directory not synced"
	pointRepairBuried     point = "repair: tombstones of lost memories written"
	pointRepairRescued    point = "repair: intact memories of a damaged segment rewritten"
	pointRepairCommitted  point = "repair: manifest without damaged segments in force"
)

// hooks are the knobs of tests; the zero value is production.
type hooks struct {
	hash      func(id string) uint64        // replaces the seeded hash
	available func() (bytes int64, ok bool) // replaces what the system says
	boot      func() [16]byte               // replaces the kernel's boot id
	sameFiles bool                          // files are those that the store wrote, whoever made them
	unmap     func() error                  // called before anything is unmapped; an error makes that fail
	settlers  int                           // replaces how many segments Open settles at a time; 0: settlers
	patience  time.Duration                 // replaces how long a writer waits while nothing changes
	looks     <-chan time.Time              // replaces the clock of a writer that waits
	now       func() int64                  // replaces the clock; Unix time in ms
	fate      func(id string) fate          // decides what compactions do with live records
	written   int                           // replaces writtenSize
	share     func(store int64) int64       // replaces how much of a store of so many bytes a segment is
	at        func(point) error             // called at every point, with or without locks held
}

// fire calls the hook of a point. An error makes the step that begins there fail.
func (h *hooks) fire(p point) error {
	if h.at == nil {
		return nil
	}
	return h.at(p)
}
