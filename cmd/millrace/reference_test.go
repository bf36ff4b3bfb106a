package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/gateway/tap"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// profileOf reads the profile that a command has written.
func profileOf(t *testing.T, path string) *reference.Profile {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	p, err := reference.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// trainingData has a number, a text, a code and a label, and the hour at which it came.
func trainingData(t *testing.T, rows int) (csv, flat string) {
	t.Helper()
	type row struct {
		At   time.Time `parquet:"at,timestamp"`
		Age  *float64  `parquet:"age"`
		City string    `parquet:"city"`
		Zip  uint32    `parquet:"zip"`
		Y    int32     `parquet:"y"`
		Row  int64     `parquet:"__index_level_0__"` // pandas has it after some steps
	}
	r := rand.New(rand.NewPCG(6, 6))
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	text := new(strings.Builder)
	text.WriteString("at,age,city,zip,y\n")
	var all []row
	for i := range rows {
		age := 40 + 10*r.NormFloat64()
		x := row{at.Add(time.Duration(i) * time.Minute), &age,
			[]string{"Bonn", "Köln", "Trier"}[r.IntN(3)], 4_000_000_000 + r.Uint32N(4), 1, int64(i)}
		field := fmt.Sprint(age)
		if i%10 == 0 {
			x.Age, field = nil, ""
		}
		fmt.Fprintf(text, "%s,%s,%s,%d,1\n", x.At.Format("2006-01-02 15:04:05-07:00"), field,
			x.City, x.Zip)
		all = append(all, x)
	}
	csv, flat = filepath.Join(t.TempDir(), "d.csv"), filepath.Join(t.TempDir(), "d.parquet")
	write(t, csv, text.String())
	if err := parquet.WriteFile(flat, all); err != nil {
		t.Fatal(err)
	}
	return csv, flat
}

// TestReferenceBuild makes the same profile of a table in both formats, and shows it.
func TestReferenceBuild(t *testing.T) {
	csv, flat := trainingData(t, 4*24*60)
	dir := t.TempDir()
	var texts [2]string
	for i, path := range [...]string{csv, flat} {
		to := filepath.Join(dir, fmt.Sprint(i))
		got := finish(t, command("reference", "build", path, "--ignore", "y", "--categorical",
			"zip", "--time", "at", "--season", "hour_of_day", "-o", to))
		if got.status != 0 {
			t.Fatal(got.errors)
		}
		profileOf(t, to)
		text, err := os.ReadFile(to)
		if err != nil {
			t.Fatal(err)
		}
		texts[i] = string(text)
		for _, want := range []string{"5760 rows, by hour_of_day", "10 %", "numeric",
			"Bonn", "400000000", "written to " + to} {
			if !strings.Contains(got.out, want) {
				t.Errorf("there is no %q in\n%s", want, got.out)
			}
		}
		shown := finish(t, command("reference", "show", to))
		if shown.status != 0 || !strings.HasPrefix(got.out, shown.out) {
			t.Errorf("it is shown as\n%s%s", shown.out, shown.errors)
		}
	}
	got := finish(t, command("reference", "build", csv, "--ignore", "y,at", "--segment", "zip",
		"-o", filepath.Join(dir, "segments")))
	if got.status != 0 || !strings.Contains(got.out, "and alone by zip: 400000000") ||
		strings.Contains(got.out, "all others") {
		t.Errorf("by segments there is\n%s%s", got.out, got.errors)
	}
	got = finish(t, command("reference", "build", flat, "--ignore", "at", "--label", "y",
		"--output", "zip", "-o", filepath.Join(dir, "labelled")))
	l := profileOf(t, filepath.Join(dir, "labelled")).Losses
	want := reference.Losses{Output: "zip", Rows: 5760, Sum: 5760}
	if got.status != 0 || l == nil || *l != want || !strings.Contains(got.out,
		"how wrong zip is: a mean loss of 1, of 5760 rows") {
		t.Errorf("with a label there is %+v\n%s%s", l, got.out, got.errors)
	}
	if texts[0] != texts[1] {
		t.Errorf("of CSV there is\n%s\nof Parquet\n%s", texts[0], texts[1])
	}
}

func TestReferenceFaults(t *testing.T) {
	csv, _ := trainingData(t, 150)
	big, flat := trainingData(t, 300)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		write(t, path, text)
		return path
	}
	to := filepath.Join(dir, "out.json")
	f := func(want string, args ...string) {
		t.Helper()
		got := finish(t, command(append([]string{"reference", "build", "-o", to}, args...)...))
		if got.status == 0 || !strings.Contains(got.errors, want) {
			t.Errorf("%v: status %d, %s, want %q", args, got.status, got.errors, want)
		}
	}
	f("too few rows: 150, a reference needs at least 200", csv)
	f(`there is no "label" among ["at" "age" "city" "zip" "y"]`, big, "--ignore", "label")
	f("needs to know which column has the time", big, "--season", "hour_of_day")
	f("hour 0 has 60", big, "--season", "hour_of_day", "--time", "at")
	f(`season "month" is unknown`, big, "--season", "month", "--time", "at")
	f("needs the output", big, "--label", "y", "--ignore", "at")
	f("needs the label", big, "--scale", "2", "--ignore", "at")
	f("put a table into one", big, flat)
	f("no such file", filepath.Join(dir, "none.csv"))
	f("the name must end in", file("x.txt", "a\n1\n"))
	f("there are no samples in", dir)
	f("cannot read the file as Parquet", file("x.parquet", "PAR1 nothing"))
	f("not a file of samples: record 1", file("x.jsonl", `{"a": 1}`+"\n"))
	f("not a file of samples: record 1", file("half.jsonl", `{"kind":"sample","time":`))
	f("too few rows: 2, a reference needs at least 200",
		file("input_example.json", `{"columns": ["a", "b"], "data": [[1, "x"], [2, "y"]]}`))
	f("too few rows: 1,", file("serving_input_example.json",
		`{"dataframe_split": {"columns": ["a"], "data": [[1]]}}`))
	f("too few rows: 3,", file("tensors.json", `{"inputs": {"x": [[1, 2], [3, 4], [5, 6]]}}`))
	f("JSON without columns and data", file("other.json", `{"x": 1}`))
	if _, err := os.Stat(to); err == nil {
		t.Error("a reference that cannot be is written")
	}
	got := finish(t, command("reference", "show", csv))
	if got.status == 0 || !strings.Contains(got.errors, "not a profile") {
		t.Errorf("a table is shown: %s%s", got.out, got.errors)
	}
}

