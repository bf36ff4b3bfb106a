package tensor_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

func TestDatatypes(t *testing.T) {
	f := func(d tensor.Datatype, name string, size int) {
		t.Helper()
		if d.String() != name || d.Size() != size {
			t.Errorf("%d is %s of %d bytes, want %s of %d", d, d, d.Size(), name, size)
		}
		if tensor.ParseDatatype(name) != d || tensor.ParseDatatype([]byte(name)) != d {
			t.Errorf("%s is read as %s", name, tensor.ParseDatatype(name))
		}
	}
	f(tensor.Bool, "BOOL", 1)
	f(tensor.Uint8, "UINT8", 1)
	f(tensor.Uint16, "UINT16", 2)
	f(tensor.Uint32, "UINT32", 4)
	f(tensor.Uint64, "UINT64", 8)
	f(tensor.Int8, "INT8", 1)
	f(tensor.Int16, "INT16", 2)
	f(tensor.Int32, "INT32", 4)
	f(tensor.Int64, "INT64", 8)
	f(tensor.FP16, "FP16", 2)
	f(tensor.BF16, "BF16", 2)
	f(tensor.FP32, "FP32", 4)
	f(tensor.FP64, "FP64", 8)
	f(tensor.Bytes, "BYTES", 0)
	f(tensor.Invalid, "INVALID", 0)

	for _, name := range []string{"", "fp32", "FP32 ", "TYPE_FP32", "STRING", "FP8", "INT128"} {
		if d := tensor.ParseDatatype(name); d != tensor.Invalid {
			t.Errorf("%q is read as %s", name, d)
		}
	}
	if d := tensor.Datatype(200); d.String() != "Datatype(200)" || d.Size() != 0 {
		t.Errorf("an unknown datatype is %s of %d bytes", d, d.Size())
	}
}

func TestElements(t *testing.T) {
	f := func(want int64, shape ...int64) {
		t.Helper()
		got, err := tensor.Elements(shape)
		if want < 0 {
			if !errors.Is(err, tensor.ErrShape) {
				t.Errorf("%v has %d elements, error %v", shape, got, err)
			}
			return
		}
		if err != nil || got != want {
			t.Errorf("%v has %d elements, error %v, want %d", shape, got, err, want)
		}
	}
	f(1)
	f(0, 0)
	f(0, 5, 0, 7)
	f(16, 1, 16)
	f(math.MaxInt64, math.MaxInt64)
	f(1<<62, 1<<31, 1<<31)
	f(-1, -1)
	f(-1, 2, -1)
	f(-1, 0, -5)
	f(-1, math.MinInt64)
	f(-1, 1<<32, 1<<31)
	f(-1, 1<<32, 1<<32) // the product is 0 in 64 bits
	f(-1, 3, math.MaxInt64)
	f(-1, 1<<40, 1<<40, 1<<40)
	f(0, 0, 1<<40, 1<<40, 1<<40)
	f(1, slices.Repeat([]int64{1}, tensor.MaxRank)...)
	f(-1, slices.Repeat([]int64{1}, tensor.MaxRank+1)...)
}

func TestByteSize(t *testing.T) {
	f := func(want int64, d tensor.Datatype, shape ...int64) {
		t.Helper()
		got, err := tensor.ByteSize(d, shape)
		if want < 0 {
			if err == nil {
				t.Errorf("%s of %v fills %d bytes", d, shape, got)
			}
			return
		}
		if err != nil || got != want {
			t.Errorf("%s of %v fills %d bytes, error %v, want %d", d, shape, got, err, want)
		}
	}
	f(64, tensor.Int32, 1, 16)
	f(8, tensor.FP64)
	f(2, tensor.BF16, 1)
	f(12, tensor.Bytes, 3)
	f(0, tensor.FP32, 0)
	f(1<<62, tensor.Bool, 1<<62)
	f(-1, tensor.FP64, 1<<60)
	f(-1, tensor.Bytes, 1<<61)
	f(-1, tensor.Uint16, 1<<62)
	f(-1, tensor.Invalid, 1)
	f(-1, tensor.FP32, -1)
}

func TestShapes(t *testing.T) {
	f := func(text string, shape ...int64) {
		t.Helper()
		if got := tensor.FormatShape(shape); got != text {
			t.Errorf("%v is written %s, want %s", shape, got, text)
		}
	}
	f("[]")
	f("[-1,16]", -1, 16)
	f("[9223372036854775807]", math.MaxInt64)

	fits := func(want bool, shape, spec []int64) {
		t.Helper()
		if got := tensor.Fits(shape, spec); got != want {
			t.Errorf("%v fits %v: %v", shape, spec, got)
		}
	}
	fits(true, []int64{1, 16}, []int64{-1, 16})
	fits(true, []int64{0, 16}, []int64{-1, 16})
	fits(true, nil, []int64{})
	fits(false, []int64{1, 17}, []int64{-1, 16})
	fits(false, []int64{16}, []int64{-1, 16})
	fits(false, []int64{1, 16, 1}, []int64{-1, 16})
}

