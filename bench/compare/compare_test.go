package compare

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/bench"
	"github.com/millrace-ml/millrace/bench/echo"
	"github.com/millrace-ml/millrace/bench/models"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"
)

// asServer makes the test binary be a server instead.
const asServer = "COMPARE_TEST_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(asServer) != "" {
		os.Exit(serveForTest())
	}
	os.Exit(m.Run())
}

// serveForTest runs echo servers until the process is told to end.
func serveForTest() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if os.Getenv(asServer) == "broken" {
		fmt.Fprintln(os.Stderr, "cannot find my models")
		return 1
	}
	h, err1 := net.Listen("tcp", "127.0.0.1:0")
	g, err2 := net.Listen("tcp", "127.0.0.1:0")
	if err := errors.Join(err1, err2); err != nil {
		return 1
	}
	fmt.Fprintf(os.Stderr, "level=INFO msg=listening http=%s grpc=%s\n", h.Addr(), g.Addr())
	if echo.Serve(ctx, h, g) != nil {
		return 1
	}
	return 0
}

// TestProcess: a program is started, used, weighed and ended.
func TestProcess(t *testing.T) {
	p, err := launch(t.Context(), []string{asServer + "=1"}, os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	stopped := false
	defer func() {
		if !stopped {
			p.stop()
		}
	}()
	l := &lab{}
	for _, e := range []encoding{asJSON, asBinary, asGRPC} {
		requests := payloads("m", mlpInputs, e)
		r, err := l.load(t.Context(), p, e, func(c *bench.Config) {
			c.Requests, c.Count, c.Duration, c.Warmup = toEcho(requests, e), 100, 0, 0
			c.Check = func(i int, body []byte) error {
				if string(body) != string(requests[i].Body) {
					return errors.New("other bytes")
				}
				return nil
			}
		})
		if err != nil || r.OK != 100 {
			t.Errorf("encoding %d: %+v, %v", e, r, err)
		}
	}
	if err := post(t.Context(), p, "/x", []byte("y")); err != nil {
		t.Error(err)
	}
	if n, err := p.memory(); err != nil || n < 5e6 || n > 1e9 {
		t.Errorf("memory of %d bytes, %v", n, err)
	}
	p.stop()
	stopped = true
	if _, err := p.memory(); err == nil {
		t.Error("it was not stopped")
	}
}

func TestProcessBroken(t *testing.T) {
	_, err := launch(t.Context(), []string{asServer + "=broken"}, os.Args[0])
	if err == nil || !strings.Contains(err.Error(), "cannot find my models") {
		t.Errorf("the reason is not told: %v", err)
	}
}

var exampleInputs = []models.Input{
	{Name: "x", Datatype: "FP32", Dims: []int64{2, models.Batch, 3}},
	{Name: "sr", Datatype: "INT64", Dims: []int64{}, Value: 16000},
}

func TestPayloads(t *testing.T) {
	type tensor struct {
		Name, Datatype string
		Shape          []int64
		Data           []float64
		Parameters     struct {
			Size int `json:"binary_data_size"`
		}
	}
	var body struct{ Inputs []tensor }
	f := func(text []byte) {
		t.Helper()
		if err := json.Unmarshal(text, &body); err != nil {
			t.Fatal(err)
		}
		x, sr := body.Inputs[0], body.Inputs[1]
		if fmt.Sprint(x.Shape) != "[2 1 3]" || x.Name != "x" || x.Datatype != "FP32" ||
			sr.Shape == nil ||
			len(sr.Shape) != 0 || sr.Datatype != "INT64" {
			t.Errorf("%s", text)
		}
	}
	inJSON := payloads("m", exampleInputs, asJSON)
	f(inJSON[0].Body)
	if len(body.Inputs[0].Data) != 6 || body.Inputs[1].Data[0] != 16000 || len(inJSON) < 2 ||
		string(inJSON[0].Body) == string(inJSON[1].Body) || inJSON[0].Path != "/v2/models/m/infer" {
		t.Errorf("%s", inJSON[0].Body)
	}

	binary := payloads("m", exampleInputs, asBinary)[0]
	head, err := strconv.Atoi(binary.Header["inference-header-content-length"])
	if err != nil || len(binary.Body) != head+6*4+8 {
		t.Fatalf("head of %d, %d bytes: %v", head, len(binary.Body), err)
	}
	f(binary.Body[:head])
	if body.Inputs[0].Parameters.Size != 24 || body.Inputs[1].Parameters.Size != 8 {
		t.Errorf("%s", binary.Body[:head])
	}

	message := payloads("m", exampleInputs, asGRPC)[0].Body
	counts := make(map[protowire.Number]int)
	for rest := message; len(rest) > 0; {
		number, kind, n := protowire.ConsumeField(rest)
		if n < 0 || kind != protowire.BytesType {
			t.Fatalf("field %d of kind %d: %v", number, kind, protowire.ParseError(n))
		}
		counts[number]++
		rest = rest[n:]
	}
	if counts[requestModel] != 1 || counts[requestInputs] != 2 || counts[requestRaw] != 2 {
		t.Errorf("fields %v", counts)
	}
}

// TestAnswers: mixed-up answers are found in each encoding.
func TestAnswers(t *testing.T) {
	f := func(e encoding, body string, want ...float64) {
		t.Helper()
		got, err := values([]byte(body), e)
		if err != nil || near(got, want) != nil {
			t.Errorf("%q: %v, %v", body, got, err)
		}
	}
	const half, two = "\x00\x00\x00\x3f", "\x00\x00\x00\x40"
	f(asJSON, `{"outputs":[{"name":"y","data":[0.5,2]},{"data":[1]}]}`, 0.5, 2, 1)
	f(asBinary, `{"outputs":[{"name":"y"}]}`+half+two, 0.5, 2)
	f(asGRPC, "\x00\x00\x00\x00"+half+two, 0, 0.5, 2)
	if _, err := values([]byte(`{"error":"no"}`), asBinary); err == nil {
		t.Error("an answer without outputs passes")
	}
	if _, err := values([]byte(`no`), asJSON); err == nil {
		t.Error("an answer that is no JSON passes")
	}
	if near([]float64{1, 2}, []float64{1, 2.0001}) != nil {
		t.Error("rounding counts as another answer")
	}
	for _, got := range [][]float64{{1, 2.1}, {1}, {}} {
		if near(got, []float64{1, 2}) == nil {
			t.Errorf("%v passes for another answer", got)
		}
	}
}

func TestMedian(t *testing.T) {
	if m := middle([]float64{3, 1, 2}); m != 2 {
		t.Error(m)
	}
	if m := middle([]float64{4, 1, 2, 3}); m != 2.5 {
		t.Error(m)
	}
	order := ""
	v, err := alternate(2,
		func() (float64, error) { order += "a"; return 1, nil },
		func() (float64, error) { order += "b"; return 2, nil })
	if err != nil || order != "abba" || fmt.Sprint(v) != "[[1 1] [2 2]]" {
		t.Errorf("%s %v %v", order, v, err)
	}
}

func TestReport(t *testing.T) {
	dir := t.TempDir()
	r := Report{
		Machine: machine(t.Context(), "1.2.3"), Began: time.Unix(0, 0), Took: time.Minute,
		Figures: []Figure{
			{Name: "speed", Value: 0.95, Bar: 0.9, AtLeast: true, Detail: "95 of 100"},
			{Name: "memory", Value: 50, Unit: "MB", Bar: 40},
			{Name: "lost", Error: "no | answer\nat all"},
		},
	}
	if r.OK() || !r.Figures[0].OK() || r.Figures[1].OK() || r.Figures[2].OK() {
		t.Error("wrong verdicts")
	}
	var b strings.Builder
	if err := r.Print(&b); err != nil || !strings.Contains(b.String(), "<= 40 MB") {
		t.Errorf("%v:\n%s", err, &b)
	}
	doc := filepath.Join(dir, "doc.md")
	if err := r.Renew(doc); err == nil {
		t.Error("a document that is not there was renewed")
	}
	write(t, doc, "head\n")
	if err := r.Renew(doc); err == nil || !strings.Contains(err.Error(), "lacks the lines") {
		t.Errorf("a document without marks: %v", err)
	}
	write(t, doc, "head\n"+markBegin+"old\n"+markEnd+"tail\n")
	for range 2 {
		if err := r.Renew(doc); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"head\n", "\ntail\n", "1970-01-01", "ONNX Runtime 1.2.3",
		"| speed | 0.95 | >= 0.9 | yes | 95 of 100 |", "| memory | 50 MB | <= 40 MB | NO |  |",
		`no \| answer at all`} {
		if strings.Count(string(text), want) != 1 {
			t.Errorf("%q stands there %d times:\n%s", want, strings.Count(string(text), want), text)
		}
	}
	file := filepath.Join(dir, "r.json")
	var back Report
	if err := r.WriteJSON(file); err != nil {
		t.Fatal(err)
	}
	text, err = os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &back)
	}
	if err != nil || len(back.Figures) != 3 || back.Figures[1] != r.Figures[1] {
		t.Errorf("%v: %+v", err, back)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestUnknownScenario(t *testing.T) {
	_, err := Run(t.Context(), Config{Only: "speed"})
	if err == nil || !strings.Contains(err.Error(), Names()[0]) {
		t.Errorf("%v", err)
	}
}

// TestPinned: one core while it lasts, all of them afterwards.
func TestPinned(t *testing.T) {
	cores := func() int {
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(0, &set); err != nil {
			t.Fatal(err)
		}
		return set.Count()
	}
	before := cores()
	within := 0
	failure := errors.New("of the function")
	if err := pinned(func() error { within = cores(); return failure }); err != failure {
		t.Error(err)
	}
	if after := cores(); within != 1 || after != before {
		t.Errorf("%d cores, then %d, then %d", before, within, after)
	}
}
