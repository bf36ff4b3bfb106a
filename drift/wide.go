package drift

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"unsafe"

	"github.com/millrace-ml/millrace/drift/sketch"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

const (
	// projections is how many random sums stand for the elements of a wide tensor.
	projections = 16
	// block is how many elements share two hashes: each gives them their signs, or says
	// which goes to which projection.
	block = 64
	// chunk is how many elements are decoded at a time, so that they stay in the
	// processor's nearest cache.
	chunk = 4 * block
	// maxChannels is up to where the last dimension is taken for the channels of an image,
	// among which neighbours are not.
	maxChannels = 4
)

// wide sums up a tensor with many elements a row, or not always as many.
type wide struct {
	texts    bool
	elements int // of a row; 0 when they vary
	stride   int // from an element to its neighbour
	rows     int // that are left of a request
	size     int // elements of each of them

	// Of one row. In front of the elements of a chunk are the stride before them.
	buffer         []float64
	numbers, steps int
	sum, squares   float64
	step           float64
	projected      [projections]float64 // sums with signs
	absent         [projections]float64 // those of the signs of what is NaN
	// Sums of the signs of all elements of a row with balanced elements.
	balance  [projections]float64
	balanced int
}

// newWide returns what sums up a tensor whose rows have this shape, of which -1 is any
// dimension, nil for an impossible one.
func newWide(d tensor.Datatype, shape []int64) *wide {
	w := &wide{texts: d == tensor.Bytes, stride: 1}
	if !slices.Contains(shape, -1) {
		n, err := tensor.Elements(shape)
		if err != nil {
			return nil
		}
		w.elements = int(n)
	}
	if n := len(shape); n > 1 && shape[n-1] > 0 && shape[n-1] <= maxChannels {
		w.stride = int(shape[n-1])
	}
	w.buffer = make([]float64, w.stride+chunk)
	return w
}

// columns names what a row is summed up in.
func (w *wide) columns(name string) (all []string) {
	if w.elements == 0 {
		all = append(all, name+".size")
	}
	if w.texts {
		return append(all, name+".bytes")
	}
	all = append(all, name+".mean", name+".sd", name+".step", name+".nan")
	for i := range projections {
		all = append(all, fmt.Sprintf("%s.p%d", name, i))
	}
	return all
}

// begin makes ready for a tensor of n elements and returns how many rows it has, 0 when it
// does not fit.
func (w *wide) begin(t *tensor.Tensor, n int64, batched bool) (rows int) {
	w.rows, w.size = 1, int(n)
	if batched {
		w.rows = 0
		if len(t.Shape) > 0 && t.Shape[0] > 0 {
			w.rows = int(t.Shape[0])
			w.size /= w.rows
		}
	}
	if w.elements > 0 && w.size != w.elements ||
		w.size > 0 && w.texts != (t.Datatype == tensor.Bytes) {
		w.rows = 0
	}
	return w.rows
}

// take fills in what one row is summed up in, and returns what is left of the data. Of a
// row that is not there all is missing, and of an empty one all but its size.
func (w *wide) take(d tensor.Datatype, data []byte, row []sketch.Value) []byte {
	clear(row) // the zero value is missing
	if w.rows == 0 {
		return nil
	}
	w.rows--
	if w.elements == 0 {
		row[0], row = sketch.Integer(int64(w.size)), row[1:]
	}
	if w.size == 0 {
		return data
	}
	if w.texts {
		row[0], data = meanLength(data, w.size)
		return data
	}
	data = w.add(d, data)
	w.fill(row)
	return data
}

// meanLength is that of the next n texts.
func meanLength(data []byte, n int) (mean sketch.Value, rest []byte) {
	sum := 0
	for range n {
		var text []byte
		text, data, _ = tensor.NextElement(data)
		sum += len(text)
	}
	return sketch.Number(float64(sum) / float64(n)), data
}

