package storetest_test

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/warmtier/warmtier/storetest"
)

/*
Goal: the suite finds what it is for. Method: a store that keeps every promise passes every scenario, and with one
fault, of the kind that real stores had, it fails the scenario that names it.
*/

// fault is one way to break logStore.
type fault string

const (
	none                    fault = ""
	emptyIsAbsent           fault = "an empty content is read as none"
	sliceIsKept             fault = "the slice of a Put is kept in a cache"
	cacheIsOvertaken        fault = "a read puts into the cache what a write has replaced since"
	compactionLosesWrites   fault = "a compaction ends with the index as it was at its beginning"
	placeIsOfBefore         fault = "a read takes the place from before a compaction and checks nothing"
	compactionRevives       fault = "a compaction enters what it copied, deleted since or not"
	viewIsReused            fault = "the buffer of a view is used for the next write"
	scanIsByPlace           fault = "a scan goes on behind the last place, which compactions change"
	deadlineIsForgotten     fault = "a compaction copies records without their deadlines"
	updateIsTwoSteps        fault = "an update is a read and a write"
	batchIsSingleWrites     fault = "a batch is one write after the other"
	deletionIsNotWritten    fault = "a deletion is made in the index alone"
	closedStoreAcknowledges fault = "a write to a closed store returns nil"
	secondOpenIsLetIn       fault = "the directory is not locked"
	writesAreBuffered       fault = "writes are in a buffer until Close"
	compactionIsBuffered    fault = "what a compaction wrote is in a buffer until Close"
	batchEndsLater          fault = "the second half of a batch is written with the next one"
	noChecksum              fault = "checksums are not looked at"
	damagePanics            fault = "damage is an assertion that fails"
	damageEndsTheLog        fault = "the log ends where it is damaged"
	cutIsNotNoticed         fault = "nobody compares the size of the log with what it was"
	fullDiskPanics          fault = "errors of writing are an assertion that fails"
	fullDiskIsIgnored       fault = "errors of writing are not looked at"
)

var faults = map[string]fault{
	"ReadsBack":                 emptyIsAbsent,
	"SlicesAreCallers":          sliceIsKept,
	"ReadsAreNeverOld":          cacheIsOvertaken,
	"CompactionKeepsWrites":     compactionLosesWrites,
	"CompactionReadsRightBytes": placeIsOfBefore,
	"CompactionKeepsDeletions":  compactionRevives,
	"ViewsStay":                 viewIsReused,
	"ScanSeesEachOnce":          scanIsByPlace,
	"ExpiredStaysAway":          deadlineIsForgotten,
	"UpdatesAreNotLost":         updateIsTwoSteps,
	"BatchesAreWhole":           batchIsSingleWrites,
	"ReopenKeepsAll":            deletionIsNotWritten,
	"CloseKeepsWrites":          closedStoreAcknowledges,
	"SecondOpenLosesNothing":    secondOpenIsLetIn,
	"KillKeepsAll":              writesAreBuffered,
	"KillInCompactionKeepsAll":  compactionIsBuffered,
	"KillKeepsBatchesWhole":     batchEndsLater,
	"DamageIsNoWrongByte":       noChecksum,
	"DamageEndsNoProcess":       damagePanics,
	"FlippedByteIsNoSilentLoss": damageEndsTheLog,
	"CutFileIsNoSilentLoss":     cutIsNotNoticed,
	"FullDiskLosesNothing":      fullDiskIsIgnored,
	"FullDiskEndsNoProcess":     fullDiskPanics,
}

func config(f fault) storetest.Config {
	return storetest.Config{Open: f.open, Keeps: storetest.Acknowledged, DiskBytes: 8 << 20}
}

func TestFaultless(t *testing.T) { storetest.Run(t, config(none)) }

func TestFaultless_Isolated(t *testing.T) {
	c := config(none)
	c.Isolate = true
	c.Skip = map[string]string{}
	for i, name := range storetest.Scenarios() {
		if i > 1 && name != "KillKeepsBatchesWhole" { // a process that starts one
			c.Skip[name] = "runs in the other test"
		}
	}
	storetest.Run(t, c)
}

func TestFaults(t *testing.T) {
	for _, name := range storetest.Scenarios() {
		t.Run(name, func(t *testing.T) {
			f, ok := faults[name]
			if !ok {
				t.Fatal("no fault is planted for this scenario: nothing says that it finds any")
			}
			c := config(f)
			c.Skip = map[string]string{}
			for _, other := range storetest.Scenarios() {
				if other != name {
					c.Skip[other] = "is about other faults"
				}
			}
			results := storetest.Check(t, c)
			r := results[slices.Index(storetest.Scenarios(), name)]
			if r.Skipped != "" {
				t.Skip(r.Skipped)
			}
			if r.Err == nil {
				t.Fatalf("a store passes although %s", f)
			}
			t.Logf("%s: %v", f, r.Err)
		})
	}
}

func TestScenarios_AreInTheReadme(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range storetest.Scenarios() {
		if !strings.Contains(string(text), "| "+name+" |") {
			t.Errorf("README.md does not say what %s is", name)
		}
	}
	if runtime.GOOS == "linux" && len(faults) != len(storetest.Scenarios()) {
		t.Errorf("%d faults for %d scenarios", len(faults), len(storetest.Scenarios()))
	}
}
