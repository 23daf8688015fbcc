package warmtierprom

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
)

// Goal: dashboard and alert rules name no metric, label or label's value that does not exist, and the
// dashboard shows every metric. Method: what looks like a metric is searched in the files.
func TestDashboards_NameExistingMetrics(t *testing.T) {
	series := map[string]warmtier.Metric{}
	for _, m := range (warmtier.Stats{}).Metrics() {
		series[m.Name] = m
		if m.Type == warmtier.MetricHistogram {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				series[m.Name+suffix] = m
			}
		}
	}
	files, err := filepath.Glob("dashboards/*")
	require.NoError(t, err)
	require.Len(t, files, 2)
	shown := map[string]bool{}
	name := regexp.MustCompile(`warmtier_[a-z0-9_]+(\{[^}]*\})?`)
	matcher := regexp.MustCompile(`([a-z]+)=\\*"([a-z]+)\\*"`)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, found := range name.FindAllString(string(text), -1) {
			metric, labels, _ := strings.Cut(found, "{")
			m, ok := series[metric]
			require.True(t, ok, "%s: no metric %s", file, metric)
			shown[filepath.Ext(file)+m.Name] = true
			for _, pair := range matcher.FindAllStringSubmatch(labels, -1) {
				require.True(t, hasLabel(m, pair[1], pair[2]), "%s: %s has no %s=%q", file, m.Name, pair[1], pair[2])
			}
		}
	}
	for _, m := range series {
		require.True(t, shown[".json"+m.Name], "the dashboard does not show %s", m.Name)
	}
}

func hasLabel(m warmtier.Metric, name, value string) bool {
	for _, s := range m.Samples {
		for _, l := range s.Labels {
			if l.Name == name && l.Value == value {
				return true
			}
		}
	}
	return false
}

// Goal: the dashboard is JSON with a query in each panel, and no two panels have one number.
func TestDashboards_GrafanaReadsThem(t *testing.T) {
	text, err := os.ReadFile("dashboards/warmtier.json")
	require.NoError(t, err)
	var dashboard struct {
		UID    string
		Panels []struct {
			ID      int
			Title   string
			Targets []struct{ Expr, RefID string }
		}
	}
	require.NoError(t, json.Unmarshal(text, &dashboard))
	require.Equal(t, "warmtier", dashboard.UID)
	numbers := map[int]string{}
	for _, p := range dashboard.Panels {
		require.Empty(t, numbers[p.ID])
		numbers[p.ID] = p.Title
		require.NotEmpty(t, p.Targets, p.Title)
		for _, target := range p.Targets {
			require.NotEmpty(t, target.Expr, p.Title)
			require.NotEmpty(t, target.RefID, p.Title)
		}
	}
}

// Goal: Prometheus accepts the alert rules.
func TestDashboards_PrometheusReadsAlerts(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool (Debian's package prometheus) is not installed")
	}
	out, err := exec.Command(promtool, "check", "rules", "dashboards/alerts.yml").CombinedOutput()
	require.NoError(t, err, "%s", out)
}
