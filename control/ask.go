package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/rollout"
	"github.com/millrace-ml/millrace/registry/fetch"
)

// asker asks Prometheus for the guards of one rollout, in the background.
type asker struct {
	mu      sync.Mutex
	under   bool // a question is under way
	next    time.Time
	answers map[string]rollout.Query // that nobody has seen yet
}

// askInterval is how often Prometheus is asked: less than its usual interval of scrapes.
const askInterval = 10 * time.Second

// queries returns the answers that are new, and has them asked anew when it is time.
func (p *Plane) queries(
	r *run, guards []config.Guard, now time.Time,
) map[string]rollout.Query {
	a := &r.asker
	a.mu.Lock()
	defer a.mu.Unlock()
	answers := a.answers
	a.answers = nil
	var asked []config.Guard
	for _, g := range guards {
		if g.Metric == rollout.Prometheus {
			asked = append(asked, g)
		}
	}
	if len(asked) == 0 || a.under || now.Before(a.next) {
		return answers
	}
	a.under, a.next = true, now.Add(askInterval)
	p.spawn(func() {
		fresh := make(map[string]rollout.Query)
		for _, g := range asked {
			value, err := askPrometheus(p.ctx, g.Server, g.Query)
			q := rollout.Query{Value: value}
			if err != nil {
				q.Err = err.Error()
			}
			fresh[g.Query] = q
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.under, a.answers = false, fresh
	})
	return answers
}

// hostOf is the host of an address that the settings name, which may be asked wherever it lies.
func hostOf(address string) []string {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" {
		return nil
	}
	return []string{u.Hostname()}
}

// askPrometheus asks a server for the one value of a query, NaN where it has none.
func askPrometheus(ctx context.Context, server, query string) (float64, error) {
	cfg := fetch.DefaultConfig()
	cfg.Origin, cfg.Allow, cfg.Attempts = server, hostOf(server), 1
	cfg.Timeout, cfg.IdleTimeout = 5*time.Second, 5*time.Second
	client, err := fetch.New(cfg)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	var answer struct {
		Data struct {
			ResultType string          `json:"resultType"`
			Result     json.RawMessage `json:"result"`
		} `json:"data"`
	}
	address := strings.TrimSuffix(server, "/") + "/api/v1/query?query=" + url.QueryEscape(query)
	if err := client.JSON(ctx, fetch.Request{URL: address}, &answer); err != nil {
		var fault *fetch.Error
		var said struct{ Error string }
		if errors.As(err, &fault) && json.Unmarshal(fault.Body, &said) == nil && said.Error != "" {
			return 0, errors.New("the query is refused: " + said.Error)
		}
		return 0, err
	}
	return sample(answer.Data.ResultType, answer.Data.Result)
}

// sample reads the value of a result: a scalar, or a vector of one.
func sample(kind string, result json.RawMessage) (float64, error) {
	var value [2]any
	switch kind {
	case "scalar":
		if err := json.Unmarshal(result, &value); err != nil {
			return 0, err
		}
	case "vector":
		var all []struct{ Value [2]any }
		if err := json.Unmarshal(result, &all); err != nil {
			return 0, err
		}
		if len(all) == 0 {
			return math.NaN(), nil
		}
		if len(all) > 1 {
			return 0, fmt.Errorf("the query has %d values; sum or max makes one of them", len(all))
		}
		value = all[0].Value
	default:
		return 0, fmt.Errorf("the query gives a %s; a number is needed", kind)
	}
	text, _ := value[1].(string)
	return strconv.ParseFloat(text, 64)
}
