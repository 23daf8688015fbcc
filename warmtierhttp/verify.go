package warmtierhttp

import (
	"errors"
	"net/http"

	"github.com/warmtier/warmtier"
)

type wireVerification struct {
	Segments     int           `json:"segments"`
	Records      int           `json:"records"`
	Memories     int           `json:"memories"`
	BytesRead    int64         `json:"bytes_read"`
	Findings     []wireFinding `json:"findings"`
	FindingCount int           `json:"finding_count"`
	Quiescent    bool          `json:"quiescent"`
	Duration     float64       `json:"duration_seconds"`
}

// wireFinding is a finding without its id, which is user data.
type wireFinding struct {
	File    string `json:"file"`
	Offset  int64  `json:"offset"`
	Problem string `json:"problem"`
}

func toWireVerification(r warmtier.VerifyReport) wireVerification {
	out := wireVerification{
		Segments: r.Segments, Records: r.Records, Memories: r.Memories, BytesRead: r.BytesRead,
		Findings: []wireFinding{}, FindingCount: r.FindingCount, Quiescent: r.Quiescent, Duration: r.Duration.Seconds(),
	}
	for _, f := range r.Findings {
		out.Findings = append(out.Findings, wireFinding{File: f.File, Offset: f.Offset, Problem: f.Problem})
	}
	return out
}

// verify reads the whole store for a client that waits, and ends that when the client goes away. One runs at
// a time: each costs as much as reading all content. Findings are an answer, no error.
func (h *Handler) verify(sv *served, w http.ResponseWriter, r *http.Request) {
	h.log.Info("verification asked for", "store", sv.name, "remote", r.RemoteAddr)
	if !h.verifying.CompareAndSwap(false, true) {
		writeJSON(w, http.StatusConflict, wireError{Code: "verification_in_progress", Error: "another verification runs"})
		return
	}
	defer h.verifying.Store(false)
	takeTime(w)
	ctx, cancel := h.untilClosed(r.Context())
	defer cancel()
	report, err := sv.store.Verify(ctx)
	if report.FindingCount > 0 && errors.Is(err, warmtier.ErrCorrupt) {
		err = nil
	}
	h.ended(sv, w, warmtier.CompactionStats{}, err, toWireVerification(report))
}
