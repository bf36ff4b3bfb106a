package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/cmd/millrace/client"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// inferFlags say what is sent, where to, and how the answer is shown.
type inferFlags struct {
	url, version string
	values       inputFlags
	timeout      time.Duration
	classes      int
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
			"  millrace infer digits --data seven.png --scale 0.0627 --classes 1\n" +
			"  millrace infer tips --data table.csv --json",
		Args: oneModel,
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.run(cmd.Context(), args[0], cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	urlFlag(cmd, &f.url)
	flags := cmd.Flags()
	flags.StringVar(&f.version, "model-version", "",
		"version of the model; empty lets the server pick")
	f.values.register(cmd)
	flags.DurationVar(&f.timeout, "timeout", 0, "how long the answer may take; 0 for no limit")
	flags.IntVar(&f.classes, "classes", 0,
		"show the best classes, this many, in place of all values")
	flags.BoolVar(&f.asJSON, "json", false, "print the answer as JSON")
	cmd.ValidArgsFunction = completeModels(&f.url)
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
	inputs, err := f.values.read(specs, stdin)
	if err != nil {
		return err
	}
	done := progress(os.Stderr, func() string { return "waiting for the answer" })
	answer, err := c.Infer(ctx, f.request(&m, inputs))
	done()
	if err != nil {
		return err
	}
	if f.asJSON {
		return writeJSON(stdout, answer)
	}
	return writeTable(stdout, answer)
}

func (f *inferFlags) request(m *client.Model, inputs []tensor.Tensor) *client.Request {
	r := &client.Request{Model: m.Name, Version: f.version, Inputs: inputs,
		Timeout: f.timeout.Microseconds(), Classes: f.classes}
	for _, o := range m.Outputs {
		if f.classes > 0 {
			r.Outputs = append(r.Outputs, o.Name)
		}
	}
	return r
}

// modelError says what to do about a model that is not there.
func modelError(err error) error {
	var status *client.StatusError
	if errors.As(err, &status) && status.Status/100 == 4 {
		return fmt.Errorf("%w; see `millrace models` for what there is", err)
	}
	return err
}
