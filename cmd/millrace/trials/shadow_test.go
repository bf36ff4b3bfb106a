package trials_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// seen is what the admin port shows of a shadow.
type seen struct {
	Version         string
	Compared        uint64
	Agreed          uint64
	Offered         uint64
	Dropped, Errors map[string]uint64
	Disagreed       map[string]uint64
	Examples        []struct {
		ID      string
		Inputs  []seenTensor
		Stable  []seenTensor
		Shadow  []seenTensor
		Version string
	}
}

type seenTensor struct {
	Name string
	Data []float32
}

// shadows returns what is seen of the shadows of an endpoint.
func (p *process) shadows(endpoint string) (all []seen) {
	p.t.Helper()
	text := p.admin("/endpoints/" + endpoint + "/shadows")
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		p.t.Fatalf("%v: %s", err, text)
	}
	return all
}

// TestShadows runs a wrong model and a copy as shadows of one endpoint: the one
// disagrees with all answers, and there are examples; the other with none. One
// whose inputs differ is not run, and the log says why.
func TestShadows(t *testing.T) {
	t.Parallel()
	dir := repository(t, 1, 2, 1)
	simple := filepath.Join(dir, "models", "simple")
	if err := os.CopyFS(simple, os.DirFS("../../../configs/models/simple")); err != nil {
		t.Fatal(err)
	}
	file := settings(t, dir, `endpoints:
  - name: fraud
    model: sum
    stable: "1"
    shadows:
      - {name: wrong, version: "2", percent: 100}
      - {name: copy, version: "3", percent: 100}
      - {name: other, model: simple, percent: 100}
      - {name: nobody, version: "9", percent: 100}
`)
	p := launch(t, file)
	const requests = 100
	for i := range requests {
		r := request{endpoint: "fraud", x: float32(i), id: fmt.Sprint("id-", i)}
		if a := p.ask(r); a.version != "1" {
			t.Fatalf("the answer is %+v", a)
		}
	}
	var wrong, same, other, nobody seen
	eventually(t, "the copies are compared", func() bool {
		all := p.shadows("fraud")
		wrong, same, other, nobody = all[0], all[1], all[2], all[3]
		return wrong.Compared == requests && same.Compared == requests &&
			other.Dropped["incompatible"] == requests && nobody.Dropped["not_ready"] == requests
	})
	if wrong.Agreed != 0 || wrong.Disagreed["value"] != requests || same.Agreed != requests {
		t.Errorf("the wrong one agrees in %d of %d, the copy in %d", wrong.Agreed, requests,
			same.Agreed)
	}
	if len(wrong.Examples) != 20 || len(same.Examples) != 0 {
		t.Errorf("there are %d examples of the wrong one and %d of the copy",
			len(wrong.Examples), len(same.Examples))
	}
	for _, e := range wrong.Examples {
		x := e.Inputs[0].Data[0]
		if y, z := e.Stable[0].Data[0], e.Shadow[0].Data[0]; y != x+1 || z != x+2 ||
			e.ID != fmt.Sprint("id-", x) {
			t.Errorf("an example is %+v", e)
		}
	}
	f := func(shadow, result string, want float64) {
		t.Helper()
		got := p.metric("millrace_shadow_compared_total", `shadow="`+shadow+`"`,
			`result="`+result+`"`)
		if got != want {
			t.Errorf("%v answers of %s are counted as %s, want %v", got, shadow, result, want)
		}
	}
	f("wrong", "value", requests)
	f("wrong", "agreed", 0)
	f("copy", "agreed", requests)
	f("copy", "value", 0)
	wantTexts(t, p.Output(), "shadow pauses", "endpoint=fraud shadow=other", `"INPUT0"`,
		"shadow=nobody", "'sum' version 9 is not found")
	p.term()
}

