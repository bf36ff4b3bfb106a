package main

import (
	"encoding/json"
	"image"
	"image/color"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sample is a request beside a sample model.
type sample struct {
	Inputs []struct {
		Name string
		Data []float64
	}
}

// digit returns the 64 pixels, 0 to 16, of the digit 7 beside the model.
func digit(t *testing.T) []float64 {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(samples, "digits", "sample.json"))
	if err != nil {
		t.Fatal(err)
	}
	var s sample
	if err := json.Unmarshal(text, &s); err != nil || len(s.Inputs[0].Data) != 64 {
		t.Fatalf("the sample digit is unusable: %v", err)
	}
	return s.Inputs[0].Data
}

// drawn writes the digit as a PNG image, a pixel each.
func drawn(t *testing.T, path string) string {
	t.Helper()
	img := image.NewGray(image.Rect(0, 0, 8, 8))
	for i, v := range digit(t) {
		img.SetGray(i%8, i/8, color.Gray{Y: uint8(math.Round(v * 255 / 16))})
	}
	file, err := os.Create(path)
	if err == nil {
		err = png.Encode(file, img)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestInfer sends every kind of input to the sample models.
func TestInfer(t *testing.T) {
	dir := t.TempDir()
	p := launch(t, append(anyPort, "--models", samples)...)
	file := func(name, text string) string { return write(t, filepath.Join(dir, name), text) }
	f := func(want string, args ...string) {
		t.Helper()
		p.ask(append([]string{"infer"}, args...)...).want(t, 0, want)
	}
	// From the command line.
	f("setosa", "iris", "--input", "X=5.1,3.5,1.4,0.2")
	f("setosa", "iris", "-i", "[[5.1,3.5,1.4,0.2]]")
	f("1    virginica", "iris", "-i", "5.1,3.5,1.4,0.2,6.3,3.3,6,2.5")
	f("setosa=1", "iris", "-i", "5.1,3.5,1.4,0.2")
	f("0 1 2 3", "simple_string", "-i", "INPUT0="+strings.Repeat("1,", 15)+"1",
		"-i", "INPUT1=1,0,-1,-2"+strings.Repeat(",0", 12))
	// JSON: a request, lists by name, rows, bare values; a file and standard input.
	f("4.42583", "tips", "--data", filepath.Join(samples, "tips", "sample.json"))
	f("setosa", "iris", "-d", file("named.json", `{"X":[[5.1,3.5,1.4,0.2]]}`))
	f("setosa", "iris", "-d", file("rows.json", `[{"X":[5.1,3.5,1.4,0.2]}]`))
	f("setosa", "iris", "-d", file("bare.json", `[5.1,3.5,1.4,0.2]`))
	f("setosa", "iris", "-i", "X=@"+filepath.Join(dir, "bare.json"))
	cmd := command("infer", "iris", "--url", p.url(), "--data", "-")
	cmd.Stdin = strings.NewReader("[5.1,3.5,1.4,0.2]")
	finish(t, cmd).want(t, 0, "setosa")
	// CSV: named columns with one that is none, and a bare table.
	f("4.42583", "tips", "-d", file("tips.csv", "time,id,total_bill,size,sex,smoker,day\n"+
		"Lunch,1,34.83,4,Female,No,Thur\n"))
	p.ask("infer", "tips", "-d", filepath.Join(dir, "tips.csv")).want(t, 0,
		"these columns are no inputs and are not sent: id")
	f("1    virginica", "iris", "-d", file("iris.csv",
		"sl,sw,pl,pw\n5.1,3.5,1.4,0.2\n6.3,3.3,6,2.5\n"))
	// NumPy.
	npy := "\x93NUMPY\x01\x00\x46\x00{'descr': '<f8', 'fortran_order': False, 'shape': (1, 4), }"
	npy += strings.Repeat(" ", 0x46+10-len(npy)-1) + "\n" +
		"\x66\x66\x66\x66\x66\x66\x14\x40" + "\x00\x00\x00\x00\x00\x00\x0c\x40" + // 5.1, 3.5
		"\x66\x66\x66\x66\x66\x66\xf6\x3f" + "\x9a\x99\x99\x99\x99\x99\xc9\x3f" // 1.4, 0.2
	f("setosa", "iris", "-d", file("iris.npy", npy))
	f("setosa", "iris", "-i", "X=@"+filepath.Join(dir, "iris.npy"))
	// An image, and the class of what it shows.
	seven := drawn(t, filepath.Join(dir, "seven.png"))
	f(":7:seven", "digits", "--data", seven, "--scale", "0.0627", "--classes", "1")
	f(`,0.994`, "digits_rnn", "--data", seven, "--scale", "0.0627", "--json")
	// JSON out is the protocol's.
	got := p.ask("infer", "iris", "-i", "5.1,3.5,1.4,0.2", "--json")
	got.want(t, 0, `{"model_name":"iris","model_version":"1","outputs":[{"name":"output_label",`+
		`"datatype":"BYTES","shape":[1],"data":["setosa"]}`, `"class_names":["setosa"`)
	if !json.Valid([]byte(got.out)) {
		t.Errorf("this is not JSON: %s", got.out)
	}
}

// TestInferErrors: each says what was wrong, and what the model takes.
func TestInferErrors(t *testing.T) {
	dir := t.TempDir()
	p := launch(t, append(anyPort, "--models", samples)...)
	f := func(want string, args ...string) {
		t.Helper()
		p.ask(append([]string{"infer"}, args...)...).want(t, 1, want)
	}
	f("there are no values to send; the model takes X (FP32 [-1,4])", "iris")
	f(`"a" is not a number that FP32 can hold; the model takes X`, "iris", "-i", "a,1,2,3")
	f("3 values do not fill it", "iris", "-i", "1,2,3")
	f(`the model has no input "Y"; its inputs are X`, "iris", "-i", "Y=1,2,3,4")
	f("it has no NAME=", "simple", "-i", "1")
	f("missing required input(s) ['INPUT1']", "simple", "-i", "INPUT0="+
		strings.Repeat("1,", 15)+"1")
	f("no such file", "iris", "-d", filepath.Join(dir, "none.json"))
	f("it holds the values of one input; name it with --input NAME=@FILE", "simple", "-d",
		write(t, filepath.Join(dir, "a.npy"), "x"))
	f("not a .npy file", "iris", "-d", filepath.Join(dir, "a.npy"))
	f("takes no image", "iris", "-d", drawn(t, filepath.Join(dir, "d.png")))
	f("not a PNG or JPEG image", "digits", "-d", write(t, filepath.Join(dir, "b.png"), "x"))
	f("is not found", "iris", "--model-version", "7", "-i", "1,2,3,4")
	f("must be <= 64", "iris", "-i", strings.Repeat("1,", 4*65-1)+"1")
	f("name one model: millrace infer MODEL")
	millrace(t, "infer", "iris", "--url", "127.0.0.1:1", "-i", "1").want(t, 1,
		"no server answers at 127.0.0.1:1", "start one with `millrace serve`")
	millrace(t, "infer", "iris", "--url", "ftp://x", "-i", "1").want(t, 1, "give one such as")
}