// fill writes the columns of the row that was added. Without a number in it there is
// nothing but the share of what is none.
func (w *wide) fill(row []sketch.Value) {
	row[3] = sketch.Number(float64(w.size-w.numbers) / float64(w.size))
	if w.numbers == 0 {
		return
	}
	n := float64(w.numbers)
	mean, square := w.sum/n, w.squares/n
	grain := grain(math.Sqrt(square))
	set := func(i int, x float64) {
		row[i] = sketch.Number(math.RoundToEven(x/grain) * grain)
	}
	set(0, mean)
	set(1, math.Sqrt(max(square-float64(mean*mean), 0)))
	set(2, w.step/float64(max(w.steps, 1)))
	w.weigh()
	scale := math.Sqrt(projections / n)
	for i, x := range w.projected {
		// Of what is relative to the mean, so that brightness is no content.
		set(4+i, scale*(x-float64(mean*(w.balance[i]-w.absent[i]))))
	}
}

// grain returns about a millionth of what numbers are in size, a power of two. Less
// than that is rounding, which differs with machines and batches: the mean of the
// probabilities of all classes is nothing else.
func grain(size float64) float64 {
	const bits, least = 20, -1000
	_, exponent := math.Frexp(size)
	return math.Ldexp(1, max(exponent-bits, least))
}

// weigh sums up the signs of all elements of a row. It has nothing to do while rows are of
// one size.
func (w *wide) weigh() {
	if w.balanced == w.size {
		return
	}
	w.balanced = w.size
	clear(w.balance[:])
	for at := 0; at < w.size; at += block {
		signs, turn := shuffle(at)
		for i := range min(block, w.size-at) {
			w.balance[i%projections^turn] += signsOf[signs>>i&1][0]
		}
	}
}

// add sums up the next row.
func (w *wide) add(d tensor.Datatype, data []byte) []byte {
	w.numbers, w.steps, w.sum, w.squares, w.step = 0, 0, 0, 0, 0
	clear(w.projected[:])
	clear(w.absent[:])
	for at := 0; at < w.size; at += chunk {
		n := min(chunk, w.size-at)
		values := w.buffer[:w.stride+n]
		data = decode(d, data, values[w.stride:])
		if at == 0 {
			w.first(values)
		}
		if n < chunk || !w.whole(at, values) {
			for i := 0; i < n; i += block {
				w.each(at+i, values[i:w.stride+min(i+block, n)])
			}
		}
		copy(w.buffer, values[n:])
	}
	return data
}

// first has the elements that no neighbour is before be their own, which does not count.
func (w *wide) first(values []float64) {
	for i, x := range values[w.stride:min(2*w.stride, len(values))] {
		if values[i] = x; !math.IsNaN(x) {
			w.steps--
		}
	}
}

// decode reads the next elements.
func decode(d tensor.Datatype, data []byte, into []float64) []byte {
	switch d {
	case tensor.Uint8:
		return convert[uint8](data, into)
	case tensor.Int32:
		return convert[int32](data, into)
	case tensor.Int64:
		return convert[int64](data, into)
	case tensor.FP32:
		return convert[float32](data, into)
	case tensor.FP64:
		return convert[float64](data, into)
	case tensor.FP16:
		return halves(data, into, tensor.FP16ToFloat32)
	case tensor.BF16:
		return halves(data, into, tensor.BF16ToFloat32)
	}
	for i := range into {
		var v sketch.Value
		v, data = element(d, data)
		into[i] = v.Float()
	}
	return data
}

// convert reads elements in the layout of the processor, which is that of tensors, as ONNX
// Runtime wants it too. Eight at a time take half as long as one.
func convert[T uint8 | int32 | int64 | float32 | float64](data []byte, into []float64) []byte {
	from := unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(data))), len(into))
	i := 0
	for ; i+8 <= len(from); i += 8 {
		into, from := (*[8]float64)(into[i:]), (*[8]T)(from[i:])
		into[0] = float64(from[0])
		into[1] = float64(from[1])
		into[2] = float64(from[2])
		into[3] = float64(from[3])
		into[4] = float64(from[4])
		into[5] = float64(from[5])
		into[6] = float64(from[6])
		into[7] = float64(from[7])
	}
	for ; i < len(from); i++ {
		into[i] = float64(from[i])
	}
	return data[len(into)*int(unsafe.Sizeof(from[0])):]
}

