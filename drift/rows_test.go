package drift

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/drift/sketch"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

func floats(shape []int64, values ...float32) tensor.Tensor {
	t := tensor.Tensor{Datatype: tensor.FP32, Shape: shape}
	for _, v := range values {
		t.Data = binary.LittleEndian.AppendUint32(t.Data, math.Float32bits(v))
	}
	return t
}

func texts(shape []int64, values ...string) tensor.Tensor {
	t := tensor.Tensor{Datatype: tensor.Bytes, Shape: shape}
	for _, v := range values {
		t.Data = tensor.AppendElement(t.Data, v)
	}
	return t
}

// show writes rows as texts, - for what is missing.
func show(t *testing.T, r *Rows, inputs, outputs []tensor.Tensor) string {
	t.Helper()
	var rows []string
	err := r.Each(inputs, outputs, func(row []sketch.Value) error {
		var values []string
		for _, v := range row {
			if v.IsMissing() {
				values = append(values, "-")
			} else {
				values = append(values, string(v.AppendText(nil)))
			}
		}
		rows = append(rows, strings.Join(values, " "))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(rows, " | ")
}

func TestRows(t *testing.T) {
	r := NewRows(&tensor.Signature{MaxBatchSize: 8,
		Inputs: []tensor.Spec{
			{Name: "x", Datatype: tensor.FP32, Shape: []int64{-1, 2},
				Columns: []tensor.Column{{Name: "age"}, {Name: "income"}}},
			{Name: "country", Datatype: tensor.Bytes, Shape: []int64{-1, 1}},
			{Name: "image", Datatype: tensor.FP32, Shape: []int64{-1, 3, 224, 224}},
			{Name: "words", Datatype: tensor.Bytes, Shape: []int64{-1, -1}},
		},
		Outputs: []tensor.Spec{
			{Name: "label", Datatype: tensor.Int64, Shape: []int64{-1}},
			{Name: "p", Datatype: tensor.FP32, Shape: []int64{-1, 2},
				Labels: []string{"no", "yes"}},
			{Name: "raw", Datatype: tensor.FP32, Shape: []int64{-1, 2}},
		}})
	want := "age income country image.mean image.sd image.step image.nan image.p0 image.p1 " +
		"image.p2 image.p3 image.p4 image.p5 image.p6 image.p7 image.p8 image.p9 image.p10 " +
		"image.p11 image.p12 image.p13 image.p14 image.p15 words.size words.bytes " +
		"label p.no p.yes p.class raw.0 raw.1 raw.class"
	if got := strings.Join(r.Columns(), " "); got != want {
		t.Fatalf("columns are %s, want %s", got, want)
	}
	label := tensor.Tensor{Datatype: tensor.Int64, Shape: []int64{2},
		Data: binary.LittleEndian.AppendUint64(make([]byte, 8), 1)}
	inputs := []tensor.Tensor{
		floats([]int64{2, 2}, 41, 1.5, 17, 0), texts([]int64{2, 1}, "at", ""), {}, {}}
	outputs := []tensor.Tensor{label, floats([]int64{2, 2}, 0.75, 0.25, 0, 1),
		floats([]int64{2, 2}, -1, -2, float32(math.NaN()), float32(math.Inf(-1)))}
	f := func(inputs, outputs []tensor.Tensor, want string) {
		t.Helper()
		got := strings.ReplaceAll(show(t, r, inputs, outputs), strings.Repeat("- ", 22), "")
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	f(inputs, outputs, "41 1.5 at 0 0.75 0.25 no -1 -2 0 | 17 0  1 0 1 yes NaN -Inf -")
	f(inputs, nil, "41 1.5 at - - - - - - - | 17 0  - - - - - - -")
	f(nil, outputs[:1], "- - - 0 - - - - - - | - - - 1 - - - - - -")
	f(nil, nil, "")
	damaged := slices.Clone(inputs)
	damaged[0].Data = damaged[0].Data[:9]
	f(damaged, nil, "- - at - - - - - - - | - -  - - - - - - -")
	odd := slices.Clone(inputs)
	odd[0] = floats([]int64{3}, 1, 2, 3)
	f(odd, nil, "- - at - - - - - - - | - -  - - - - - - -")
	stop := errors.New("stop")
	if err := r.Each(inputs, outputs, func([]sketch.Value) error { return stop }); err != stop {
		t.Errorf("got %v", err)
	}
	if n := testing.AllocsPerRun(10, func() {
		_ = r.Each(inputs, outputs, func([]sketch.Value) error { return nil })
	}); n != 0 {
		t.Errorf("a request allocates %v times", n)
	}
}

func TestRowsWithoutBatches(t *testing.T) {
	spec := func(name string, shape ...int64) []tensor.Spec {
		return []tensor.Spec{{Name: name, Datatype: tensor.FP32, Shape: shape, BatchAxis: -1}}
	}
	r := NewRows(&tensor.Signature{Inputs: spec("x", 1, 3), Outputs: spec("y")})
	got := fmt.Sprint(r.Columns(), show(t, r, []tensor.Tensor{floats([]int64{1, 3}, 1, 2, 3)},
		[]tensor.Tensor{floats([]int64{}, 4)}))
	if want := "[x.0 x.1 x.2 y]1 2 3 4"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestElements reads the least and the greatest of each datatype.
func TestElements(t *testing.T) {
	f := func(d tensor.Datatype, data []byte, want string) {
		t.Helper()
		var got []string
		for len(data) > 0 {
			var v sketch.Value
			v, data = element(d, data)
			got = append(got, string(v.AppendText(nil)))
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%v: got %s, want %s", d, s, want)
		}
	}
	f(tensor.Bool, []byte{0, 1}, "false true")
	f(tensor.Uint8, []byte{0, 255}, "0 255")
	f(tensor.Int8, []byte{128, 127}, "-128 127")
	f(tensor.Uint16, []byte{0, 0, 255, 255}, "0 65535")
	f(tensor.Int16, []byte{0, 128, 255, 127}, "-32768 32767")
	f(tensor.Uint32, []byte{1, 0, 0, 0, 255, 255, 255, 255}, "1 4294967295")
	f(tensor.Int32, []byte{0, 0, 0, 128}, "-2147483648")
	f(tensor.Int64, []byte{0, 0, 0, 0, 0, 0, 0, 128}, "-9223372036854775808")
	f(tensor.Uint64, []byte{255, 255, 255, 255, 255, 255, 255, 127}, "9223372036854775807")
	f(tensor.Uint64, []byte{0, 0, 0, 0, 0, 0, 0, 128}, "9.223372036854776e+18")
	f(tensor.FP16, []byte{0, 0x3c, 0, 0xfc}, "1 -Inf")
	f(tensor.BF16, []byte{0x80, 0x3f}, "1")
	f(tensor.FP32, []byte{0, 0, 0x20, 0x40}, "2.5")
	f(tensor.FP64, []byte{0, 0, 0, 0, 0, 0, 4, 0xc0}, "-2.5")
	f(tensor.Bytes, []byte{1, 0, 0, 0, 'a', 0, 0, 0, 0}, "a ")
	f(tensor.Bytes, []byte{9, 0, 0, 0, 'a'}, "")
	f(tensor.FP32, []byte{1, 2, 3}, "")
}
