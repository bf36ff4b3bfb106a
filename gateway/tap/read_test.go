package tap_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// row is one record of a file, by column: nil, a bool, a string, a json.Number,
// or a list of those. Parquet's numbers are their bits in a uint64.
type row map[string]any

// names lists the files of a folder, by pattern.
func names(t testing.TB, dir, pattern string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		list[i] = filepath.Base(list[i])
	}
	return list
}

// read reads all files of a folder whose names match. Each must be readable.
func read(t testing.TB, dir, pattern string) (rows []row) {
	t.Helper()
	for _, name := range names(t, dir, pattern) {
		path := filepath.Join(dir, name)
		switch filepath.Ext(name) {
		case ".jsonl":
			rows = append(rows, readLines(t, path)...)
		case ".parquet":
			rows = append(rows, readParquet(t, path)...)
		default:
			t.Fatalf("%s is no file of samples", name)
		}
	}
	return rows
}

func readLines(t testing.TB, path string) (rows []row) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasSuffix(text, []byte("\n")) {
		t.Fatalf("%s of %d bytes ends within a line", path, len(text))
	}
	for line := range bytes.Lines(text) {
		d := json.NewDecoder(bytes.NewReader(line))
		d.UseNumber()
		var r row
		if err := d.Decode(&r); err != nil {
			t.Fatalf("%s: %v in %s", path, err, line)
		}
		rows = append(rows, r)
	}
	return rows
}

func readParquet(t testing.TB, path string) (rows []row) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	file, err := parquet.OpenFile(f, info.Size())
	if err != nil {
		t.Fatalf("%s of %d bytes: %v", path, info.Size(), err)
	}
	columns := file.Schema().Columns()
	r := parquet.NewReader(file)
	defer r.Close()
	got := make([]parquet.Row, 1)
	for range file.NumRows() {
		if n, err := r.ReadRows(got); n != 1 {
			t.Fatalf("%s: %v", path, err)
		}
		one := make(row)
		for i, values := range got[0].Range {
			one[columns[i][0]] = column(values, len(columns[i]) > 1)
		}
		rows = append(rows, one)
	}
	return rows
}

// column returns the values of one row's column.
func column(values []parquet.Value, isList bool) any {
	if !isList {
		return plain(values[0])
	}
	if values[0].DefinitionLevel() == 0 {
		return nil
	}
	list := []any{}
	for _, v := range values {
		if v.DefinitionLevel() == 2 {
			list = append(list, plain(v))
		}
	}
	return list
}

func plain(v parquet.Value) any {
	if v.IsNull() {
		return nil
	}
	switch v.Kind() {
	case parquet.Boolean:
		return v.Boolean()
	case parquet.Int32:
		return uint64(v.Int32())
	case parquet.Int64:
		return uint64(v.Int64())
	case parquet.Float:
		return uint64(math.Float32bits(v.Float()))
	case parquet.Double:
		return math.Float64bits(v.Double())
	}
	return string(v.ByteArray())
}

// form is how a file has the elements of a column.
type form struct{ isJSON, isBase64 bool }

// data makes a tensor's data of a column again. Halves are floats in files.
func (f form) data(t testing.TB, d tensor.Datatype, list any) (data []byte) {
	t.Helper()
	for _, v := range list.([]any) {
		switch d {
		case tensor.Bytes:
			text := v.(string)
			if f.isBase64 {
				raw, err := base64.StdEncoding.DecodeString(text)
				if err != nil {
					t.Fatal(err)
				}
				text = string(raw)
			}
			data = tensor.AppendElement(data, text)
		case tensor.Bool:
			data = append(data, map[bool]byte{true: 1}[v.(bool)])
		default:
			var bits uint64
			if f.isJSON {
				bits = parsed(t, d, v.(json.Number))
			} else {
				bits = v.(uint64)
			}
			switch d {
			case tensor.FP16:
				bits = uint64(tensor.FP16FromFloat64(float64(math.Float32frombits(uint32(bits)))))
			case tensor.BF16:
				bits = uint64(tensor.BF16FromFloat64(float64(math.Float32frombits(uint32(bits)))))
			}
			data = append(data, binary.LittleEndian.AppendUint64(nil, bits)[:d.Size()]...)
		}
	}
	return data
}

// parsed returns the bits of a number, of a half those of its float.
func parsed(t testing.TB, d tensor.Datatype, text json.Number) uint64 {
	t.Helper()
	var err error
	var bits uint64
	switch d {
	case tensor.FP64:
		var f float64
		err = json.Unmarshal([]byte(text), &f)
		bits = math.Float64bits(f)
	case tensor.FP32, tensor.FP16, tensor.BF16:
		var f float32
		err = json.Unmarshal([]byte(text), &f)
		bits = uint64(math.Float32bits(f))
	case tensor.Uint64, tensor.Uint32, tensor.Uint16, tensor.Uint8:
		err = json.Unmarshal([]byte(text), &bits)
	default:
		var i int64
		err = json.Unmarshal([]byte(text), &i)
		bits = uint64(i)
	}
	if err != nil {
		t.Fatal(err)
	}
	return bits
}

