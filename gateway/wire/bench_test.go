package wire

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// imageValues is the number of elements of one picture as the usual
// classifiers take it, 3 x 224 x 224.
const imageValues = 3 * 224 * 224

var imageSignature = tensor.Signature{
	Inputs: []tensor.Spec{
		{Name: "image", Datatype: tensor.FP32, Shape: []int64{-1, 3, 224, 224}}},
	Outputs: []tensor.Spec{
		{Name: "scores", Datatype: tensor.FP32, Shape: []int64{-1, 1000}}},
	MaxBatchSize: 8,
}

// bodies is how many different bodies a benchmark goes through in turn, so that
// no branch predictor can learn one by heart.
const bodies = 5

// imageBody returns a request with the values that write gives.
func imageBody(seed uint64, separator string, value func(*rand.Rand) string) []byte {
	rng := rand.New(rand.NewPCG(seed, 3))
	b := []byte(`{"inputs":[{"name":"image","shape":[1,3,224,224],"datatype":"FP32","data":[`)
	for i := range imageValues {
		if i > 0 {
			b = append(b, separator...)
		}
		b = append(b, value(rng)...)
	}
	return append(b, `]}]}`...)
}

// benchmarkImage decodes images in JSON, the values of which value writes.
func benchmarkImage(b *testing.B, separator string, value func(*rand.Rand) string) {
	b.Helper()
	var all [bodies][]byte
	for i := range all {
		all[i] = imageBody(uint64(i), separator, value)
	}
	var r Request
	b.SetBytes(int64(len(all[0])))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r.Reset()
		if err := Decode(&r, &imageSignature, all[i%bodies], -1); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/imageValues, "ns/value")
}

// BenchmarkDecodeImageJSON is the figure of make bench: six decimals a value.
func BenchmarkDecodeImageJSON(b *testing.B) {
	benchmarkImage(b, ",", func(rng *rand.Rand) string {
		return fmt.Sprintf("%.6f", rng.NormFloat64())
	})
}

// BenchmarkDecodeImageNumpy takes what Python's json module makes of
// array.tolist(): single-precision values with all digits of a double.
func BenchmarkDecodeImageNumpy(b *testing.B) {
	benchmarkImage(b, ", ", func(rng *rand.Rand) string {
		return strconv.FormatFloat(float64(float32(rng.NormFloat64())), 'g', -1, 64)
	})
}

// BenchmarkDecodeImageShortest takes single-precision values in their shortest form.
func BenchmarkDecodeImageShortest(b *testing.B) {
	benchmarkImage(b, ",", func(rng *rand.Rand) string {
		return strconv.FormatFloat(float64(float32(rng.NormFloat64())), 'g', -1, 32)
	})
}

// BenchmarkDecodeImagePixels takes integers of 0 to 255.
func BenchmarkDecodeImagePixels(b *testing.B) {
	benchmarkImage(b, ",", func(rng *rand.Rand) string { return strconv.Itoa(rng.IntN(256)) })
}

// BenchmarkDecodeImageBinary is the figure of make bench. The body lies in the
// request's memory as in the server, where the kernel has put it.
func BenchmarkDecodeImageBinary(b *testing.B) {
	head := fmt.Sprintf(`{"inputs":[{"name":"image","shape":[1,3,224,224],"datatype":"FP32",`+
		`"parameters":{"binary_data_size":%d}}]}`, 4*imageValues)
	var r Request
	body, err := r.Mem.AllocEnd(len(head) + 4*imageValues)
	if err != nil {
		b.Fatal(err)
	}
	copy(body, head)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		r.Forget()
		if err := Decode(&r, &imageSignature, body, len(head)); err != nil {
			b.Fatal(err)
		}
	}
}

// randomScores is an answer of a thousand scores.
func randomScores(seed uint64) Answer {
	rng := rand.New(rand.NewPCG(seed, 4))
	data := make([]byte, 0, 4000)
	for range 1000 {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(rng.Float32()))
	}
	return Answer{Model: "image", Version: "1", Sig: &imageSignature, Outputs: []tensor.Tensor{
		{Name: "scores", Datatype: tensor.FP32, Shape: []int64{1, 1000}, Data: data}}}
}

