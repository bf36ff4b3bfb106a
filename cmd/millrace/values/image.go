package values

import (
	"fmt"
	"image"
	_ "image/jpeg" // the formats that FromImage reads
	_ "image/png"
	"io"
	"strconv"

	"golang.org/x/image/draw"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// Pixels says how a pixel becomes a number: (value*Scale - Mean) / Std, where
// value is 0 to 255. Mean and Std have one entry, or one a channel.
type Pixels struct {
	Scale     float64
	Mean, Std []float64
}

// maxPixels bounds an image before it is decoded.
const maxPixels = 64 << 20

// layout is where channels, rows and columns lie in an input's shape.
type layout struct {
	channels, height, width int
	last                    bool // channels are the last dimension
}

// FromImage scales a PNG or JPEG image to the input's size and makes its pixels
// the input's values. Inputs of [batch, channels, height, width],
// [batch, height, width, channels] and [batch, height, width] work.
func FromImage(spec *tensor.Spec, r io.ReadSeeker, p Pixels) (tensor.Tensor, error) {
	l, err := layoutOf(spec)
	if err != nil {
		return tensor.Tensor{}, err
	}
	if len(p.Mean) > 1 && len(p.Mean) != l.channels || len(p.Std) > 1 && len(p.Std) != l.channels {
		return tensor.Tensor{},
			fmt.Errorf("%w: mean and std take 1 or %d numbers", ErrValue, l.channels)
	}
	head, _, err := image.DecodeConfig(r)
	if err != nil {
		return tensor.Tensor{}, fmt.Errorf("%w: not a PNG or JPEG image: %w", ErrValue, err)
	}
	if head.Width*head.Height > maxPixels {
		return tensor.Tensor{}, fmt.Errorf("%w: the image has %dx%d pixels, allowed are %d",
			ErrValue, head.Width, head.Height, maxPixels)
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return tensor.Tensor{}, fmt.Errorf("cannot read the image again: %w", err)
	}
	src, _, err := image.Decode(r)
	if err != nil {
		return tensor.Tensor{}, fmt.Errorf("%w: the image is broken: %w", ErrValue, err)
	}
	if l.height <= 0 {
		l.height, l.width = head.Height, head.Width
	}
	scaled := image.NewRGBA(image.Rect(0, 0, l.width, l.height))
	draw.CatmullRom.Scale(scaled, scaled.Bounds(), src, src.Bounds(), draw.Src, nil)
	return l.tensor(spec, scaled, p)
}

// layoutOf reads an input's shape as that of an image. Height and width are -1
// when the input leaves both open.
func layoutOf(spec *tensor.Spec) (layout, error) {
	s := spec.Shape
	var l layout
	switch {
	case len(s) == 4 && (s[1] == 1 || s[1] == 3):
		l = layout{int(s[1]), int(s[2]), int(s[3]), false}
	case len(s) == 4 && (s[3] == 1 || s[3] == 3):
		l = layout{int(s[3]), int(s[1]), int(s[2]), true}
	case len(s) == 3:
		l = layout{1, int(s[1]), int(s[2]), false}
	}
	if l.channels == 0 || (l.height < 0) != (l.width < 0) || spec.Datatype == tensor.Bytes {
		return l, fmt.Errorf("%w: input %q of %s %s takes no image; it would need the shape "+
			"[batch, 1 or 3, height, width] or [batch, height, width, 1 or 3]",
			ErrValue, spec.Name, spec.Datatype, tensor.FormatShape(s))
	}
	return l, nil
}

func (l layout) tensor(spec *tensor.Spec, img *image.RGBA, p Pixels) (tensor.Tensor, error) {
	t := tensor.Tensor{Name: spec.Name, Datatype: spec.Datatype}
	switch {
	case len(spec.Shape) == 3:
		t.Shape = []int64{1, int64(l.height), int64(l.width)}
	case l.last:
		t.Shape = []int64{1, int64(l.height), int64(l.width), int64(l.channels)}
	default:
		t.Shape = []int64{1, int64(l.channels), int64(l.height), int64(l.width)}
	}
	planes := l.channels // passes over the image, each of the channels from..to
	if l.last {
		planes = 1
	}
	for plane := range planes {
		from, to := plane, plane+1
		if l.last {
			from, to = 0, l.channels
		}
		for i := 0; i < len(img.Pix); i += 4 {
			for c := from; c < to; c++ {
				var err error
				if t.Data, err = p.append(t.Data, t.Datatype, l.value(img.Pix[i:i+3], c),
					c); err != nil {
					return t, fmt.Errorf("input %q: %w", spec.Name, err)
				}
			}
		}
	}
	return t, nil
}

// value returns one channel of a pixel; a single channel is its luminance.
func (l layout) value(rgb []byte, channel int) float64 {
	if l.channels == 3 {
		return float64(rgb[channel])
	}
	return 0.299*float64(rgb[0]) + 0.587*float64(rgb[1]) + 0.114*float64(rgb[2])
}

func (p Pixels) append(dst []byte, d tensor.Datatype, value float64, channel int) ([]byte, error) {
	pick := func(list []float64, none float64) float64 {
		switch len(list) {
		case 0:
			return none
		case 1:
			return list[0]
		}
		return list[channel]
	}
	value = (value*p.Scale - pick(p.Mean, 0)) / pick(p.Std, 1)
	precision := -1
	switch d {
	case tensor.FP16, tensor.BF16, tensor.FP32, tensor.FP64:
	default:
		precision = 0 // whole numbers
	}
	return AppendElement(dst, d, strconv.FormatFloat(value, 'f', precision, 64))
}
