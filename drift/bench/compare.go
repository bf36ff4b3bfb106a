package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/drift/reference"
)

// figure is what another detector did on the streams of one kind.
type figure struct {
	Detector  string               `json:"detector"`
	Kind      string               `json:"kind"`
	Reference int                  `json:"reference"` // rows; 0 when it learns from the stream
	Warm      int                  `json:"warm"`      // rows before a change
	Clean     rate                 `json:"clean"`
	Delays    map[string][]float64 `json:"delays"` // rows, for each change
}

// compare sets ours beside each of the others, at its run length.
func (s settings) compare(to map[string]string, all []data, peers []figure) error {
	for i := range all {
		d := &all[i]
		if len(d.kind.changes) == 0 {
			continue
		}
		var b strings.Builder
		b.WriteString("| detector | rows of reference | rows to a false alarm |")
		for _, c := range d.kind.changes {
			fmt.Fprintf(&b, " %s |", c.name)
		}
		b.WriteString("\n|---|---|---|" + strings.Repeat("---|", len(d.kind.changes)) + "\n")
		for _, f := range peers {
			if f.Kind != d.kind.name {
				continue
			}
			ours, err := s.ours(d, &f)
			if err != nil {
				return fmt.Errorf("cannot compare with %s: %w", f.Detector, err)
			}
			s.logger.Info("compared", "with", f.Detector, "kind", f.Kind)
			writeRow(&b, d.kind, &f, s.after)
			writeRow(&b, d.kind, ours, s.after)
		}
		to[d.kind.name] = b.String()
	}
	to["robust"] = robust(peers)
	return nil
}

func writeRow(b *strings.Builder, k *kind, f *figure, after int) {
	rows := "none"
	if f.Reference > 0 {
		rows = count(float64(f.Reference))
	}
	fmt.Fprintf(b, "| %s | %s | %s |", f.Detector, rows, f.Clean)
	for _, c := range k.changes {
		l := lengths{f.Delays[c.name], float64(after)}
		fmt.Fprintf(b, " %s |", l.delay())
	}
	b.WriteString("\n")
}

// ours does what another one did, with a threshold that gives the same run length. Of
// one that learns from the stream it does not take over the lack of a reference.
func (s settings) ours(d *data, f *figure) (*figure, error) {
	rows := f.Reference
	if rows == 0 {
		rows = s.reference
	}
	var profiles []*reference.Profile
	for _, t := range d.references {
		p, err := learn(t.part(0, min(rows, t.rows())), d.kind.categorical, reference.Options{},
			time.Second)
		if err != nil {
			return nil, err
		}
		profiles = append(profiles, p)
	}
	wanted := f.Clean.every()
	if math.IsInf(wanted, 1) {
		wanted = f.Clean.Rows
	}
	paths, err := walk(d, profiles, int(wanted))
	if err != nil {
		return nil, err
	}
	every := threshold(paths, wanted)
	own := &figure{"ours", f.Kind, rows, f.Warm, alarms(paths, every), map[string][]float64{}}
	for i, c := range d.kind.changes {
		if own.Delays[c.name], err = own.see(d.changed[i], profiles, every); err != nil {
			return nil, err
		}
	}
	return own, nil
}

// walk follows the evidence of streams without drift, long enough to see a run length.
func walk(d *data, profiles []*reference.Profile, every int) ([]path, error) {
	const most, least, times = 100, 20, 5
	n := min(max(d.clean.rows()/(times*every), least), most)
	length := min(times*every, d.clean.rows()/n)
	paths := make([]path, n)
	return paths, parallel(n, func(i int) error {
		w, err := newWatch(profiles[i%len(profiles)], d.kind.columns, promise)
		if err != nil {
			return err
		}
		for row := range length {
			report, err := w.tick(d.clean, i*length+row, 1, start)
			if err != nil {
				return err
			}
			paths[i].add(row+1, report.Evidence)
		}
		return nil
	})
}

// see returns how long changes go unseen. Streams with an alarm before are left out.
func (f *figure) see(streams []table, profiles []*reference.Profile, every float64) (
	[]float64, error) {
	all := make([]float64, len(streams))
	err := parallel(len(streams), func(i int) error {
		t := streams[i]
		w, err := newWatch(profiles[i%len(profiles)], t.columns, every)
		if err != nil {
			return err
		}
		for row := before - f.Warm; row < t.rows(); row++ {
			all[i] = float64(row - before + 1)
			report, err := w.tick(t, row, 1, start)
			if err != nil || report.Alarm {
				return err
			}
		}
		return nil
	})
	return slices.DeleteFunc(all, func(n float64) bool { return n <= 0 }), err
}

// robust shows what the others' run lengths depend on.
func robust(peers []figure) string {
	kinds := []string{"normal", "t3", "cauchy", "ties"}
	rates := make(map[string]map[string]rate)
	var order []string
	for _, f := range peers {
		name := f.Detector
		if f.Reference > 0 {
			name += fmt.Sprintf(", %s rows of reference", count(float64(f.Reference)))
		}
		if rates[name] == nil {
			rates[name] = make(map[string]rate)
			order = append(order, name)
		}
		rates[name][f.Kind] = f.Clean
	}
	var b strings.Builder
	b.WriteString("| detector | normal | Student's t, 3 degrees | Cauchy | ties |\n" +
		"|---|---|---|---|---|\n")
	for _, name := range order {
		if len(rates[name]) < len(kinds) {
			continue
		}
		fmt.Fprintf(&b, "| %s |", name)
		for _, k := range kinds {
			fmt.Fprintf(&b, " %s |", rates[name][k])
		}
		b.WriteString("\n")
	}
	return b.String()
}