// wantTensor holds a tensor's columns against the tensor. Nil wants nulls.
func wantTensor(t testing.TB, r row, key string, want *tensor.Tensor) {
	t.Helper()
	_, isJSON := r["kind"]
	list, isBase64 := r[key+".base64"]
	if !isBase64 {
		var ok bool
		if list, ok = r[key]; !ok {
			t.Fatalf("there is no column %s: %v", key, r)
		}
	}
	shape, ok := r[key+".shape"]
	if want == nil {
		if list != nil || shape != nil || !ok {
			t.Errorf("%s is %v of shape %v, want nulls", key, list, shape)
		}
		return
	}
	if list == nil || shape == nil {
		t.Fatalf("%s is %v of shape %v", key, list, shape)
	}
	got := form{isJSON, isBase64}.data(t, want.Datatype, list)
	if !bytes.Equal(got, want.Data) {
		t.Errorf("%s %s is\n%x, want\n%x", want.Datatype, key, got, want.Data)
	}
	dims := form{isJSON: isJSON}.data(t, tensor.Int64, shape)
	wantDims := make([]byte, 0, 8*len(want.Shape))
	for _, d := range want.Shape {
		wantDims = binary.LittleEndian.AppendUint64(wantDims, uint64(d))
	}
	if !bytes.Equal(dims, wantDims) {
		t.Errorf("the shape of %s is %v, want %v", key, shape, want.Shape)
	}
}

// everything returns a tensor of each datatype with its extreme values, none of
// which JSON lacks; exotic adds those that it does.
func everything(exotic bool) (list []tensor.Tensor) {
	le := binary.LittleEndian
	for d := tensor.Bool; d <= tensor.Bytes; d++ {
		t := tensor.Tensor{Name: strings.ToLower(d.String()), Datatype: d, Shape: []int64{2, -1}}
		switch d {
		case tensor.Bool:
			t.Data = []byte{0, 1, 1, 0}
		case tensor.FP32:
			for _, f := range []float32{0, 1, -1, 0.1, math.MaxFloat32, -math.MaxFloat32,
				math.SmallestNonzeroFloat32, 1e6, float32(math.Copysign(0, -1)), 1.0 / 3} {
				t.Data = le.AppendUint32(t.Data, math.Float32bits(f))
			}
		case tensor.FP64:
			for _, f := range []float64{0, 1, math.Pi, math.MaxFloat64, 0x1p-1022,
				1e21, -1e-7, math.Copysign(0, -1), 9007199254740993, 0.1} {
				t.Data = le.AppendUint64(t.Data, math.Float64bits(f))
			}
		case tensor.FP16, tensor.BF16:
			for _, h := range []uint16{0, 0x8000, 1, 0x3c00, 0x7bff, 0x0400, 0xbc01, 0x3555} {
				t.Data = le.AppendUint16(t.Data, h)
			}
		case tensor.Bytes:
			for _, s := range []string{"", "a", "Zoë, \"quoted\"\n\x00\u2028<&>",
				strings.Repeat("long ", 1000)} {
				t.Data = tensor.AppendElement(t.Data, s)
			}
		default: // all bits unset, all set, and the patterns of one bit
			n := d.Size()
			t.Data = append(t.Data, make([]byte, n)...)
			t.Data = append(t.Data, bytes.Repeat([]byte{0xff}, n)...)
			for bit := range 8 * n {
				t.Data = append(t.Data, le.AppendUint64(nil, 1<<bit)[:n]...)
			}
		}
		if exotic {
			t.Data = append(t.Data, exotics(d)...)
		}
		elements := int64(len(t.Data) / max(d.Size(), 1))
		if d == tensor.Bytes {
			elements = 4 + int64(len(exotics(d))/6)*map[bool]int64{true: 1}[exotic]
		}
		if elements%2 == 0 {
			t.Shape[1] = elements / 2
		} else {
			t.Shape = []int64{elements}
		}
		list = append(list, t)
	}
	return list
}

// exotics are values that JSON has no form for.
func exotics(d tensor.Datatype) (data []byte) {
	le := binary.LittleEndian
	switch d {
	case tensor.FP32:
		for _, bits := range []uint32{0x7f800000, 0xff800000, 0x7fc00000, 0x7fc12345} {
			data = le.AppendUint32(data, bits)
		}
	case tensor.FP64:
		for _, bits := range []uint64{0x7ff0 << 48, 0xfff0 << 48, 0x7ff8<<48 + 77, 0x7ff8 << 48} {
			data = le.AppendUint64(data, bits)
		}
	case tensor.FP16:
		data = le.AppendUint16(le.AppendUint16(data, 0x7c00), 0xfc00)
	case tensor.BF16:
		data = le.AppendUint16(le.AppendUint16(data, 0x7f80), 0xff80)
	case tensor.Bytes:
		data = tensor.AppendElement(tensor.AppendElement(data, "\xff\xfe"), "\x80a")
	}
	return data
}

// odd are tensors of odd shapes and names.
func odd() []tensor.Tensor {
	return []tensor.Tensor{
		{Name: "scalar", Datatype: tensor.Int64, Shape: []int64{}, Data: make([]byte, 8)},
		{Name: "none", Datatype: tensor.FP32, Shape: []int64{0, 4}, Data: []byte{}},
		{Name: "no,comma:0/is \"safe\" é", Datatype: tensor.Uint8, Shape: []int64{1},
			Data: []byte{9}},
		{},
		{Name: "nothing", Datatype: tensor.Bytes, Shape: []int64{0}, Data: []byte{}},
	}
}

// TestEverything holds what the other tests send against itself.
func TestEverything(t *testing.T) {
	for _, list := range [][]tensor.Tensor{everything(false), everything(true), odd()[:3]} {
		for i := range list {
			if err := list[i].Check(); err != nil {
				t.Errorf("%s: %v", list[i].Name, err)
			}
		}
	}
	if n := len(everything(true)); n != int(tensor.Bytes) {
		t.Errorf("%d tensors, want one of each datatype", n)
	}
}
