package capture

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/drift/reference"
)

// lineOf returns a line as a tap writes it, with these tensors.
func lineOf(i int, tensors string) string {
	return fmt.Sprintf(`{"kind":"sample","id":"%d","time":"2026-11-24T19:%02d:%02d.000000Z",`+
		`"endpoint":"e","model":"m","version":"1","outcome":"ok","status":200,%s}`+"\n", i,
		i/60%60, i%60, tensors)
}

// build makes a profile of 200 samples with the tensors that write gives.
func build(o Options, write func(i int) string) (*reference.Profile, error) {
	b := NewBuilder(o)
	text := new(strings.Builder)
	for i := range 200 {
		text.WriteString(lineOf(i, write(i)))
	}
	if err := b.Lines(strings.NewReader(text.String())); err != nil {
		return nil, err
	}
	return b.Build()
}

// TestTensors takes tensors of all kinds from lines.
func TestTensors(t *testing.T) {
	f := func(want string, write func(i int) string) {
		t.Helper()
		p, err := build(Options{}, write)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for i := range p.Features {
			f := &p.Features[i]
			counts, l := f.Total(), f.Layout()
			missing := l.Regular() + 1
			if l.IsNumeric() {
				missing--
			}
			got = append(got, fmt.Sprintf("%s %d", f.Name, counts[missing]))
			if f.Categories != nil {
				got[i] += fmt.Sprint(" ", f.Categories)
			}
		}
		if all := strings.Join(got, ", "); all != want {
			t.Errorf("there is %s, want %s", all, want)
		}
	}
	f("x.0 0, x.1 0", func(i int) string {
		return fmt.Sprintf(`"input.x":[%d.0,2.5],"input.x.shape":[1,2]`, i)
	})
	f("s 0 [a b], b 0 [true false], y 0", func(i int) string {
		return fmt.Sprintf(`"input.s":["a","b"],"input.s.shape":[2],"input.b":[true,%v],`+
			`"input.b.shape":[2,1],"output.y":[1,2],"output.y.shape":[2]`, i%2 == 0)
	})
	f("s 0 [hi], x.shape 0", func(int) string {
		return `"input.s.base64":["aGk="],"input.s.shape":[1],"input.x.shape":[1],` +
			`"input.x.shape.shape":[1]`
	})
	// A redacted tensor is no feature, one that is not always there is missing sometimes.
	f("x 0, y 150", func(i int) string {
		y := `null,"output.y.shape":null`
		if i%4 == 0 {
			y = `[1],"output.y.shape":[1]`
		}
		return `"input.r":null,"input.r.shape":null,"input.x":[1],"input.x.shape":[1],` +
			`"output.y":` + y
	})
	// One of no fixed size is none either.
	f("x 0", func(i int) string {
		tokens := strings.Repeat(",7", i%3)
		return fmt.Sprintf(`"input.t":[7%s],"input.t.shape":[1,%d],"input.x":[1],`+
			`"input.x.shape":[1]`, tokens, 1+i%3)
	})
}

func TestFaults(t *testing.T) {
	f := func(want error, write func(i int) string) {
		t.Helper()
		if _, err := build(Options{}, write); !errors.Is(err, want) {
			t.Errorf("%s: the error is %v, want %v", write(0), err, want)
		}
	}
	always := func(s string) func(int) string { return func(int) string { return s } }
	f(ErrFile, always(`"input.x":[1,2],"input.x.shape":[1]`))
	f(ErrFile, always(`"input.x":[[1]],"input.x.shape":[1]`))
	f(ErrFile, always(`"input.x":[1,true],"input.x.shape":[2]`))
	f(ErrFile, always(`"input.x":7,"input.x.shape":[1]`))
	f(ErrFile, always(`"input.x":[1]`))
	f(ErrFile, always(`"input.x.base64":["?"],"input.x.shape":[1]`))
	f(ErrFile, always(`"input.x":[1],"input.x.shape":[-1]`))
	f(ErrFile, always(`"outcome":""`))
	f(reference.ErrColumn, always(`"input.x":null,"input.x.shape":null`))
	f(reference.ErrRows, always(`"outcome":"deadline"`))
	f(ErrMixed, func(i int) string {
		return fmt.Sprintf(`"version":"%d","input.x":[1],"input.x.shape":[1]`, i/100)
	})
	if err := NewBuilder(Options{}).Parquet(bytes.NewReader(nil), 0); !errors.Is(err, ErrFile) {
		t.Errorf("an empty Parquet file gives %v", err)
	}
}

// FuzzLines wants no panic, whatever the file has.
func FuzzLines(f *testing.F) {
	f.Add(lineOf(1, `"input.x":[1.5,null],"input.x.shape":[1,2],"output.y":["a"],`+
		`"output.y.shape":[1]`))
	f.Add(lineOf(1, `"input.x.base64":["aGk="],"input.x.shape":[]`))
	f.Add(lineOf(1, `"input.x":[true],"input.x.shape":[1],"input.z":[],"input.z.shape":[0,3]`))
	f.Add("{}\n[]\nnull\n")
	f.Fuzz(func(t *testing.T, text string) {
		b := NewBuilder(Options{})
		if b.Lines(strings.NewReader(text)) == nil && b.Samples() > 0 {
			_, _ = b.Build()
		}
	})
}

// FuzzParquet does so with damaged files.
func FuzzParquet(f *testing.F) {
	f.Add([]byte("PAR1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = IsParquet(bytes.NewReader(data), int64(len(data)))
		_ = NewBuilder(Options{}).Parquet(bytes.NewReader(data), int64(len(data)))
	})
}
