package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/bench"
	"github.com/millrace-ml/millrace/cmd/millrace/client"
	"github.com/millrace-ml/millrace/cmd/millrace/payload"
	"github.com/millrace-ml/millrace/cmd/millrace/values"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// defaultGRPC is where `serve` listens for gRPC when it is told nothing.
const defaultGRPC = "127.0.0.1:8001"

// Clients when the command line does not say how many.
const (
	closedClients   = 16
	scheduleClients = 64
)

// benchFlags say what load is sent, where to and for how long.
type benchFlags struct {
	url, grpc, version string
	protocol           string
	rate               float64
	concurrency        int
	threads            int
	duration, warmup   time.Duration
	timeout            time.Duration
	rows               int64
	shapes             []string
	values             inputFlags
	asJSON             bool
}

func newBench() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "bench MODEL",
		Short: "Load a model of a server and measure how it answers",
		Long: "bench sends requests on schedule (--rate), each latency counted from the instant " +
			"at which the\nrequest was due, or, without --rate, as fast as the clients of " +
			"--concurrency get answers.\nInputs are made up unless values are given. It says " +
			"when the sender is the limit and not the\nserver, and ends with status 1 when " +
			"answers failed.",
		Example: "  millrace bench mlp --rate 2000 --duration 30s\n" +
			"  millrace bench mlp --concurrency 64 --protocol binary --rows 8\n" +
			"  millrace bench detector --shape x=1,3,320,320 --protocol grpc\n" +
			"  millrace bench tips --data table.csv --rows 1 --json",
		Args: oneModel,
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.run(cmd.Context(), args[0], cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	urlFlag(cmd, &f.url)
	f.values.register(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.grpc, "grpc", defaultGRPC,
		"address of gRPC, host:port or unix:/path; for --protocol grpc")
	flags.StringVar(&f.version, "model-version", "",
		"version of the model; empty lets the server pick")
	flags.StringVar(&f.protocol, "protocol", string(payload.JSON), "json, binary or grpc")
	flags.Float64Var(&f.rate, "rate", 0,
		"requests a second on schedule; 0 sends when the last answer is there")
	flags.IntVar(&f.concurrency, "concurrency", 0, fmt.Sprintf(
		"clients; with --rate the most requests under way; 0 is %d, with --rate %d",
		closedClients, scheduleClients))
	flags.IntVar(&f.threads, "threads", 1, "threads that send; for json and binary")
	flags.DurationVar(&f.duration, "duration", 10*time.Second, "time that is measured")
	flags.DurationVar(&f.warmup, "warmup", time.Second, "time before, sent and not measured")
	flags.DurationVar(&f.timeout, "timeout", 10*time.Second,
		"when a request counts as failed, from when it was due")
	flags.Int64Var(&f.rows, "rows", 0,
		"rows of a request; 0 is one, or all that --data has")
	flags.StringArrayVar(&f.shapes, "shape", nil,
		"NAME=1,3,224,224: size of an input with variable dimensions; may be repeated")
	flags.BoolVar(&f.asJSON, "json", false, "print JSON")
	cmd.ValidArgsFunction = completeModels(&f.url)
	_ = cmd.RegisterFlagCompletionFunc("protocol", cobra.FixedCompletions(
		[]string{string(payload.JSON), string(payload.Binary), string(payload.GRPC)},
		cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// measured is what bench prints as JSON.
type measured struct {
	Model         string           `json:"model"`
	Version       string           `json:"version,omitempty"`
	Encoding      payload.Protocol `json:"encoding"`
	Rows          int64            `json:"rows_per_request"`
	RowsPerSecond float64          `json:"rows_per_second"`
	BodyBytes     int              `json:"request_bytes"`
	bench.Result
}

func (f *benchFlags) run(ctx context.Context, name string, stdin io.Reader,
	stdout io.Writer) error {
	c, err := client.New(f.url)
	if err != nil {
		return err
	}
	m, err := c.Model(ctx, name, f.version)
	if err != nil {
		return modelError(err)
	}
	t := payload.Target{Protocol: payload.Protocol(f.protocol), Model: name, Version: f.version}
	requests, rows, err := f.requests(&t, specsOf(m.Inputs), stdin)
	if err != nil {
		return err
	}
	cfg, err := f.config(t.Protocol, requests)
	if err != nil {
		return err
	}
	began := time.Now()
	done := progress(os.Stderr, func() string {
		return fmt.Sprintf("sending, %v of %v", time.Since(began).Round(time.Second),
			f.warmup+f.duration)
	})
	r, err := bench.Run(ctx, cfg)
	done()
	if err != nil && r.OK+r.Failed == 0 {
		return fmt.Errorf("cannot measure: %w; the load goes to %s, which --url names, "+
			"and --grpc for gRPC", err, cfg.Address)
	}
	out := measured{name, f.version, t.Protocol, rows, r.Rate * float64(rows),
		len(requests[0].Body), r}
	if err := errors.Join(err, out.write(stdout, f.asJSON)); err != nil {
		return err
	}
	return failed(&r)
}

// failed returns an error when answers were not good, or there were none.
func failed(r *bench.Result) error {
	if r.Failed == 0 && r.OK > 0 {
		return nil
	}
	why := "nothing was answered; give it more time by --duration"
	if len(r.Errors) > 0 {
		why = "most often: " + values.Printable(r.Errors[0].Text)
	}
	return fmt.Errorf("%d of %d requests failed; %s", r.Failed, r.Failed+r.OK, why)
}

func (m *measured) write(w io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(m)
	}
	if _, err := fmt.Fprintf(w, "model %s, %s, %d rows a request of %d bytes, %.0f rows/s\n",
		values.Printable(m.Model), m.Encoding, m.Rows, m.BodyBytes, m.RowsPerSecond); err != nil {
		return err
	}
	return m.Print(w)
}

// requests makes what is sent and says how many rows each request has.
func (f *benchFlags) requests(t *payload.Target, specs []tensor.Spec,
	stdin io.Reader) ([]bench.Request, int64, error) {
	shapes, err := payload.ParseShapes(specs, f.shapes)
	if err != nil {
		return nil, 0, err
	}
	if f.rows < 0 {
		return nil, 0, fmt.Errorf("--rows is %d; give a number from 1 on", f.rows)
	}
	if f.values.file != "" {
		return f.fromFile(t, specs, stdin)
	}
	m := payload.Maker{Specs: specs, Shapes: shapes, Given: make(map[string]tensor.Tensor)}
	if f.values.given() {
		list, err := f.values.read(specs, stdin)
		if err != nil {
			return nil, 0, err
		}
		for _, in := range list {
			m.Given[in.Name] = in
		}
	}
	rows := f.rows
	for i := range specs {
		if shape := shapes[specs[i].Name]; rows == 0 && shape != nil && specs[i].BatchAxis >= 0 {
			rows = shape[specs[i].BatchAxis]
		}
	}
	rows = max(rows, 1)
	requests, err := t.Requests(&m, rows)
	return requests, rows, err
}

// fromFile sends what a file holds, as one request or in requests of --rows.
func (f *benchFlags) fromFile(t *payload.Target, specs []tensor.Spec,
	stdin io.Reader) ([]bench.Request, int64, error) {
	inputs, err := f.values.read(specs, stdin)
	if err != nil {
		return nil, 0, err
	}
	sets := [][]tensor.Tensor{inputs}
	if f.rows > 0 {
		if sets, err = payload.Split(inputs, f.rows); err != nil {
			return nil, 0, err
		}
	}
	var requests []bench.Request
	for _, set := range sets {
		r, err := t.Request(set)
		if err != nil {
			return nil, 0, err
		}
		requests = append(requests, r)
	}
	if len(requests) == 0 {
		return nil, 0, errors.New("--data has no rows")
	}
	rows := int64(1)
	if shape := sets[0][0].Shape; len(shape) > 0 {
		rows = shape[0]
	}
	return requests, rows, nil
}

func (f *benchFlags) config(p payload.Protocol, requests []bench.Request) (bench.Config, error) {
	c := bench.DefaultConfig()
	c.Requests, c.Rate, c.Workers = requests, f.rate, f.threads
	c.Warmup, c.Duration, c.Timeout = f.warmup, f.duration, f.timeout
	if c.Concurrency = f.concurrency; c.Concurrency == 0 {
		if c.Concurrency = closedClients; f.rate > 0 {
			c.Concurrency = scheduleClients
		}
	}
	var err error
	if c.Protocol, c.Address = bench.GRPC, f.grpc; p != payload.GRPC {
		c.Protocol = bench.HTTP
		c.Address, err = hostOf(f.url)
	}
	return c, err
}

// hostOf returns the address in a server's URL.
func hostOf(address string) (string, error) {
	if strings.HasPrefix(address, unixPrefix) || !strings.Contains(address, "://") {
		return address, nil
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" || strings.Trim(u.Path, "/") != "" {
		return "", fmt.Errorf("load cannot be sent to %s; give a server at http://host:port or "+
			"unix:/path, without TLS or a path", address)
	}
	if u.Port() == "" {
		return u.Host + ":80", nil
	}
	return u.Host, nil
}
