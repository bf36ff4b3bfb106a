package wire

import (
	"encoding/binary"
	"errors"
	"math"
	"math/big"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// checkFloat holds both ways of reading a number against strconv. text is a
// valid JSON number.
func checkFloat(t *testing.T, text string) {
	t.Helper()
	for _, single := range []bool{false, true} {
		size := 64
		if single {
			size = 32
		}
		want, wantErr := strconv.ParseFloat(text, size)
		s := scanner{buf: []byte(text)}
		got, err := s.float(single)
		if wantErr != nil {
			if !errors.Is(err, errRange) || s.pos != 0 {
				t.Fatalf("%s as float%d: %v at %d, want out of range", text, size, err, s.pos)
			}
			continue
		}
		if single {
			got, want = float64(float32(got)), float64(float32(want))
		}
		if err != nil || math.Float64bits(got) != math.Float64bits(want) || s.pos != len(text) {
			t.Fatalf("%s as float%d: %v, %v at %d, want %v", text, size, got, err, s.pos, want)
		}
	}
	checkLoop(t, text)
}

// checkLoop holds the loops for many numbers against strconv: they must be
// right or leave the number to others.
func checkLoop(t *testing.T, text string) {
	t.Helper()
	want, wantErr := strconv.ParseFloat(text, 32)
	room := strings.Repeat(" ", fastRoom)
	for _, around := range [...][2]string{{",", ","}, {", ", "]"}, {",", " ,"}, {", ", ", 2"}} {
		before, behind := around[0], around[1]
		s := scanner{buf: []byte(before + text + behind + room)}
		for i, loop := range [...]func([]byte) int{s.short32, s.long32, s.floats32} {
			s.pos = 0
			var dst [4]byte
			n := loop(dst[:])
			if n == 0 && s.pos == 0 {
				continue
			}
			got := binary.LittleEndian.Uint32(dst[:])
			if wantErr != nil || n != 1 || s.pos != len(before)+len(text) ||
				got != math.Float32bits(float32(want)) {
				t.Fatalf("loop %d reads %d of %q, %v at %d, want %v", i, n, s.buf,
					math.Float32frombits(got), s.pos, want)
			}
		}
	}
}

func TestFloatForms(t *testing.T) {
	for _, text := range strings.Fields(`
		0 -0 0.0 -0.0 0e0 0e5 -0e-5 0.000e99 1 -1 10 123 1.5 -1.5 0.1 0.123456 -0.123456
		1e0 1e1 1E1 1e+1 1e-1 1.5e3 12345678 123456789 0.12345678 0.123456789 0.1234567890123456
		1234567.8 12345678.9 99999999 999999999999999 9007199254740992 9007199254740993
		-9007199254740993 9007199254740993.0 18014398509481985 1e22 1e23 -1e23 9e22 123e20
		1e-22 1e-23 3.4028234663852886e38 3.4028235e38 3.4028235677973366e38 3.4028236e38
		340282346638528859811704183484516925440 340282356779733661637539395458142568447
		340282356779733661637539395458142568448 1.17549435e-38 1.1754943e-38 1.17549421e-38
		1.401298464324817e-45 7.006492321624085e-46 7.006492321624086e-46 7e-46 1e-45 1e-46
		1.7976931348623157e308 1.7976931348623159e308 1e308 1e309 1e999 -1e999 1e-999
		5e-324 2.4703282292062328e-324 2.4703282292062327e-324 4.9e-324 2.2250738585072014e-308
		2.2250738585072011e-308 1e9999999999 1e-9999999999 0e9999999999 1e0000000001
		1e-0000000000000000001 16777217 16777219 16777217.0 16777217.000000000001
		0.000000000000000000000001 0.00001234567890123456 0.000000000012345678901234567
		1.00000000000000000000000000000000 1.00000005960464477539 1.000000059604644775390625
		1.00000005960464477539062500000001 1.00000005960464477539062499999999
		9223372036854775807 9223372036854775808 18446744073709551615 18446744073709551616
		0.9223372036854775808 9999999999999999999 99999999999999999999 0.9999999999999999999
		0.99999999999999999999 0.1234567890123456789012345678901234567890`) {
		checkFloat(t, text)
	}
	checkFloat(t, "0."+strings.Repeat("0", 400)+"1")
	checkFloat(t, "1"+strings.Repeat("0", 300))
	checkFloat(t, "1"+strings.Repeat("0", 400))
	checkFloat(t, "1"+strings.Repeat("0", 400)+"e-400")
	checkFloat(t, "0."+strings.Repeat("0", 400)+"1e400")
}

func TestNotNumbers(t *testing.T) {
	for _, text := range []string{"", "-", "+1", ".5", "1.", "1.e5", "1e", "1e+", "01", "-01", "00",
		"inf", "nan", "Inf", "-NaN", "Na", "Infinit", "--1", "e5", "null", "true", "\"1\"",
		"[1]", "00000000", "00.5", "-00000001.5"} {
		s := scanner{buf: []byte(text)}
		if _, err := s.float(true); !errors.Is(err, ErrBadRequest) || s.pos != 0 {
			t.Errorf("%q is read as a number: %v at %d", text, err, s.pos)
		}
		if _, _, err := s.integer(); !errors.Is(err, ErrBadRequest) || s.pos != 0 {
			t.Errorf("%q is read as an integer: %v at %d", text, err, s.pos)
		}
		for _, behind := range []string{"", "]", ","} {
			s := scanner{buf: []byte("," + text + behind + strings.Repeat(" ", fastRoom))}
			if n := s.floats32(make([]byte, 8)); n > 0 && s.pos > len(text) {
				t.Errorf("%q passed the loop", text)
			}
		}
	}
	f := func(text string, want float64) {
		t.Helper()
		s := scanner{buf: []byte(text)}
		got, err := s.float(true)
		if err != nil || got != want && want == want || got == got && want != want {
			t.Errorf("%s is %v, %v", text, got, err)
		}
	}
	f("NaN", math.NaN())
	f("Infinity", math.Inf(1))
	f("-Infinity", math.Inf(-1))
}

// randomNumber returns a number of one of the forms that matter, as JSON.
func randomNumber(rng *rand.Rand) string {
	single := func() float64 {
		for {
			if f := math.Float32frombits(rng.Uint32()); f-f == 0 {
				return float64(f)
			}
		}
	}
	digits := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = '0' + byte(rng.IntN(10))
		}
		return string(b)
	}
	switch rng.IntN(8) {
	case 0: // any single-precision value, as short as it gets or as a double
		return strconv.FormatFloat(single(), 'g', -1, 32+32*rng.IntN(2))
	case 1: // the middle between two neighbours, or beside it
		f := float32(math.Abs(single()))
		m := (float64(f) + float64(math.Nextafter32(f, 0))) / 2
		text := strconv.FormatFloat(m, 'e', 12+rng.IntN(110), 64)
		if rng.IntN(2) == 0 {
			text = strconv.FormatFloat(math.Nextafter(m, float64(rng.IntN(3))*m), 'g', -1, 64)
		}
		return text
	case 2: // near one, where values of tensors are
		return strconv.FormatFloat(rng.NormFloat64(), 'f', rng.IntN(20), 64)
	case 3: // the middle between two neighbours near one, with all its digits
		f := float32(rng.NormFloat64())
		m := (float64(f) + float64(math.Nextafter32(f, 9))) / 2
		return strconv.FormatFloat(m, 'f', -1, 64) + digits(rng.IntN(3))
	case 4: // any double
		for {
			if f := math.Float64frombits(rng.Uint64()); f-f == 0 {
				return strconv.FormatFloat(f, 'g', -1, 64)
			}
		}
	case 5: // integers
		return strconv.FormatUint(rng.Uint64()>>rng.IntN(64), 10)
	case 6: // many digits and an exponent
		text := strconv.Itoa(rng.IntN(10)) + "." + digits(1+rng.IntN(25))
		return text + "e" + strconv.Itoa(rng.IntN(90)-45)
	}
	text := "-" + strconv.Itoa(rng.IntN(100_000)) + "." + digits(1+rng.IntN(20))
	return text
}