func TestCheck(t *testing.T) {
	f := func(want string, d tensor.Datatype, data string, shape ...int64) {
		t.Helper()
		x := tensor.Tensor{Datatype: d, Shape: shape, Data: []byte(data)}
		err := x.Check()
		switch {
		case want == "" && err != nil:
			t.Errorf("%s %v with %q: %v", d, shape, data, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s %v with %q: %v, want %q", d, shape, data, err, want)
		}
	}
	f("", tensor.Int16, "abcd", 2)
	f("", tensor.Int16, "", 0)
	f("", tensor.FP32, "abcd")
	f("INT16 of shape [2] takes 4 bytes, got 3", tensor.Int16, "abc", 2)
	f("takes 4 bytes, got 5", tensor.FP32, "abcde")
	f("negative dimension -1", tensor.FP32, "", -1)
	f("causes total element count to exceed maximum size of", tensor.Bytes, "", 1<<40, 1<<40)
	f("byte size overflows", tensor.FP64, "", 1<<62)
	f("has no size", tensor.Invalid, "", 1)

	f("", tensor.Bytes, "\x02\x00\x00\x00ab\x03\x00\x00\x00cde", 2)
	f("", tensor.Bytes, "\x00\x00\x00\x00", 1)
	f("", tensor.Bytes, "", 3, 0)
	f("BYTES element 1 of 2 is cut short", tensor.Bytes, "\x01\x00\x00\x00a\x01\x00\x00", 2)
	f("BYTES element 0 of 1 is cut short", tensor.Bytes, "\x02\x00\x00\x00a", 1)
	f("BYTES element 0 of 1 is cut short", tensor.Bytes, "\xff\xff\xff\xffa", 1)
	f("5 bytes left over after 1", tensor.Bytes, "\x00\x00\x00\x00\x01\x00\x00\x00a", 1)
	// A count that nobody could hold ends with the data, not with the count.
	f("BYTES element 1 of 2305843009213693952", tensor.Bytes, "\x00\x00\x00\x00", 1<<61)
}

func TestElement(t *testing.T) {
	data := tensor.AppendElement(tensor.AppendElement(nil, "ab"), []byte("cde"))
	if string(data) != "\x02\x00\x00\x00ab\x03\x00\x00\x00cde" {
		t.Fatalf("two elements are written %q", data)
	}
	first, rest, ok := tensor.NextElement(data)
	second, rest, ok2 := tensor.NextElement(rest)
	if !ok || !ok2 || string(first) != "ab" || string(second) != "cde" || len(rest) != 0 {
		t.Fatalf("read %q, %q, rest %q", first, second, rest)
	}
	if _, _, ok := tensor.NextElement(nil); ok {
		t.Fatal("nothing has an element")
	}
}

func TestSignatureNames(t *testing.T) {
	s := tensor.Signature{
		Inputs:  []tensor.Spec{{Name: "a"}, {Name: "b"}},
		Outputs: []tensor.Spec{{Name: "b"}},
	}
	f := func(name string, input, output int) {
		t.Helper()
		if i, o := s.Input([]byte(name)), s.Output([]byte(name)); i != input || o != output {
			t.Errorf("%q is input %d and output %d, want %d and %d", name, i, o, input, output)
		}
	}
	f("a", 0, -1)
	f("b", 1, 0)
	f("", -1, -1)
	f("A", -1, -1)
}

// FuzzCheck splits BYTES tensors. What Check passes must be exactly the
// elements that it counts.
func FuzzCheck(f *testing.F) {
	f.Add([]byte("\x02\x00\x00\x00ab\x03\x00\x00\x00cde"), int64(2))
	f.Add([]byte("\x00\x00\x00\x00"), int64(1))
	f.Add([]byte("\xff\xff\xff\xffab"), int64(1))
	f.Add([]byte(""), int64(0))
	f.Add([]byte("\x00\x00\x00"), int64(-1))
	f.Fuzz(func(t *testing.T, data []byte, n int64) {
		x := tensor.Tensor{Datatype: tensor.Bytes, Shape: []int64{n}, Data: data}
		if x.Check() != nil {
			return
		}
		var again []byte
		rest := data
		for range n {
			e, r, ok := tensor.NextElement(rest)
			if !ok {
				t.Fatalf("%q passed with %d elements", data, n)
			}
			again, rest = tensor.AppendElement(again, e), r
		}
		if string(again) != string(data) {
			t.Fatalf("%q of %d elements became %q", data, n, again)
		}
	})
}

// FuzzShape multiplies with big numbers' help: the division undoes each step.
func FuzzShape(f *testing.F) {
	f.Add("FP32", int64(1), int64(16))
	f.Add("BYTES", int64(1<<32), int64(1<<31))
	f.Add("BOOL", int64(0), int64(1<<62))
	f.Add("FP64", int64(-1), int64(math.MinInt64))
	f.Fuzz(func(t *testing.T, name string, a, b int64) {
		d := tensor.ParseDatatype(name)
		if d != tensor.Invalid && d.String() != name {
			t.Fatalf("%q is read as %s", name, d)
		}
		n, err := tensor.Elements([]int64{a, b})
		if err != nil {
			if a >= 0 && b >= 0 && a < 1<<31 && b < 1<<31 {
				t.Fatalf("%d x %d: %v", a, b, err)
			}
			return
		}
		if a < 0 || b < 0 || n < 0 || b != 0 && (n/b != a || n%b != 0) {
			t.Fatalf("%d x %d has %d elements", a, b, n)
		}
		size, err := tensor.ByteSize(d, []int64{a, b})
		if err == nil && d.Size() > 0 && size/int64(d.Size()) != n {
			t.Fatalf("%d elements of %s fill %d bytes", n, d, size)
		}
	})
}
