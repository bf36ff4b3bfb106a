package capture

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/millrace-ml/millrace/drift"
	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/drift/sketch"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// image is a captured request with one row of numbers, as Parquet has it.
type image struct {
	Time     time.Time `parquet:"time,timestamp(microsecond)"`
	Endpoint string    `parquet:"endpoint"`
	Model    string    `parquet:"model"`
	Version  string    `parquet:"version"`
	Outcome  string    `parquet:"outcome"`
	X        []float32 `parquet:"input.x,list"`
	Shape    []int64   `parquet:"input.x.shape,list"`
}

// images draws requests, each with an image of so many lines and three channels.
func images(lines func(i int) int) (all []image) {
	r := rand.New(rand.NewPCG(14, 5))
	for i := range 300 {
		m := image{Time: time.Unix(int64(1e9+i), 0).UTC(), Endpoint: "e", Model: "m", Version: "1",
			Outcome: "ok", X: make([]float32, lines(i)*20*3),
			Shape: []int64{1, int64(lines(i)), 20, 3}}
		for k := range m.X {
			m.X[k] = r.Float32()
		}
		all = append(all, m)
	}
	return all
}

// live is the profile of what a monitor sees of these requests.
func live(t *testing.T, s *tensor.Signature, all []image) *reference.Profile {
	t.Helper()
	rows := drift.NewRows(s)
	c, err := reference.NewCollector(rows.Columns(), reference.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		x := tensor.Tensor{Name: "x", Datatype: tensor.FP32, Shape: all[i].Shape}
		for _, v := range all[i].X {
			x.Data = binary.LittleEndian.AppendUint32(x.Data, math.Float32bits(v))
		}
		if err := rows.Each([]tensor.Tensor{x}, nil, func(row []sketch.Value) error {
			return c.Add(all[i].Time, row)
		}); err != nil {
			t.Fatal(err)
		}
	}
	p, err := c.Build()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// asParquet and asLines give a builder the requests in a file.
func asParquet(t *testing.T, b *Builder, all []image) {
	t.Helper()
	var file bytes.Buffer
	if err := parquet.Write(&file, all); err != nil {
		t.Fatal(err)
	}
	if err := b.Parquet(bytes.NewReader(file.Bytes()), int64(file.Len())); err != nil {
		t.Fatal(err)
	}
}

func asLines(t *testing.T, b *Builder, all []image) {
	t.Helper()
	file := new(strings.Builder)
	for _, m := range all {
		var numbers []string
		for _, x := range m.X {
			numbers = append(numbers, strconv.FormatFloat(float64(x), 'g', -1, 32))
		}
		fmt.Fprintf(file, `{"kind":"sample","id":"1","time":%q,"endpoint":"e","model":"m",`+
			`"version":"1","outcome":"ok","input.x":[%s],"input.x.shape":[1,%d,20,3]}`+"\n",
			m.Time.Format(time.RFC3339Nano), strings.Join(numbers, ","), m.Shape[1])
	}
	if err := b.Lines(strings.NewReader(file.String())); err != nil {
		t.Fatal(err)
	}
}

// TestWide wants images from files to be the same rows as those that a monitor sees. Sizes
// that vary are known from the signature alone.
func TestWide(t *testing.T) {
	signature := func(row ...int64) *tensor.Signature {
		return &tensor.Signature{Model: "m", MaxBatchSize: 8, Inputs: []tensor.Spec{{Name: "x",
			Datatype: tensor.FP32, Shape: append([]int64{-1}, row...)}}}
	}
	same := func(what string, lines func(i int) int, s, known *tensor.Signature) {
		t.Helper()
		all := images(lines)
		want := live(t, s, all)
		for name, give := range map[string]func(*testing.T, *Builder, []image){
			"Parquet": asParquet, "JSON Lines": asLines} {
			b := NewBuilder(Options{Signature: known})
			give(t, b, all)
			got, err := b.Build()
			if err != nil {
				t.Fatalf("%s, %s: %v", what, name, err)
			}
			if err := equal(got, want); err != nil {
				t.Errorf("%s, %s: %v", what, name, err)
			}
		}
	}
	fixed := signature(18, 20, 3)
	same("images", func(int) int { return 18 }, fixed, fixed)
	same("images of a model that is not there", func(int) int { return 18 }, fixed, nil)
	varied := signature(-1, 20, 3)
	same("images of all sizes", func(i int) int { return 1 + i%9 }, varied, varied)
	b := NewBuilder(Options{})
	asLines(t, b, images(func(i int) int { return 1 + i%9 }))
	if _, err := b.Build(); err == nil || !strings.Contains(err.Error(), "--models") {
		t.Errorf("images of all sizes of a model that is not there: %v", err)
	}
}

// equal holds profiles against each other. Decimal digits may move an edge a little.
func equal(got, want *reference.Profile) error {
	if len(got.Features) != len(want.Features) {
		return fmt.Errorf("there are %d features, want %d", len(got.Features), len(want.Features))
	}
	for i := range want.Features {
		g, w := &got.Features[i], &want.Features[i]
		if g.Name != w.Name || fmt.Sprint(g.Counts) != fmt.Sprint(w.Counts) {
			return fmt.Errorf("got %s %v, want %s %v", g.Name, g.Counts, w.Name, w.Counts)
		}
		for k, e := range w.Edges {
			if math.Abs(g.Edges[k]-e) > 1e-6 {
				return fmt.Errorf("the edges of %s are %v, want %v", g.Name, g.Edges, w.Edges)
			}
		}
	}
	return nil
}
