package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/cmd/millrace/client"
	"github.com/millrace-ml/millrace/cmd/millrace/values"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// inferFlags say what is sent, where to, and how the answer is shown.
type inferFlags struct {
	url, version string
	inputs       []string // NAME=VALUES or NAME=@FILE
	file         string
	pixels       values.Pixels
	scaleGiven   bool
	timeout      time.Duration
	asJSON       bool
}

func newInfer() *cobra.Command {
	var f inferFlags
	cmd := &cobra.Command{
		Use:   "infer MODEL",
		Short: "Send values to a model and show its answer",
		Long: "infer asks a running server. Values come from --input flags, " +
			"or from one file with --data:\n" +
			"JSON (a request of the protocol, or lists by input name), " +
			"CSV (columns named as the inputs),\n" +
			".npy or .npz, a PNG or JPEG image. A - reads JSON from standard input.",
		Example: "  millrace infer iris --input X=5.1,3.5,1.4,0.2\n" +
			"  millrace infer simple --input INPUT0=@a.npy --input INPUT1=@b.npy\n" +
			"  millrace infer digits --data seven.png --scale 0.0627\n" +
			"  millrace infer tips --data table.csv --json",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.scaleGiven = cmd.Flags().Changed("scale")
			return f.run(cmd.Context(), args[0], cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	urlFlag(cmd, &f.url)
	flags := cmd.Flags()
	flags.StringVar(&f.version, "model-version", "",
		"version of the model; empty lets the server pick")
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
	flags.DurationVar(&f.timeout, "timeout", 0, "how long the answer may take; 0 for no limit")
	flags.BoolVar(&f.asJSON, "json", false, "print the answer as JSON")
	return cmd
}

func (f *inferFlags) run(ctx context.Context, name string, stdin io.Reader,
	stdout io.Writer) error {
	c, err := client.New(f.url)
	if err != nil {
		return err
	}
	if f.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.timeout)
		defer cancel()
	}
	m, err := c.Model(ctx, name, f.version)
	if err != nil {
		return modelError(err)
	}
	specs := specsOf(m.Inputs)
	inputs, err := f.read(specs, stdin)
	if err != nil {
		return err
	}
	done := progress(os.Stderr, func() string { return "waiting for the answer" })
	answer, err := c.Infer(ctx, &client.Request{
		Model: name, Version: f.version, Inputs: inputs, Timeout: f.timeout.Microseconds(),
	})
	done()
	if err != nil {
		return err
	}
	if f.asJSON {
		return writeJSON(stdout, answer)
	}
	return writeTable(stdout, answer)
}

// modelError says what to do about a model that is not there.
func modelError(err error) error {
	var status *client.StatusError
	if errors.As(err, &status) && status.Status/100 == 4 {
		return fmt.Errorf("%w; see `millrace models` for what there is", err)
	}
	return err
}

func specsOf(list []client.Tensor) []tensor.Spec {
	specs := make([]tensor.Spec, len(list))
	for i, t := range list {
		specs[i] = tensor.Spec{Name: t.Name, Datatype: tensor.ParseDatatype(t.Datatype),
			Shape: t.Shape}
	}
	return specs
}

// describeInputs says what a model takes.
func describeInputs(specs []tensor.Spec) string {
	var words []string
	for _, s := range specs {
		words = append(words,
			fmt.Sprintf("%s (%s %s)", s.Name, s.Datatype, tensor.FormatShape(s.Shape)))
	}
	return strings.Join(words, ", ")
}

// read gathers the inputs from flags and file.
func (f *inferFlags) read(specs []tensor.Spec, stdin io.Reader) ([]tensor.Tensor, error) {
	if f.file == "" && len(f.inputs) == 0 {
		return nil, fmt.Errorf("there are no values to send; the model takes %s; "+
			"give --input NAME=VALUES for each, or --data FILE", describeInputs(specs))
	}
	var tensors []tensor.Tensor
	if f.file != "" {
		var err error
		if tensors, err = f.readFile(specs, f.file, stdin); err != nil {
			return nil, fmt.Errorf("cannot read %s: %w; the model takes %s", f.file, err,
				describeInputs(specs))
		}
	}
	for _, in := range f.inputs {
		t, err := f.readInput(specs, in)
		if err != nil {
			return nil, fmt.Errorf("cannot read --input %.80s: %w; the model takes %s",
				in, err, describeInputs(specs))
		}
		tensors = append(tensors, t...)
	}
	return tensors, nil
}

func (f *inferFlags) readInput(specs []tensor.Spec, in string) ([]tensor.Tensor, error) {
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
func (f *inferFlags) readFile(specs []tensor.Spec, path string,
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

func (f *inferFlags) readOne(spec *tensor.Spec, file *os.File, kind string) (tensor.Tensor, error) {
	if kind == "npy" {
		return values.FromNPY(spec, file)
	}
	p := f.pixels
	switch spec.Datatype {
	case tensor.FP16, tensor.BF16, tensor.FP32, tensor.FP64:
		if !f.scaleGiven {
			p.Scale = 1.0 / 255
		}
	}
	return values.FromImage(spec, file, p)
}

// suffix returns what stands after the last dot of a path, in lower case.
func suffix(path string) string {
	return strings.ToLower(path[strings.LastIndexByte(path, '.')+1:])
}
