package values

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"testing"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// picture is 2x2 pixels: red, green; blue, white.
func picture() image.Image {
	img := image.NewRGBA(image.Rect(0, 0, 2, 2))
	img.Set(0, 0, color.RGBA{255, 0, 0, 255})
	img.Set(1, 0, color.RGBA{0, 255, 0, 255})
	img.Set(0, 1, color.RGBA{0, 0, 255, 255})
	img.Set(1, 1, color.RGBA{255, 255, 255, 255})
	return img
}

func asPNG(t *testing.T, img image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestFromImage(t *testing.T) {
	plain := Pixels{Scale: 1}
	f := func(s tensor.Spec, file []byte, p Pixels, want string) {
		t.Helper()
		got, err := FromImage(&s, bytes.NewReader(file), p)
		check(t, show(got), err, want)
	}
	file := asPNG(t, picture())
	f(spec(tensor.Uint8, -1, 3, 2, 2), file, plain,
		"x UINT8 [1,3,2,2] 255 0 0 255 0 255 0 255 0 0 255 255")
	f(spec(tensor.Uint8, -1, 2, 2, 3), file, plain,
		"x UINT8 [1,2,2,3] 255 0 0 0 255 0 0 0 255 255 255 255")
	f(spec(tensor.Uint8, -1, 3, -1, -1), file, plain,
		"x UINT8 [1,3,2,2] 255 0 0 255 0 255 0 255 0 0 255 255")
	f(spec(tensor.Uint8, -1, 1, 2, 2), file, plain, "x UINT8 [1,1,2,2] 76 150 29 255")
	f(spec(tensor.Uint8, -1, 2, 2), file, plain, "x UINT8 [1,2,2] 76 150 29 255")
	f(spec(tensor.FP32, 1, 3, 2, 2), file,
		Pixels{Scale: 1.0 / 255, Mean: []float64{0.5, 0, 1}, Std: []float64{0.5}},
		"x FP32 [1,3,2,2] 1 -1 -1 1 0 2 0 2 -2 -2 0 0")
	f(spec(tensor.FP32, -1, 3, 2, 2), file, Pixels{Scale: 1, Mean: []float64{1, 2}},
		"!mean and std take 1 or 3 numbers")
	f(spec(tensor.FP32, -1, 4), file, plain, "!takes no image; it would need the shape")
	f(spec(tensor.Bytes, -1, 3, 2, 2), file, plain, "!takes no image")
	f(spec(tensor.FP32, -1, 3, -1, 2), file, plain, "!takes no image")
	f(spec(tensor.Int8, -1, 3, 2, 2), file, plain, `!"255" is not a whole number that INT8`)
	f(spec(tensor.FP32, -1, 3, 2, 2), file[:30], plain, "!not a PNG or JPEG image")
	f(spec(tensor.FP32, -1, 3, 2, 2), file[:len(file)-20], plain, "!the image is broken")
	f(spec(tensor.FP32, -1, 3, 2, 2), []byte("GIF89a"), plain, "!not a PNG or JPEG image")
	// A header that promises 65,536 x 65,536 pixels, with the right checksum.
	huge := bytes.Clone(file)
	copy(huge[16:], []byte{0, 1, 0, 0, 0, 1, 0, 0})
	binary.BigEndian.PutUint32(huge[29:], crc32.ChecksumIEEE(huge[12:29]))
	f(spec(tensor.FP32, -1, 3, 2, 2), huge, plain, "!65536x65536 pixels, allowed are")
}

// An image is scaled to the input's size, and JPEG is read.
func TestScaled(t *testing.T) {
	grey := image.NewGray(image.Rect(0, 0, 40, 20))
	for i := range grey.Pix {
		grey.Pix[i] = 100
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, grey, nil); err != nil {
		t.Fatal(err)
	}
	s := spec(tensor.Uint8, -1, 1, 2, 3)
	got, err := FromImage(&s, bytes.NewReader(b.Bytes()), Pixels{Scale: 1})
	check(t, show(got), err, "x UINT8 [1,1,2,3] 100 100 100 100 100 100")
}
