package peers

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/warmtier/warmtier/storetest"
)

var run = flag.Bool("peers", false, "run the suite on the stores, and compare README.md with what came of it")

// TestPeers is the source of the table in README.md. Names of peers and scenarios choose as in any test: -run
// TestPeers/bbolt.
func TestPeers(t *testing.T) {
	if !*run {
		t.Skip("takes minutes: -peers runs it")
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range Peers() {
		t.Run(p.Name, func(t *testing.T) {
			for _, r := range storetest.Check(t, p.Config) {
				mark := "ok"
				if r.Skipped != "" {
					mark = "-"
				}
				if r.Err != nil {
					mark = "fails"
				}
				t.Logf("%s: %s %s %v", p.Name, r.Scenario, mark, r.Err)
				said := cell(string(readme), r.Scenario, p.Name)
				if said == "fails" && mark == "ok" {
					t.Logf("%s, %s: not this time", p.Name, r.Scenario) // some depend on how goroutines meet
				} else if said != mark {
					t.Errorf("%s, %s: %s, and README.md says %q", p.Name, r.Scenario, mark, said)
				}
			}
		})
	}
}

// cell returns what the table says of a scenario and a peer, without its links.
func cell(readme, scenario, peer string) string {
	var column int
	for line := range strings.Lines(readme) {
		cells := strings.Split(strings.Trim(line, "| \n"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if at := slices.Index(cells, peer); at > 0 && cells[0] == "scenario" {
			column = at
		}
		if cells[0] == scenario && column > 0 && column < len(cells) {
			text, _, _ := strings.Cut(strings.TrimPrefix(cells[column], "["), "]")
			return text
		}
	}
	return ""
}

func TestReadme_HasTheVersions(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range Peers()[1:] {
		_, rest, _ := strings.Cut(string(mod), p.Module+" ")
		version, _, _ := strings.Cut(rest, "\n")
		if line := fmt.Sprintf("| %s | %s %s |", p.Name, p.Module, version); !strings.Contains(string(readme), line) {
			t.Errorf("README.md does not have: %s", line)
		}
	}
}