// captured writes samples of iris with a tap, of one to three rows, and returns how many
// rows were answered.
func captured(t *testing.T, dir, format string) (rows int) {
	t.Helper()
	files, err := tap.NewFiles(tap.FilesConfig{Path: dir, Format: format},
		slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	pool := tap.NewPool(1, 1<<20)
	r := rand.New(rand.NewPCG(4, 2))
	floats := func(name string, rows, width int) tensor.Tensor {
		x := tensor.Tensor{Name: name, Datatype: tensor.FP32,
			Shape: []int64{int64(rows), int64(width)}}
		for range rows * width {
			x.Data = binary.LittleEndian.AppendUint32(x.Data,
				math.Float32bits(float32(r.NormFloat64())))
		}
		return x
	}
	for i := range 400 {
		n := 1 + i%3
		label := tensor.Tensor{Name: "output_label", Datatype: tensor.Uint32,
			Shape: []int64{int64(n)}}
		for k := range n {
			label.Data = binary.LittleEndian.AppendUint32(label.Data, 1<<31+uint32(k))
		}
		in, out := []tensor.Tensor{floats("X", n, 4)},
			[]tensor.Tensor{label, floats("output_probability", n, 3)}
		s := pool.Take(fmt.Append(nil, i), in, out)
		s.Endpoint, s.Model, s.Version, s.Outcome = "flowers", "iris", "1", "ok"
		s.Time = time.Unix(int64(i), 0)
		switch {
		case i%40 == 1: // another endpoint's
			s.Endpoint, s.Version = "other", "2"
		case i%40 == 2: // no answer
			s.Outcome, s.Outputs = "deadline", nil
		default:
			rows += n
		}
		if _, err := files.Write(context.Background(), tap.Record{Sample: s}); err != nil {
			t.Fatal(err)
		}
		s.Release()
	}
	if _, err := files.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	return rows
}

// TestReferenceOfSamples builds references of what a real tap has written, with names of
// columns as those that the model gives to live rows.
func TestReferenceOfSamples(t *testing.T) {
	for _, format := range []string{tap.Parquet, tap.JSONL} {
		dir := t.TempDir()
		rows := captured(t, dir, format)
		to := filepath.Join(dir, "reference.json")
		f := func(want string, args ...string) {
			t.Helper()
			got := finish(t, command(append([]string{"reference", "build", dir, "-o", to},
				args...)...))
			if got.status != 0 {
				t.Fatalf("%v: %s", args, got.errors)
			}
			p := profileOf(t, to)
			var names []string
			for i := range p.Features {
				name := p.Features[i].Name
				if p.Features[i].Output {
					name += "*"
				}
				if edges := p.Features[i].Edges; name == "output_label*" && edges[0] < 1<<30 {
					t.Errorf("%s: the labels begin at %v", format, edges[0])
				}
				names = append(names, name)
			}
			if all := strings.Join(names, " "); all != want || p.Rows != uint64(rows) {
				t.Errorf("%s %v: %d rows of %s, want %d of %s", format, args, p.Rows, all, rows,
					want)
			}
		}
		f("X.0 X.1 X.2 X.3 output_label* output_probability.0* output_probability.1* "+
			"output_probability.2* output_probability.class*", "--endpoint", "flowers")
		sums := "" // the model does not say how many classes it has
		for _, sum := range []string{"size", "mean", "sd", "step", "nan"} {
			sums += " output_probability." + sum + "*"
		}
		for i := range 16 {
			sums += fmt.Sprintf(" output_probability.p%d*", i)
		}
		f("sepal length (cm) petal length (cm) petal width (cm) output_label*"+sums, "--version",
			"1", "--ignore", "sepal width (cm)", "--models", samples, "--model", "iris")
		got := finish(t, command("reference", "build", dir, "-o", to))
		if !strings.Contains(got.errors, "samples of several models: iris version 1 and iris "+
			"version 2") {
			t.Errorf("%s, both versions: %s", format, got.errors)
		}
		got = finish(t, command("reference", "build", dir, "-o", to, "--version", "3"))
		if !strings.Contains(got.errors, "no answered request") {
			t.Errorf("%s, no version: %s", format, got.errors)
		}
	}
}