func TestFloatsAgainstStrconv(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 40_000 {
		checkFloat(t, randomNumber(rng))
	}
}

// wantInteger computes with fractions what integer must say.
func wantInteger(text string) (uint64, bool, error) {
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		return 0, false, ErrBadRequest
	}
	switch abs := new(big.Int).Abs(r.Num()); {
	case !r.IsInt():
		return 0, false, errFraction
	case !abs.IsUint64():
		return 0, false, errRange
	default:
		return abs.Uint64(), r.Sign() < 0, nil
	}
}

func checkInteger(t *testing.T, text string) {
	t.Helper()
	want, wantNeg, wantErr := wantInteger(text)
	s := scanner{buf: []byte(text)}
	got, neg, err := s.integer()
	if got != want || neg != wantNeg || !errors.Is(err, wantErr) ||
		err == nil && s.pos != len(text) {
		t.Fatalf("%s is %d, negative %v, %v at %d; want %d, %v, %v", text, got, neg, err, s.pos,
			want, wantNeg, wantErr)
	}
	if err != nil && s.pos != 0 {
		t.Fatalf("%s was passed over with %v", text, err)
	}
}

func TestIntegers(t *testing.T) {
	for _, text := range strings.Fields(`
		0 -0 1 -1 127 128 255 256 -128 -129 9007199254740993 9007199254740993.0 -9007199254740993
		9007199254740993e0 90071992547409930e-1 900719925474099.3e1 9223372036854775807
		9223372036854775808 -9223372036854775808 -9223372036854775809 18446744073709551615
		18446744073709551615.000 18446744073709551616 18446744073709551616.0 1844674407370955161.5e1
		99999999999999999999 -99999999999999999999 184467440737095516150e-1 1e19 1.8e19 1.9e19
		1e20 1e99 1e-1 0.5 1.5 -1.5 10e-1 100e-2 100e-3 0e99 0e-99 0.0 -0.0 0.000e-5 1.0 1.000000000
		1.00000000000000000000000000000 1.00000000000000000000000000001 1e-400 0.1e1 0.01e1
		100000000000000000000000000000e-29 100000000000000000000000000000e-30 12e0 12E+1 12e01`) {
		checkInteger(t, text)
	}
	rng := rand.New(rand.NewPCG(7, 8))
	for range 10_000 {
		text := strconv.FormatUint(rng.Uint64()>>rng.IntN(64), 10)
		if text != "0" && rng.IntN(2) == 0 {
			text += strings.Repeat("0", rng.IntN(5))
		}
		if at := rng.IntN(len(text)); at > 0 && rng.IntN(2) == 0 {
			text = text[:at] + "." + text[at:]
		}
		if rng.IntN(2) == 0 {
			text += "e" + strconv.Itoa(rng.IntN(50)-25)
		}
		checkInteger(t, text)
	}
	for text, want := range map[string]error{
		"NaN": errFraction, "Infinity": errFraction, "-Infinity": errFraction,
		"1e9999999999": errRange, "1e-9999999999": errFraction,
	} {
		s := scanner{buf: []byte(text)}
		if _, _, err := s.integer(); err != want || s.pos != 0 {
			t.Errorf("%s: %v at %d, want %v", text, err, s.pos, want)
		}
	}
	s := scanner{buf: []byte("0e9999999999")}
	if v, neg, err := s.integer(); v != 0 || neg || err != nil {
		t.Errorf("0e9999999999 is %d, %v, %v", v, neg, err)
	}
}

