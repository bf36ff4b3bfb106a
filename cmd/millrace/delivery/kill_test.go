package delivery_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/cmd/millrace/apiclient"
	"github.com/millrace-ml/millrace/cmd/millrace/processtest"
	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/rollout"
)

// Sockets in place of ports: they are the same after each start, and nobody else takes them.
const killSettings = `
server: {http: 'unix:%[1]s/http', grpc: '', admin: 'unix:%[1]s/admin', data: data}
sources: [{name: inbox, push: true}]
models: [{name: adds, source: inbox, batching: {max_batch_size: 1}}]
endpoints:
  - name: adds
    stable: "@champion"
    canary:
      watch: "@challenger"
      steps: [10, 30, 60]
      step: {min_time: 200ms, min_requests: 20}
      guards: [{metric: errors}]
      then: {alias: champion}
`

// faultyFrom is the input from which on faulty versions of adds fail.
const faultyFrom = 8

// sound says what becomes of version n: each second one fails on some inputs.
func sound(n int) bool { return n%2 == 1 }

// kills is how often the server is killed; MILLRACE_KILLS says otherwise.
func kills(t *testing.T) int {
	text, ok := os.LookupEnv("MILLRACE_KILLS")
	if !ok {
		return 200
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("MILLRACE_KILLS: %v", err)
	}
	return n
}

// siege is a server that is killed again and again, and those who use it meanwhile.
type siege struct {
	dir      string
	client   *http.Client // of the admin socket
	admin    *apiclient.Client
	traffic  *load
	operator *operator
	pusher   *pusher
	seen     map[string]rollout.State // by name, at the kill before
	moving   int                      // kills while a rollout was under way
}

// TestKill kills the server at random instants while versions are pushed and tried on live
// traffic and an endpoint is changed. Whatever was acknowledged is there afterwards, what is in
// force is what was decided last, and no answer is wrong.
func TestKill(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes; make test runs it")
	}
	t.Parallel()
	s := besiege(t)
	ctx, cancel := context.WithCancel(context.Background())
	var users sync.WaitGroup
	defer users.Wait()
	defer cancel()
	defer s.traffic.end()
	users.Go(func() { s.operator.run(ctx) })
	users.Go(func() { s.pusher.run(ctx) })
	rng := rand.New(rand.NewPCG(5, 200))
	began := time.Now()
	for i := range kills(t) {
		if !t.Run(strconv.Itoa(i), func(t *testing.T) { s.life(t, rng) }) {
			t.FailNow() // what follows would only repeat it
		}
	}
	t.Logf("%d kills in %v, of which %d hit a rollout", kills(t),
		time.Since(began).Round(time.Second), s.moving)
	t.Run("end", func(t *testing.T) { s.end(t) })
}

