package reference

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
)

// Answers that are not the label, as text or by how much, are what the reference's losses are of.
// Rows without a label have none.
func TestLosses(t *testing.T) {
	f := func(truth Truth, rows uint64, sum float64, values ...string) {
		t.Helper()
		var b strings.Builder
		b.WriteString("x,truth,answer\n")
		for i := range 1000 {
			fmt.Fprintf(&b, "%d,%s\n", i%7, values[i%len(values)])
		}
		truth.Label, truth.Output = "truth", "answer"
		p := must(FromCSV(strings.NewReader(b.String()), Options{Truth: truth,
			Outputs: []string{"answer"}, MaxRows: 500}))(t)
		if l := p.Losses; l == nil || l.Rows != rows || math.Abs(l.Sum-sum) > 1e-9 ||
			l.Output != "answer" || l.Scale != truth.Scale || len(p.Features) != 2 {
			t.Errorf("%v of %q: %+v, and %d features", truth, values, l, len(p.Features))
		}
		var text bytes.Buffer
		if err := p.Write(&text); err != nil {
			t.Fatal(err)
		}
		if back := must(Read(&text))(t); *back.Losses != *p.Losses {
			t.Errorf("it is read as %+v", back.Losses)
		}
	}
	f(Truth{}, 1000, 0, "1,1.0", "no,no", "true,True", "1e3,1000")
	f(Truth{}, 1000, 500, "1,1", "1,2")
	f(Truth{}, 500, 0, "1,1", "NA,2")
	f(Truth{}, 1000, 500, "a,a", "a,")
	f(Truth{Scale: 2}, 1000, 375, "1,1", "1,2", "1,1", "1,9")
	f(Truth{Scale: 2}, 750, 250, "1,1", "1,NaN", "NaN,1", "2,2")

	data, err := os.ReadFile("testdata/rows.parquet")
	if err != nil {
		t.Fatal(err)
	}
	p := must(FromParquet(bytes.NewReader(data), int64(len(data)), Options{TimeColumn: "at",
		Truth: Truth{Label: "known", Output: "country"}}))(t)
	if l := p.Losses; l == nil || *l != (Losses{Output: "country", Rows: 480, Sum: 480}) {
		t.Errorf("of Parquet: %+v", l)
	}
}

func TestLossFaults(t *testing.T) {
	rows := func(n int) string {
		return "x,truth,answer\n" + strings.Repeat("1,a,a\n2,b,b\n", n/2) +
			strings.Repeat("3,,b\n", 300)
	}
	f := func(truth Truth, n int, want error, text string) {
		t.Helper()
		_, err := FromCSV(strings.NewReader(rows(n)), Options{Truth: truth})
		if !errors.Is(err, want) || !strings.Contains(fmt.Sprint(err), text) {
			t.Errorf("%+v: %v, want %s", truth, err, text)
		}
	}
	f(Truth{Label: "truth"}, 300, ErrColumn, "needs the output")
	f(Truth{Scale: 1}, 300, ErrColumn, "needs the label")
	f(Truth{Label: "truth", Output: "truth"}, 300, ErrColumn, "both label and output")
	f(Truth{Label: "true", Output: "answer"}, 300, ErrColumn, `the label "true" and`)
	f(Truth{Label: "truth", Output: "answer"}, 198, ErrRows, "198 have a label")
	f(Truth{Label: "truth", Output: "answer", Scale: -1}, 300, ErrColumn, "the scale -1")

	p := must(FromCSV(strings.NewReader(rows(300)),
		Options{Truth: Truth{Label: "truth", Output: "answer"}}))(t)
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	g := func(old, with string) {
		t.Helper()
		text := strings.Replace(b.String(), old, with, 1)
		_, err := Read(strings.NewReader(text))
		if !errors.Is(err, ErrProfile) || text == b.String() {
			t.Errorf("%s: %v", with, err)
		}
	}
	const kept = `"losses":{"output":"answer","sum":0,"rows":300}`
	g(kept, `"losses":{"output":"answer","sum":301,"rows":300}`)
	g(kept, `"losses":{"output":"answer","sum":-1,"rows":300}`)
	g(kept, `"losses":{"output":"answer","sum":0,"rows":100}`)
	g(kept, `"losses":{"output":"","sum":0,"rows":300}`)
}