// The loops must take what they are made for, or they would be for nothing.
func TestLoopsTakeTheUsual(t *testing.T) {
	f := func(text string, short, long int) {
		t.Helper()
		buf := []byte("," + text + strings.Repeat(" ", fastRoom))
		s := scanner{buf: buf}
		if n := s.short32(make([]byte, 400)); n != short {
			t.Errorf("short32 takes %d of %s, want %d", n, text, short)
		}
		s = scanner{buf: buf}
		if n := s.long32(make([]byte, 400)); n != long {
			t.Errorf("long32 takes %d of %s, want %d", n, text, long)
		}
	}
	f("-0.123456,0.5, 1.0,-9.1234567]", 4, 4)
	f("0.12345678", 0, 1)
	f("-12.5, 255,0,1234567", 0, 4)
	f("0.12345678806304932,-1.1234567890123456", 0, 2)
	f("12345678", 0, 0)
	f("1e5", 0, 0)
	f("1.5e5", 0, 0)
	f("0.1234567890123456789", 0, 0)
	f("NaN", 0, 0)
}

// Many numbers of all forms, one after the other: none may spoil the next.
func TestManyFloats(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	for range 20 {
		var want []float32
		b := []byte(`{"inputs":[{"name":"x","datatype":"FP32","shape":[2000],"data":[`)
		for len(want) < 2000 {
			text := randomNumber(rng)
			if rng.IntN(2) == 0 {
				text = strconv.FormatFloat(rng.NormFloat64(), 'f', 1+rng.IntN(8), 64)
			}
			v, err := strconv.ParseFloat(text, 32)
			if err != nil {
				continue
			}
			if len(want) > 0 {
				b = append(b, [...]string{",", ", ", " , ", ",\n"}[rng.IntN(8)/2%4]...)
			}
			b, want = append(b, text...), append(want, float32(v))
		}
		r := newRequest(t)
		if err := Decode(r, one(tensor.FP32, -1), append(b, "]}]}"...), -1); err != nil {
			t.Fatal(err)
		}
		wantTensor(t, &r.Inputs[0], "FP32[2000]", want)
	}
}
