package values

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// array writes a .npy file of version 1 as NumPy does.
func array(descr, order, shape string, data []byte) []byte {
	head := fmt.Sprintf("{'descr': '%s', 'fortran_order': %s, 'shape': %s, }", descr, order, shape)
	head += strings.Repeat(" ", 63-(10+len(head))%64) + "\n"
	out := []byte("\x93NUMPY\x01\x00")
	out = binary.LittleEndian.AppendUint16(out, uint16(len(head)))
	return append(append(out, head...), data...)
}

// little writes values in little-endian order, big in big-endian order.
func little(v any) []byte { b, _ := binary.Append(nil, binary.LittleEndian, v); return b }
func big(v any) []byte    { b, _ := binary.Append(nil, binary.BigEndian, v); return b }

func TestFromNPY(t *testing.T) {
	f := func(s tensor.Spec, file []byte, want string) {
		t.Helper()
		got, err := FromNPY(&s, bytes.NewReader(file))
		text := ""
		if err == nil {
			text = show(got)
			if err := got.Check(); err != nil {
				t.Errorf("%s: %v", text, err)
			}
		}
		check(t, text, err, want)
	}
	matrix := spec(tensor.FP32, -1, 3)
	six := []float32{1, 2, 3, 4, 5, 6}
	f(matrix, array("<f4", "False", "(2, 3)", little(six)), "x FP32 [2,3] 1 2 3 4 5 6")
	f(matrix, array("<f4", "True", "(2, 3)", little(six)), "x FP32 [2,3] 1 3 5 2 4 6")
	f(matrix, array(">f4", "False", "(2, 3)", big(six)), "x FP32 [2,3] 1 2 3 4 5 6")
	f(matrix, array(">f8", "True", "(1, 3)", big([]float64{1, 2, 3})), "x FP32 [1,3] 1 2 3")
	f(matrix, array("<f4", "False", "(3,)", little(six[:3])), "x FP32 [1,3] 1 2 3")
	f(matrix, array("<i8", "False", "(1, 3)", little([]int64{1, 2, 3})), "x FP32 [1,3] 1 2 3")
	f(spec(tensor.Int64, -1), array("<f8", "False", "(2,)", little([]float64{1e6, 3})),
		"x INT64 [2] 1000000 3")
	f(spec(tensor.Int64, -1), array("<f8", "False", "(1,)", little([]float64{0.5})),
		"!not a whole number")
	f(spec(tensor.Uint8, -1), array("|u1", "False", "(2,)", []byte{0, 255}), "x UINT8 [2] 0 255")
	f(spec(tensor.Bool, -1), array("|b1", "False", "(2,)", []byte{0, 1}), "x BOOL [2] false true")
	f(spec(tensor.FP16, -1), array("<f2", "False", "(1,)", []byte{0, 0x3c}), "x FP16 [1] 1")
	f(spec(tensor.Int32), array("<i4", "False", "()", little(int32(-7))), "x INT32 [] -7")
	f(spec(tensor.Bytes, -1), array("|S3", "False", "(2,)", []byte("ab\x00xyz")),
		"x BYTES [2] ab xyz")
	f(spec(tensor.Bytes, -1), array("<U2", "False", "(2,)", little([]uint32{'ü', 0, 'a', 'b'})),
		"x BYTES [2] ü ab")
	f(spec(tensor.Bytes, -1), array(">U2", "True", "(2,)", big([]uint32{'ü', 0, 'a', 'b'})),
		"x BYTES [2] ü ab")

	f(matrix, array("<f4", "False", "(2, 3)", little(six[:5])), "!the array is cut short: 20 bytes")
	f(matrix, array("<f4", "False", "(2, 2)", little(six[:4])), "!4 values do not fill it")
	f(matrix, array("|O", "False", "(1, 3)", nil), "!arrays of dtype |O cannot be sent")
	f(matrix, array("<c8", "False", "(1, 3)", nil), "!cannot be sent")
	f(spec(tensor.Bytes, -1), array("<U0", "False", "(2,)", nil), "!cannot be sent")
	f(matrix, array("<f4", "False", "(-1, 3)", nil), "!the array's shape")
	f(matrix, array("<f4", "False", "(4294967296, 4294967296)", nil), "!the array's shape")
	f(matrix, array("<f4", "False", "(4294967296, 3)", nil), "!larger than")
	f(matrix, []byte("\x93NUMPY"), "!not a .npy file")
	f(matrix, []byte("PK\x03\x04"), "!not a .npy file")
	f(matrix, nil, "!not a .npy file")
}

// archive writes a .npz file of names and .npy files.
func archive(t *testing.T, entries ...any) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for i := 0; i < len(entries); i += 2 {
		file, err := w.Create(entries[i].(string))
		if err == nil {
			_, err = file.Write(entries[i+1].([]byte))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestFromNPZ(t *testing.T) {
	two := []tensor.Spec{
		{Name: "a", Datatype: tensor.Int32, Shape: []int64{-1}},
		{Name: "b", Datatype: tensor.FP32, Shape: []int64{-1}},
	}
	f := func(specs []tensor.Spec, file []byte, want string) {
		t.Helper()
		list, err := FromNPZ(specs, bytes.NewReader(file), int64(len(file)))
		var words []string
		for _, in := range list {
			words = append(words, show(in))
		}
		check(t, strings.Join(words, "; "), err, want)
	}
	a := array("<i4", "False", "(2,)", little([]int32{1, 2}))
	b := array("<f4", "False", "(1,)", little([]float32{0.5}))
	f(two, archive(t, "b.npy", b, "a.npy", a), "b FP32 [1] 0.5; a INT32 [2] 1 2")
	f(two[:1], archive(t, "arr_0.npy", a), "a INT32 [2] 1 2")
	f(two, archive(t, "c.npy", a), `!the model has no input "c"`)
	f(two, archive(t, "a.npy", []byte("no")), `!input "a": values: does not fit the input: not a`)
	f(two, []byte("no"), "!not a .npz file")
}

func FuzzFromNPY(f *testing.F) {
	f.Add(array("<f4", "True", "(2, 3)", little([]float32{1, 2, 3, 4, 5, 6})))
	f.Add(array(">U2", "False", "(1,)", big([]uint32{'a', 'b'})))
	f.Add(array("|S3", "False", "(2,)", []byte("abcdef")))
	f.Fuzz(func(t *testing.T, file []byte) {
		for _, s := range []tensor.Spec{spec(tensor.FP32, -1, 3), spec(tensor.Bytes, -1)} {
			got, err := FromNPY(&s, bytes.NewReader(file))
			if err != nil {
				if !errors.Is(err, ErrValue) {
					t.Errorf("error of the wrong kind: %v", err)
				}
				continue
			}
			if err := got.Check(); err != nil {
				t.Errorf("%s: %v", show(got), err)
			}
		}
	})
}
