package control

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/drift/reference"
)

// truth writes a CSV file of rows with an answer and a target, of which the answer is another one
// in some of ten cases, and a profile of it. It returns their paths.
func (s *stream) truth(rows, wrong int) (table, profile string) {
	s.b.t.Helper()
	text, err := os.ReadFile(s.reference(rows))
	if err != nil {
		s.b.t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	lines[0] += ",label"
	for i := range lines[1:] {
		answer := 1
		if i%10 < wrong {
			answer = 0
		}
		lines[1+i] += fmt.Sprintf(",%d", answer)
	}
	dir := s.b.t.TempDir()
	table, profile = filepath.Join(dir, "truth.csv"), filepath.Join(dir, "truth.json")
	if err := os.WriteFile(table, []byte(strings.Join(lines, "\n")), 0o644); err != nil {
		s.b.t.Fatal(err)
	}
	p, err := readTable(table, reference.Options{Outputs: []string{"label"},
		Truth: reference.Truth{Label: "target", Output: "label"}})
	if err != nil {
		s.b.t.Fatal(err)
	}
	file, err := os.Create(profile)
	if err == nil {
		err = p.Write(file)
	}
	if err == nil {
		err = file.Close()
	}
	if err != nil {
		s.b.t.Fatal(err)
	}
	return table, profile
}

// What is normal of the losses is in the file with the labels, or in the profile that was made of
// it. A share that the settings say stands above it.
func TestReferenceLosses(t *testing.T) {
	b, s := watching(t, "")
	table, profile := s.truth(5000, 2)
	f := func(file, performance string, expected float64) {
		t.Helper()
		b.put("Monitor", "watch", fmt.Sprintf(`{"endpoint": "e", "reference": {"file": %q},
			"performance": %s}`, file, performance))
		b.opened()
		for range 3 { // the first tick is at a random time
			s.answered("1", 10, 2)
		}
		st := s.status()
		p := st.Last.Performance
		if p == nil || p.Learn != 0 || math.Abs(p.Expected-expected) > 1e-9 ||
			st.State == monitor.StateError {
			t.Errorf("%s: %s: %s, %+v", performance, st.State, st.Reason, p)
		}
	}
	f(table, `{"output": "label", "label": "target"}`, 0.2)
	f(profile, `{"output": "label"}`, 0.2)
	f(profile, `{"output": "label", "reference_error": 0.3}`, 0.3)
	b.put("Monitor", "watch", fmt.Sprintf(`{"endpoint": "e", "reference": {"file": %q},
		"performance": {"output": "label", "scale": 2}}`, profile))
	b.eventually("it says that the losses are of another scale", func() bool {
		b.tickAll(b.now)
		return strings.Contains(s.status().Reason, `losses of output "label" with scale 0`)
	})
	b.put("Monitor", "watch", fmt.Sprintf(`{"endpoint": "e", "reference": {"file": %q},
		"performance": {}}`, profile))
	b.opened()
	for range 3 {
		s.answered("1", 10, 2)
	}
	if p := s.status().Last.Performance; p == nil || p.Learn == 0 {
		t.Errorf("rewards are not held against losses of labels: %+v", p)
	}
}
