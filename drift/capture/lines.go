package capture

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// Lines takes the samples of a JSON Lines file.
func (b *Builder) Lines(r io.Reader) error {
	d := json.NewDecoder(bufio.NewReaderSize(r, 1<<20))
	for number := 1; ; number++ {
		s, err := line(d)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: record %d: %w", ErrFile, number, err)
		}
		if err := b.add(s); err != nil {
			return err
		}
	}
}

// line reads the object of one sample. Its keys are read in their order, by which a
// tensor's shape is told from a tensor of such a name. At the end of the file it
// returns [io.EOF].
func line(d *json.Decoder) (*sample, error) {
	if open, err := d.Token(); err != nil {
		return nil, err
	} else if open != json.Delim('{') {
		return nil, errors.New("it is no object")
	}
	s := new(sample)
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, inside(err)
		}
		name, _ := key.(string)
		if err := s.member(d, name); err != nil {
			return nil, fmt.Errorf("%q: %w", name, inside(err))
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, inside(err)
	}
	if s.at.IsZero() || s.outcome == "" {
		return nil, errors.New("it has no time or no outcome; feedback is no sample")
	}
	return s, nil
}

// inside makes an error of a file that ends within a record.
func inside(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// member reads the value of a key, and of a tensor the shape that follows.
func (s *sample) member(d *json.Decoder, key string) error {
	side, name, isTensor := split(key)
	if !isTensor {
		texts := map[string]*string{"endpoint": &s.endpoint, "model": &s.model,
			"version": &s.version, "outcome": &s.outcome}
		if to := texts[key]; to != nil {
			return d.Decode(to)
		}
		if key == "time" {
			return d.Decode(&s.at)
		}
		return d.Decode(new(json.RawMessage))
	}
	var values []any
	if err := d.Decode(&values); err != nil {
		return err
	}
	if _, err := d.Token(); err != nil { // the shape's key
		return err
	}
	var shape []int64
	if err := d.Decode(&shape); err != nil || values == nil {
		return err
	}
	name, isBinary := strings.CutSuffix(name, ".base64")
	t := tensor.Tensor{Name: name, Shape: shape}
	var err error
	if t.Datatype, t.Data, err = encode(values, isBinary); err != nil {
		return err
	}
	s.tensors[side] = append(s.tensors[side], t)
	return t.Check()
}

// split takes apart the name of a tensor's column: side 0 is for inputs, 1 for outputs.
func split(key string) (side int, name string, ok bool) {
	if name, ok = strings.CutPrefix(key, "input."); ok {
		return 0, name, true
	}
	name, ok = strings.CutPrefix(key, "output.")
	return 1, name, ok
}

// encode makes the data of a tensor from JSON. Its numbers become FP64, which holds
// whole numbers up to 2^53; null is what JSON has no number for.
func encode(values []any, isBinary bool) (d tensor.Datatype, data []byte, err error) {
	d = tensor.FP64
	for _, v := range values {
		switch v := v.(type) {
		case nil:
			data = binary.LittleEndian.AppendUint64(data, math.Float64bits(math.NaN()))
		case float64:
			data = binary.LittleEndian.AppendUint64(data, math.Float64bits(v))
		case bool:
			d = tensor.Bool
			data = append(data, 0)
			if v {
				data[len(data)-1] = 1
			}
		case string:
			d = tensor.Bytes
			element := []byte(v)
			if isBinary {
				if element, err = base64.StdEncoding.DecodeString(v); err != nil {
					return d, nil, err
				}
			}
			data = tensor.AppendElement(data, element)
		default:
			return d, nil, fmt.Errorf("%v is no element of a tensor", v)
		}
	}
	return d, data, nil
}
