package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/millrace-ml/millrace/cmd/millrace/client"
	"github.com/millrace-ml/millrace/cmd/millrace/payload"
	"github.com/millrace-ml/millrace/cmd/millrace/values"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// inputFlags are the values that a command line gives for a model's inputs.
type inputFlags struct {
	inputs []string // NAME=VALUES or NAME=@FILE
	file   string
	pixels values.Pixels
	scale  *pflag.Flag // knows whether it was given
}

func (f *inputFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVarP(&f.inputs, "input", "i", nil,
		"NAME=VALUES (1,2,3 or JSON) or NAME=@FILE (.npy, .json, .png, .jpg); may be repeated")
	flags.StringVarP(&f.file, "data", "d", "",
		"file with the values of all inputs, - for standard input")
	flags.Float64Var(&f.pixels.Scale, "scale", 1,
		"images: factor of the pixels' 0 to 255; 1/255 for float inputs")
	flags.Float64SliceVar(&f.pixels.Mean, "mean", nil,
		"images: what is subtracted after the scale, one or one a channel")
	flags.Float64SliceVar(&f.pixels.Std, "std", nil,
		"images: what is divided by after that, one or one a channel")
	f.scale = flags.Lookup("scale")
	_ = cmd.MarkFlagFilename("data", "json", "csv", "npy", "npz", "png", "jpg", "jpeg")
}

// given says whether there are any.
func (f *inputFlags) given() bool { return f.file != "" || len(f.inputs) > 0 }

// specsOf describes the inputs in a server's metadata.
func specsOf(list []client.Tensor) []tensor.Spec {
	specs := make([]tensor.Spec, len(list))
	for i, t := range list {
		specs[i] = tensor.Spec{Name: t.Name, Datatype: tensor.ParseDatatype(t.Datatype),
			Shape: t.Shape}
	}
	payload.RowAxes(specs)
	return specs
}

// read gathers the inputs from flags and file.
func (f *inputFlags) read(specs []tensor.Spec, stdin io.Reader) ([]tensor.Tensor, error) {
	if !f.given() {
		return nil, fmt.Errorf("there are no values to send; the model takes %s; "+
			"give --input NAME=VALUES for each, or --data FILE", payload.Describe(specs))
	}
	var tensors []tensor.Tensor
	if f.file != "" {
		var err error
		if tensors, err = f.readFile(specs, f.file, stdin); err != nil {
			return nil, fmt.Errorf("cannot read %s: %w; the model takes %s", f.file, err,
				payload.Describe(specs))
		}
	}
	for _, in := range f.inputs {
		t, err := f.readInput(specs, in)
		if err != nil {
			return nil, fmt.Errorf("cannot read --input %.80s: %w; the model takes %s",
				in, err, payload.Describe(specs))
		}
		tensors = append(tensors, t...)
	}
	return tensors, nil
}

func (f *inputFlags) readInput(specs []tensor.Spec, in string) ([]tensor.Tensor, error) {
	name, text, ok := strings.Cut(in, "=")
	if !ok && len(specs) == 1 {
		name, text = specs[0].Name, in
	} else if !ok {
		return nil, errors.New("it has no NAME=")
	}
	spec, err := values.Find(specs, name)
	if err != nil {
		return nil, err
	}
	if path, ok := strings.CutPrefix(text, "@"); ok {
		return f.readFile([]tensor.Spec{*spec}, path, nil)
	}
	t, err := values.FromList(spec, text)
	return []tensor.Tensor{t}, err
}

// readFile reads values by the kind of file that the name's end says.
func (f *inputFlags) readFile(specs []tensor.Spec, path string,
	stdin io.Reader) ([]tensor.Tensor, error) {
	if path == "-" && stdin != nil {
		text, err := io.ReadAll(stdin)
		if err != nil {
			return nil, err
		}
		return values.FromJSON(specs, text)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	switch suffix(path) {
	case "csv":
		tensors, ignored, err := values.FromCSV(specs, file)
		if len(ignored) > 0 {
			fmt.Fprintln(os.Stderr, "these columns are no inputs and are not sent:",
				strings.Join(ignored, ", "))
		}
		return tensors, err
	case "npz":
		info, err := file.Stat()
		if err != nil {
			return nil, err
		}
		return values.FromNPZ(specs, file, info.Size())
	case "npy", "png", "jpg", "jpeg":
		if len(specs) != 1 {
			return nil,
				errors.New("it holds the values of one input; name it with --input NAME=@FILE")
		}
		t, err := f.readOne(&specs[0], file, suffix(path))
		return []tensor.Tensor{t}, err
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return nil, err
	}
	return values.FromJSON(specs, text)
}

func (f *inputFlags) readOne(spec *tensor.Spec, file *os.File, kind string) (tensor.Tensor, error) {
	if kind == "npy" {
		return values.FromNPY(spec, file)
	}
	p := f.pixels
	switch spec.Datatype {
	case tensor.FP16, tensor.BF16, tensor.FP32, tensor.FP64:
		if !f.scale.Changed {
			p.Scale = 1.0 / 255
		}
	}
	return values.FromImage(spec, file, p)
}

// suffix returns what stands after the last dot of a path, in lower case.
func suffix(path string) string {
	return strings.ToLower(path[strings.LastIndexByte(path, '.')+1:])
}
