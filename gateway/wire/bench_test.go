package wire

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"testing"

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

// BenchmarkDecodeImageBinary is the figure of make bench. The body is in the
// cache as in the server, where the kernel has just put it there; there is
// nothing in it that a branch predictor could learn.
func BenchmarkDecodeImageBinary(b *testing.B) {
	head := fmt.Sprintf(`{"inputs":[{"name":"image","shape":[1,3,224,224],"datatype":"FP32",`+
		`"parameters":{"binary_data_size":%d}}]}`, 4*imageValues)
	body := append([]byte(head), make([]byte, 4*imageValues)...)
	var r Request
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		r.Reset()
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
