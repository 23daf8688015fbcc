package main

import (
	"errors"
	"image/color"
	"math"
	"os"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// colours, warmtier's first: people who do not see red or green as others do can tell them apart
// (Okabe and Ito).
var colours = []color.Color{
	color.RGBA{0xd5, 0x5e, 0x00, 0xff}, color.RGBA{0x00, 0x72, 0xb2, 0xff}, color.RGBA{0x00, 0x9e, 0x73, 0xff},
	color.RGBA{0xcc, 0x79, 0xa7, 0xff}, color.RGBA{0x56, 0xb4, 0xe9, 0xff}, color.RGBA{0xe6, 0x9f, 0x00, 0xff},
	color.RGBA{0x00, 0x00, 0x00, 0xff}, color.RGBA{0x99, 0x99, 0x99, 0xff},
}

func newPlot(title, y string) *plot.Plot {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	p := plot.New()
	p.Title.Text, p.Y.Label.Text = title, y
	p.Title.Padding = 2 * vg.Millimeter
	p.Add(plotter.NewGrid())
	// To the right of their lines, so that a reader without the font has room for longer letters.
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.TextStyle.Font.Size, p.Legend.Padding = vg.Points(10), vg.Millimeter/2
	return p
}

// drawTable draws columns from left to right and a line, or bars, for each row. A table of one
// figure is no chart.
func drawTable(t *table, name string) (drawn bool, err error) {
	if len(t.Rows) == 1 && len(t.Columns) == 1 || t.Title == "Limits" {
		return false, nil
	}
	p := newPlot(t.Title, t.Unit)
	p.NominalX(t.Columns...)
	low, high := bounds(t)
	if high <= 0 {
		return false, nil
	}
	if low > 0 && high/low > 20 && len(t.Columns) > 2 { // bars have no foot on a logarithmic axis
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
		p.Y.Min, p.Y.Max = low/1.2, high*1.2
	} else {
		p.Y.Min, p.Y.Max = min(0, low), high*1.05
	}
	for i, r := range t.Rows {
		if len(t.Columns) > 2 {
			err = addLine(p, t, r, i)
		} else {
			err = addBars(p, t, r, i)
		}
		if err != nil {
			return false, err
		}
	}
	// Room for the legend beside the last column.
	p.Legend.XOffs = 5.4 * vg.Inch
	p.X.Min, p.X.Max = -0.5, float64(len(t.Columns)-1)+0.5+0.45*float64(len(t.Columns))
	return true, p.Save(9*vg.Inch, 4*vg.Inch, name)
}

func bounds(t *table) (low, high float64) {
	low = math.Inf(1)
	for _, r := range t.Rows {
		for _, m := range r.Cells {
			if v := m.median(); v != 0 {
				low, high = min(low, v), max(high, v)
			}
		}
	}
	return low, high
}

func addLine(p *plot.Plot, t *table, r *row, i int) error {
	var points plotter.XYs
	for x, column := range t.Columns {
		if v := r.Cells[column].median(); v > 0 {
			points = append(points, plotter.XY{X: float64(x), Y: v})
		}
	}
	if len(points) == 0 {
		return nil
	}
	line, dots, err := plotter.NewLinePoints(points)
	if err != nil {
		return err
	}
	line.Color, dots.Color = colours[i%len(colours)], colours[i%len(colours)]
	dots.Shape, dots.Radius = draw.CircleGlyph{}, vg.Points(2.5)
	line.Width = vg.Points(1.2)
	if i == 0 {
		line.Width = vg.Points(2.5)
	}
	p.Add(line, dots)
	p.Legend.Add(label(r.Peer), line, dots)
	return nil
}

func addBars(p *plot.Plot, t *table, r *row, i int) error {
	values := make(plotter.Values, len(t.Columns))
	for x, column := range t.Columns {
		values[x] = r.Cells[column].median()
	}
	width := vg.Points(240 / float64(len(t.Rows)*len(t.Columns)))
	bars, err := plotter.NewBarChart(values, width)
	if err != nil {
		return err
	}
	bars.Color, bars.LineStyle.Width = colours[i%len(colours)], 0
	bars.Offset = width * vg.Length(float64(i)-float64(len(t.Rows)-1)/2)
	p.Add(bars)
	p.Legend.Add(label(r.Peer), bars)
	return nil
}

// drawSustained draws four series over time, one below the other.
func drawSustained(t *table, name string) error {
	panels := []struct {
		title string
		value func(m *measured) []float64
	}{
		{"calls per second", func(m *measured) []float64 { return perSecond(m.Values) }},
		{"fragmentation ratio", func(m *measured) []float64 { return m.Extra["fragmentation"] }},
		{"resident memory, MiB", func(m *measured) []float64 { return scaled(m.Extra["resident-bytes"], 1<<20) }},
		{"read p99.9, µs", func(m *measured) []float64 { return m.Extra["p99.9-us"] }},
	}
	var plots [][]*plot.Plot
	for _, panel := range panels {
		p := newPlot(panel.title, "")
		p.X.Label.Text = "seconds"
		for i, column := range t.Columns {
			if err := addSeries(p, column, panel.value(t.Rows[0].Cells[column]), i); err != nil {
				return err
			}
		}
		p.Y.Min, p.Legend.XOffs = 0, 7*vg.Inch
		plots = append(plots, []*plot.Plot{p})
	}
	return savePlots(plots, name)
}

// addSeries adds the line of values, one a second.
func addSeries(p *plot.Plot, name string, values []float64, i int) error {
	if len(values) == 0 {
		return nil
	}
	points := make(plotter.XYs, len(values))
	for x, v := range values {
		points[x] = plotter.XY{X: float64(x + 1), Y: v}
	}
	line, err := plotter.NewLine(points)
	if err != nil {
		return err
	}
	line.Color, line.Width = colours[i], vg.Points(1.2)
	p.Add(line)
	p.Legend.Add(name, line)
	p.Y.Max = max(p.Y.Max, slices.Max(values)*1.3)
	return nil
}

// drawDefaults draws Puts and resident memory over time, for each set of memories.
func drawDefaults(t *table, name string) error {
	var plots [][]*plot.Plot
	for _, column := range t.Columns {
		puts, resident := newPlot("Puts per second, "+column, ""), newPlot("resident memory, MiB, "+column, "")
		for i, r := range t.Rows {
			m := r.Cells[column]
			err := errors.Join(addSeries(puts, label(r.Peer), m.Values, i),
				addSeries(resident, label(r.Peer), scaled(m.Extra["resident-bytes"], 1<<20), i))
			if err != nil {
				return err
			}
		}
		for _, p := range []*plot.Plot{puts, resident} {
			// Room for the legend beside the last second.
			p.X.Label.Text, p.Y.Min, p.X.Max = "seconds", 0, p.X.Max*1.42
			p.Legend.XOffs = 6.3 * vg.Inch
			plots = append(plots, []*plot.Plot{p})
		}
	}
	return savePlots(plots, name)
}

func savePlots(plots [][]*plot.Plot, name string) error {
	canvas := vgsvg.New(9*vg.Inch, 10*vg.Inch)
	tiles := draw.Tiles{Rows: len(plots), Cols: 1, PadY: 3 * vg.Millimeter, PadRight: 3 * vg.Millimeter}
	for i, line := range plot.Align(plots, tiles, draw.New(canvas)) {
		plots[i][0].Draw(line[0])
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if _, err := canvas.WriteTo(f); err != nil {
		_ = f.Close() // the first error says more
		return err
	}
	return f.Close()
}

func scaled(values []float64, by float64) []float64 {
	out := make([]float64, len(values))
	for i, v := range values {
		out[i] = v / by
	}
	return out
}