// benchmarkAnswer encodes answers of a thousand scores.
func benchmarkAnswer(b *testing.B, encode func(dst []byte, a *Answer) ([]byte, error)) {
	b.Helper()
	var all [bodies]Answer
	for i := range all {
		all[i] = randomScores(uint64(i))
	}
	var out []byte
	var err error
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if out, err = encode(out[:0], &all[i%bodies]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodeJSON(b *testing.B) {
	r := Request{ID: []byte("1")}
	benchmarkAnswer(b, func(dst []byte, a *Answer) ([]byte, error) {
		out, _, err := Append(dst, &r, a, false)
		return out, err
	})
}

func BenchmarkEncodeBinary(b *testing.B) {
	r := Request{ID: []byte("1"), BinaryOutput: true}
	benchmarkAnswer(b, func(dst []byte, a *Answer) ([]byte, error) {
		out, _, err := Append(dst, &r, a, false)
		return out, err
	})
}

func BenchmarkEncodeProto(b *testing.B) {
	r := Request{ID: []byte("1")}
	benchmarkAnswer(b, func(dst []byte, a *Answer) ([]byte, error) {
		return AppendProto(dst, &r, a)
	})
}

// tableBodies are one table of FP32 values, rows x width, as each dialect writes it.
type tableBodies struct {
	sig    tensor.Signature
	answer Answer
	oip    []byte
	values [][]string // as text
	names  []string
}

// newTableBodies makes a table of random values with six decimals, and an
// answer of ten scores a row.
func newTableBodies(rows, width int) *tableBodies {
	rng := rand.New(rand.NewPCG(uint64(rows), uint64(width)))
	b := &tableBodies{values: make([][]string, rows)}
	columns := make([]tensor.Column, width)
	for i := range columns {
		columns[i] = tensor.Column{Name: fmt.Sprintf("feature_%d", i), Type: "double"}
		b.names = append(b.names, columns[i].Name)
	}
	for i := range b.values {
		for range width {
			b.values[i] = append(b.values[i], fmt.Sprintf("%.6f", rng.NormFloat64()))
		}
	}
	b.sig = tensor.Signature{
		Model: "m",
		Inputs: []tensor.Spec{{Name: "x", Datatype: tensor.FP32,
			Shape: []int64{-1, int64(width)}, Columns: columns}},
		Outputs:      []tensor.Spec{{Name: "y", Datatype: tensor.FP32, Shape: []int64{-1, 10}}},
		MaxBatchSize: 64,
	}
	var data []byte
	for range 10 * rows {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(rng.Float32()))
	}
	b.answer = Answer{Model: "m", Version: "1", Sig: &b.sig, Outputs: []tensor.Tensor{
		{Name: "y", Datatype: tensor.FP32, Shape: []int64{int64(rows), 10}, Data: data}}}
	b.oip = fmt.Appendf(nil,
		`{"inputs":[{"name":"x","shape":[%d,%d],"datatype":"FP32","data":%s}]}`, rows, width,
		b.lists())
	return b
}

// lists are the rows as JSON lists.
func (b *tableBodies) lists() string {
	rows := make([]string, len(b.values))
	for i, row := range b.values {
		rows[i] = "[" + strings.Join(row, ",") + "]"
	}
	return "[" + strings.Join(rows, ",") + "]"
}

// records are the rows as JSON objects.
func (b *tableBodies) records() string {
	rows := make([]string, len(b.values))
	for i, row := range b.values {
		values := make([]string, len(row))
		for j, v := range row {
			values[j] = `"` + b.names[j] + `":` + v
		}
		rows[i] = "{" + strings.Join(values, ",") + "}"
	}
	return "[" + strings.Join(rows, ",") + "]"
}

// columns are the columns as lists of a JSON object.
func (b *tableBodies) columns() string {
	columns := make([]string, len(b.names))
	for j, name := range b.names {
		values := make([]string, len(b.values))
		for i, row := range b.values {
			values[i] = row[j]
		}
		columns[j] = `"` + name + `":[` + strings.Join(values, ",") + "]"
	}
	return "{" + strings.Join(columns, ",") + "}"
}

// split is a data frame as pandas writes it.
func (b *tableBodies) split() string {
	return `{"columns":["` + strings.Join(b.names, `","`) + `"],"data":` + b.lists() + "}"
}

// csv is the table as text.
func (b *tableBodies) csv() string {
	text := strings.Join(b.names, ",") + "\n"
	for _, row := range b.values {
		text += strings.Join(row, ",") + "\n"
	}
	return text
}

// BenchmarkDialects reads a table and writes the answer in each dialect.
// x-OIP is the time by that of the same in the Open Inference Protocol's JSON.
func BenchmarkDialects(b *testing.B) {
	for _, size := range [][2]int{{1, 16}, {32, 64}} {
		t := newTableBodies(size[0], size[1])
		f := func(name, body string, d testDialect) {
			b.Run(fmt.Sprintf("%dx%d/%s", size[0], size[1], name), func(b *testing.B) {
				benchmarkDialect(b, t, []byte(body), d)
			})
		}
		f("v1/instances", `{"instances":`+t.lists()+`}`, v1)
		f("v1/inputs", `{"inputs":`+t.lists()+`}`, v1)
		f("v1/records", `{"instances":`+t.records()+`}`, v1)
		f("mlflow/split", `{"dataframe_split":`+t.split()+`}`, mlflow)
		f("mlflow/records", `{"dataframe_records":`+t.records()+`}`, mlflow)
		f("mlflow/instances", `{"instances":`+t.lists()+`}`, mlflow)
		f("mlflow/columns", `{"inputs":`+t.columns()+`}`, mlflow)
		f("mlflow/csv", t.csv(), mlflowCSV)
		f("plain/lists", t.lists(), plainJSON)
		f("plain/records", t.records(), plainJSON)
	}
}

func benchmarkDialect(b *testing.B, t *tableBodies, body []byte, d testDialect) {
	b.Helper()
	var r Request
	var out []byte
	var err error
	run := func(body []byte, d testDialect) {
		r.Reset()
		if err = d.decode(&r, &t.sig, body); err != nil {
			b.Fatal(err)
		}
		if out, err = d.encode(out[:0], &r, &t.answer, false); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	const turns = 8 // the two take turns, so that a busy machine slows both
	var mine, other time.Duration
	n := 0
	for ; b.Loop(); n += turns {
		start := time.Now()
		for range turns {
			run(body, d)
		}
		middle := time.Now()
		for range turns {
			run(t.oip, oip)
		}
		mine += middle.Sub(start)
		other += time.Since(middle)
	}
	b.ReportMetric(float64(mine.Nanoseconds())/float64(n), "ns/op")
	b.ReportMetric(float64(mine)/float64(other), "x-OIP")
}