// round sends requests on schedule from several clients for a while, and
// returns how long each took, counted from when it was due.
func round(p *process, x float32, span time.Duration) (times []time.Duration) {
	const clients, every = 2, 4 * time.Millisecond
	var mu sync.Mutex
	var wait sync.WaitGroup
	for c := range clients {
		wait.Go(func() {
			due := time.Now().Add(every * time.Duration(c) / clients)
			for end := due.Add(span); due.Before(end); due = due.Add(every) {
				<-time.After(time.Until(due))
				a, err := p.send(request{endpoint: "fraud", x: x})
				took := time.Since(due)
				if err != nil || a.status != 200 {
					p.t.Errorf("the answer is %+v, %v", a, err)
					return
				}
				mu.Lock()
				times = append(times, took)
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	return times
}

// quantile returns the value below which that share of a sorted list lies.
func quantile(times []time.Duration, share float64) time.Duration {
	return times[int(share*float64(len(times)-1))]
}

// hangs is an input with which a run of model hang takes hours.
const hangs = hangsFrom + 1e5

// takeTurns measures two servers, which take turns; the one whose turn it is not
// stands still. It returns the p99 of each, the median of its rounds.
func takeTurns(t *testing.T, servers *[2]*process) (p99 [2]time.Duration) {
	t.Helper()
	const rounds, span = 5, 600 * time.Millisecond
	var middle, tail [2][]time.Duration // p50 and p99 of each round
	for i := range 2 * rounds {
		p, k := servers[i%2], i%2
		servers[1-k].Signal(syscall.SIGSTOP)
		p.Signal(syscall.SIGCONT)
		times := round(p, hangs, span)
		if t.Failed() {
			t.FailNow()
		}
		slices.Sort(times)
		middle[k] = append(middle[k], quantile(times, 0.5))
		tail[k] = append(tail[k], quantile(times, 0.99))
	}
	for k, p := range servers {
		p.Signal(syscall.SIGCONT)
		slices.Sort(middle[k])
		slices.Sort(tail[k])
		p99[k] = quantile(tail[k], 0.5)
		t.Logf("%s: p50 %v, p99 %v, the medians of the rounds; p99 of all %v",
			[]string{"without a shadow", "with one that hangs"}[k], quantile(middle[k], 0.5),
			p99[k], tail[k])
	}
	return p99
}

// TestHang compares the latency of an endpoint with a shadow at 100 % that does
// not come back with that of the same endpoint without.
func TestHang(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds of load")
	}
	const endpoint = "endpoints:\n  - {name: fraud, model: sum, stable: '1', shadows: [%s]}\n"
	var dir string
	start := func(shadows string) *process {
		dir = repository(t, 1)
		write(t, filepath.Join(dir, "models", "hang", "1", "model.onnx"), hang())
		p := launch(t, settings(t, dir, fmt.Sprintf(endpoint, shadows)))
		round(p, 0, 300*time.Millisecond) // what is made once is made here
		return p
	}
	servers := [2]*process{start(""), start("{model: hang, percent: 100}")}
	// Others use the machine too: what is slow for their sake is not so thrice.
	for attempt := 1; ; attempt++ {
		p99 := takeTurns(t, &servers)
		if p99[1] <= 2*p99[0]+5*time.Millisecond {
			break
		}
		if attempt == 3 {
			t.Fatalf("p99 is %v with a shadow that hangs, %v without", p99[1], p99[0])
		}
	}
	p := servers[1]
	s := p.shadows("fraud")[0]
	t.Logf("of %d copies %v were dropped, %d compared, errors %v", s.Offered, s.Dropped,
		s.Compared, s.Errors)
	if s.Dropped["queue"] == 0 {
		t.Error("no copy was dropped: the shadow did not hang")
	}
	// Nobody who changes the settings waits for a run under way.
	p.ask(request{endpoint: "fraud", x: hangs})
	settings(t, dir, fmt.Sprintf(endpoint, ""))
	began := time.Now()
	wantTexts(t, p.hangup(), "settings taken over")
	p.ask(request{endpoint: "fraud", x: hangs})
	reloaded := time.Since(began)
	for _, p := range servers {
		p.term()
	}
	t.Logf("the shadow is taken away in %v, the servers have ended %v after", reloaded,
		time.Since(began)-reloaded)
	if reloaded > 2*time.Second {
		t.Errorf("taking the shadow away takes %v", reloaded)
	}
}