func besiege(t *testing.T) *siege {
	s := &siege{dir: t.TempDir(), seen: make(map[string]rollout.State)}
	text := fmt.Sprintf(killSettings, s.dir)
	err := os.WriteFile(filepath.Join(s.dir, "millrace.yaml"), []byte(text), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	admin := "unix:" + filepath.Join(s.dir, "admin")
	client := func(user string) *apiclient.Client {
		c, err := apiclient.New(admin, user)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	s.admin, s.client = client("test"), onSocket(filepath.Join(s.dir, "admin"))
	s.operator = &operator{admin: client("operator"), acked: make(map[uint64]int)}
	s.pusher = &pusher{admin: client("pusher"), dir: t.TempDir()}
	s.traffic = &load{client: onSocket(filepath.Join(s.dir, "http")), check: checkSum,
		url: "http://server/v2/models/adds/infer"}
	for x := range faultyFrom + 2 {
		s.traffic.rows = append(s.traffic.rows, infer("x", []float32{float32(x)}))
	}
	return s
}

// onSocket returns a client of a Unix socket.
func onSocket(path string) *http.Client {
	return &http.Client{Timeout: processtest.Patience, Transport: &http.Transport{
		MaxIdleConnsPerHost: 8,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}}}
}

// checkSum holds an answer against the version that it says to be of: version n adds n.
func checkSum(a answer) string {
	faulty := a.row >= faultyFrom
	if a.status == http.StatusUnprocessableEntity && faulty {
		return ""
	}
	if a.status != http.StatusOK {
		return "this status is not expected"
	}
	var said struct{ Outputs []struct{ Data []float64 } }
	n, err := strconv.Atoi(a.version)
	if err == nil {
		err = json.Unmarshal(a.body, &said)
	}
	switch {
	case err != nil:
		return err.Error()
	case !sound(n) && faulty:
		return "the version fails on this row"
	case len(said.Outputs) != 1 || len(said.Outputs[0].Data) != 1 ||
		said.Outputs[0].Data[0] != float64(a.row+n):
		return "this is not the sum"
	}
	return ""
}

// life starts the server, looks at it and kills it.
func (s *siege) life(t *testing.T, rng *rand.Rand) {
	p := processtest.Start(t, command("serve", "-c", filepath.Join(s.dir, "millrace.yaml")))
	instant := time.Duration(rng.Int64N(int64(900 * time.Millisecond)))
	if rng.IntN(5) == 0 && s.traffic.stop != nil {
		instant /= 4 // while it starts; the first life has to make its files
	} else {
		p.WaitListening()
		s.serves(t)
	}
	<-time.After(instant)
	p.Kill()
	s.inspect(t)
}

// serves looks at a server that has just started. The first life waits for its first version.
func (s *siege) serves(t *testing.T) {
	if s.traffic.stop == nil {
		until(t, "the first version serves", processtest.Patience, func() bool {
			a, err := s.traffic.ask(0)
			return err == nil && a.status == http.StatusOK
		})
		s.traffic.wrong.Store(nil) // there was none to serve
		s.traffic.start(2)
	}
	if a, err := s.traffic.ask(0); err != nil || a.status != http.StatusOK {
		t.Errorf("the first request is answered with %d %s, %v", a.status, a.body, err)
	}
	s.inForce(t)
	s.faults(t)
}

// faults tells what those who use the server have found.
func (s *siege) faults(t *testing.T) {
	if wrong := s.traffic.wrong.Load(); wrong != nil {
		t.Error(*wrong)
	}
	if text := s.operator.fault(); text != "" {
		t.Error("operator: " + text)
	}
	if text := s.pusher.fault(); text != "" {
		t.Error("pusher: " + text)
	}
}

// end lets all come to a verdict and looks at what is left.
func (s *siege) end(t *testing.T) {
	s.pusher.over.Store(true)
	p := processtest.Start(t, command("serve", "-c", filepath.Join(s.dir, "millrace.yaml")))
	p.WaitListening()
	defer func() {
		if t.Failed() {
			t.Log(s.state())
		}
	}()
	until(t, "the last version has a verdict", processtest.Patience, func() bool {
		return s.pusher.idle.Load() || s.pusher.fault() != ""
	})
	s.inForce(t)
	s.faults(t)
	changes := s.audited(t)
	list, err := s.admin.Rollouts(t.Context(), "adds", 0)
	if err != nil {
		t.Fatal(err)
	}
	verdicts := make(map[rollout.Verdict]int)
	for _, r := range list.Items {
		status := decode[control.RolloutStatus](t, r.Status)
		verdicts[status.State.Verdict]++
		n, err := strconv.Atoi(status.State.Canary.Version)
		if err != nil || (status.State.Verdict == rollout.Successful) != sound(n) ||
			status.State.Phase != rollout.Done {
			t.Errorf("%s: %s", r.Name, status.State.Sentence())
		}
	}
	if verdicts[rollout.Successful] == 0 || verdicts[rollout.Failed] == 0 {
		t.Errorf("the verdicts are %v", verdicts)
	}
	t.Logf("verdicts %v, %d versions pushed, %d changes acknowledged; %d requests answered, "+
		"%d failed on faulty versions, %d found no server", verdicts, s.pusher.acked,
		changes, s.traffic.status(http.StatusOK),
		s.traffic.status(http.StatusUnprocessableEntity), s.traffic.lost.Load())
}

// state tells how far all has come.
func (s *siege) state() (text string) {
	s.pusher.note(func() {
		text = fmt.Sprintf("version %d is acknowledged of %d; ", s.pusher.acked, s.pusher.tried)
	})
	text += fmt.Sprintf("%d requests answered, %d found no server; ",
		s.traffic.status(http.StatusOK), s.traffic.lost.Load())
	list, err := s.admin.Rollouts(context.Background(), "adds", 1)
	if err != nil {
		return text + err.Error()
	}
	for _, r := range list.Items {
		text += string(r.Status)
	}
	return text
}

// decode reads the status of a resource, which has none in the beginning.
func decode[T any](t *testing.T, text []byte) (v T) {
	t.Helper()
	if len(text) == 0 {
		return v
	}
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

// timeoutOf returns the timeout of an endpoint's spec in milliseconds.
func timeoutOf(spec json.RawMessage) int {
	e, err := config.Decode[config.Endpoint](spec)
	if err != nil {
		return -1
	}
	return int(e.Timeout.Milliseconds())
}
