package proof

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

func TestElements(t *testing.T) {
	f := func(d tensor.Datatype, data string, texts string, numbers ...float64) {
		t.Helper()
		n := int64(len(numbers))
		whole := tensor.Tensor{Datatype: d, Shape: []int64{n}, Data: []byte(data)}
		if err := whole.Check(); err != nil {
			t.Fatal(err)
		}
		var words []string
		var got []float64
		for rest := whole; rest.Shape[0] > 0; {
			row := take(&rest, 1)
			for _, v := range elements(&row) {
				f, ok := number(v)
				if !ok {
					f = math.Inf(1)
				}
				got, words = append(got, f), append(words, text(v))
			}
		}
		if !slices.Equal(got, numbers) || strings.Join(words, " ") != texts {
			t.Errorf("%v %q is %v, %v, want %v, %s", d, data, got, words, numbers, texts)
		}
	}
	f(tensor.Bool, "\x00\x01", "false true", 0, 1)
	f(tensor.Uint8, "\x00\xff", "0 255", 0, 255)
	f(tensor.Uint16, "\x00\x01\xff\xff", "256 65535", 256, 65535)
	f(tensor.Uint32, "\xff\xff\xff\xff", "4294967295", 4294967295)
	f(tensor.Uint64, "\xff\xff\xff\xff\xff\xff\xff\xff", "18446744073709551615", 1<<64)
	f(tensor.Int8, "\x7f\xff", "127 -1", 127, -1)
	f(tensor.Int16, "\x00\x01\xff\xff", "256 -1", 256, -1)
	f(tensor.Int32, "\xfe\xff\xff\xff", "-2", -2)
	f(tensor.Int64, "\xfd\xff\xff\xff\xff\xff\xff\xff", "-3", -3)
	f(tensor.FP16, "\x00\x3c\x00\xc0", "1 -2", 1, -2)
	f(tensor.BF16, "\x80\x3f\x00\xc0", "1 -2", 1, -2)
	f(tensor.FP32, "\x00\x00\x80\x3f\x00\x00\x00\xc0", "1 -2", 1, -2)
	f(tensor.FP64, "\x00\x00\x00\x00\x00\x00\xf0\x3f", "1", 1)
	f(tensor.Bytes, "\x01\x00\x00\x00a\x00\x00\x00\x00\x02\x00\x00\x00\xff\"", `"a" "" "\xff\""`,
		math.Inf(1), math.Inf(1), math.Inf(1))
}

func TestSame(t *testing.T) {
	f := func(a, b any, tol tolerance, want bool) {
		t.Helper()
		if got := same(a, b, tol); got != want {
			t.Errorf("%v and %v are the same within %v: %v, want %v", a, b, tol, got, want)
		}
	}
	nan, inf := math.NaN(), math.Inf(1)
	f(1.0, 1.1, tolerance{absolute: 0.11}, true)
	f(1.0, 1.1, tolerance{relative: 0.1}, true)
	f(1.0, 1.1, tolerance{relative: 0.09}, false)
	f(nan, nan, tolerance{}, true)
	f(inf, inf, tolerance{}, true)
	f(inf, -inf, tolerance{absolute: 1}, false)
	f(inf, 1.0, tolerance{relative: 1}, false)
	f(1.0, nan, tolerance{absolute: 1}, false)
	f(int64(1<<53), int64(1<<53+1), tolerance{absolute: 9}, false)
	f("a", "a", tolerance{}, true)
	f("a", "b", tolerance{absolute: 9}, false)
}

func TestText(t *testing.T) {
	want := `"` + strings.Repeat("x", 60) + `" and 40 more bytes`
	if got := text(strings.Repeat("x", 100)); got != want {
		t.Errorf("it is %s, want %s", got, want)
	}
}
