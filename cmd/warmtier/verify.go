package main

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/warmtier/warmtier"
)

// ask has a server verify the store that it has open. When it is interrupted, the server ends that.
func (c *verifyCmd) ask(a *app) error {
	bar := a.progress("verifying", 0, unitNothing)
	body, err := c.client().do(a.ctx, http.MethodPost, "/api/v1/maintenance/verify")
	bar.end()
	if err != nil {
		return err
	}
	var answer struct {
		warmtier.VerifyReport
		BytesRead    int64   `json:"bytes_read"`
		FindingCount int     `json:"finding_count"`
		Duration     float64 `json:"duration_seconds"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return err
	}
	report := answer.VerifyReport
	report.BytesRead, report.FindingCount = answer.BytesRead, answer.FindingCount
	report.Duration = seconds(answer.Duration)
	if err := a.report(body, verifyTable(report), findingRows(report)); err != nil {
		return err
	}
	if report.FindingCount > 0 {
		return about(c.URL, finding("%s", counted(report.FindingCount, "finding")))
	}
	return nil
}

// verifyTable shows a report to people.
func verifyTable(report warmtier.VerifyReport) [][]string {
	table := [][]string{
		{"segments", showCount(report.Segments)}, {"records", showCount(report.Records)},
		{"memories", showCount(report.Memories)}, {"bytes read", showBytes(report.BytesRead)},
		{"time", showDuration(report.Duration)}, {"findings", showCount(report.FindingCount)},
	}
	return append(table, findingRows(report)...)
}

// findingRows shows what a report found.
func findingRows(report warmtier.VerifyReport) (table [][]string) {
	for _, f := range report.Findings {
		id := "id unknown"
		if f.ID != "" {
			id = "id " + showID(f.ID)
		}
		table = append(table, []string{"", fmt.Sprintf("%s at %d, %s: %s", f.File, f.Offset, id, f.Problem)})
	}
	return table
}

func findingJSON(f warmtier.Finding) map[string]any {
	m := map[string]any{"file": f.File, "offset": f.Offset, "problem": f.Problem}
	if id := idJSON(f.ID); f.ID != "" && id.ID != nil {
		m["id"] = f.ID
	} else if f.ID != "" {
		m["id_base64"] = id.IDBase64
	}
	return m
}