// halves reads elements of two bytes that the processor has no type for.
func halves(data []byte, into []float64, value func(uint16) float32) []byte {
	for i := range into {
		into[i] = float64(value(binary.LittleEndian.Uint16(data[2*i:])))
	}
	return data[2*len(into):]
}

// shuffle decides about the block from an element on: a bit for each of its elements that
// is 1 where it is subtracted, and what to exclusive-or its place with for its projection.
// So a projection gets one of 16 elements that follow each other, and two of different
// blocks meet in one of 16 cases. References are kept: it must be the same for ever.
func shuffle(at int) (signs uint64, turn int) {
	number := uint64(at / block)
	return hash(number), int(hash(^number) % projections)
}

// hash is the finalizer of splitmix64 on multiples of the golden ratio.
func hash(i uint64) uint64 {
	h := (i + 1) * 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// signsOf are the signs of four elements, by their bits.
var signsOf = func() (all [16][4]float64) {
	for bits := range all {
		for i := range all[bits] {
			all[bits][i] = float64(1 - 2*(bits>>i&1))
		}
	}
	return all
}()

// whole takes in a whole chunk, behind the elements before it. Where that gives NaN it
// takes in none and says so. Of eight neighbours four have to do, which tell as much.
// Conversions keep products from being fused with sums, so that all machines agree.
func (w *wide) whole(at int, values []float64) bool {
	before, x := (*[chunk]float64)(values), (*[chunk]float64)(values[w.stride:])
	var sum, squares, step float64
	for i := 0; i < chunk; i += 8 {
		x, before := (*[8]float64)(x[i:]), (*[4]float64)(before[i:])
		sum += ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]))
		squares += (float64(x[0]*x[0]) + float64(x[1]*x[1])) +
			(float64(x[2]*x[2]) + float64(x[3]*x[3]))
		squares += (float64(x[4]*x[4]) + float64(x[5]*x[5])) +
			(float64(x[6]*x[6]) + float64(x[7]*x[7]))
		step += (math.Abs(x[0]-before[0]) + math.Abs(x[1]-before[1])) +
			(math.Abs(x[2]-before[2]) + math.Abs(x[3]-before[3]))
	}
	if math.IsNaN(sum + step) {
		return false
	}
	w.numbers += chunk
	w.steps += chunk / 2
	w.sum += sum
	w.squares += squares
	w.step += step
	for i := 0; i < chunk; i += block {
		w.project(at+i, (*[block]float64)(x[i:]))
	}
	return true
}

// project adds a whole block to the projections, four elements to each.
func (w *wide) project(at int, x *[block]float64) {
	signs, turn := shuffle(at)
	p := &w.projected
	for i := 0; i < projections; i += 4 {
		x := (*[block - projections + 4]float64)(x[i:])
		a, b := &signsOf[signs>>i&15], &signsOf[signs>>(i+16)&15]
		c, d := &signsOf[signs>>(i+32)&15], &signsOf[signs>>(i+48)&15]
		to := i ^ turn
		p[to] += (x[0]*a[0] + x[16]*b[0]) + (x[32]*c[0] + x[48]*d[0])
		p[to^1] += (x[1]*a[1] + x[17]*b[1]) + (x[33]*c[1] + x[49]*d[1])
		p[to^2] += (x[2]*a[2] + x[18]*b[2]) + (x[34]*c[2] + x[50]*d[2])
		p[to^3] += (x[3]*a[3] + x[19]*b[3]) + (x[35]*c[3] + x[51]*d[3])
	}
}

// each takes in the elements of a block, or of less, one by one and without what is NaN.
func (w *wide) each(at int, values []float64) {
	signs, turn := shuffle(at)
	for i, x := range values[w.stride:] {
		to, sign := i%projections^turn, signsOf[signs>>i&1][0]
		if math.IsNaN(x) {
			w.absent[to] += sign
			continue
		}
		w.projected[to] += x * sign
		w.numbers++
		w.sum += x
		w.squares += float64(x * x)
		if step := math.Abs(x - values[i]); i&4 == 0 && !math.IsNaN(step) {
			w.steps++
			w.step += step
		}
	}
}
