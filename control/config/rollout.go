package config

import (
	"fmt"
	"slices"
	"time"
)

// CanaryShadow is what a new version answers before it gets traffic: copies of requests.
type CanaryShadow struct {
	// Percent of the endpoint's requests that are copied. 0 leaves the stage out.
	Percent float64 `yaml:"percent" min:"0" max:"100"`
	// Copies that are compared before the first step. 0 is 1000.
	Requests int `yaml:"requests" min:"0" max:"1000000000"`
	// As of a shadow: numbers agree when they differ by at most absolute + relative * the stable
	// one's size. A version that was trained anew needs room here. 0 is what fits the datatype.
	Absolute float64 `yaml:"absolute" min:"0" max:"1e300"`
	// See absolute.
	Relative float64 `yaml:"relative" min:"0" max:"1e300"`
}

// CanaryStep is what each step takes.
type CanaryStep struct {
	// The least time. 0 is 1m.
	MinTime time.Duration `yaml:"min_time" min:"0s" max:"720h"`
	// The time after which a step without enough evidence pauses for a person. 0 is 24h.
	MaxTime time.Duration `yaml:"max_time" min:"0s" max:"8760h"`
	// The least requests of the canary. 0 is 100.
	MinRequests int `yaml:"min_requests" min:"0" max:"1000000000"`
}

// Guard is a test that a new version has to stand.
type Guard struct {
	// What is compared: `errors`, `latency`, `disagreement` with the stable version, `reward`
	// from feedback, or a `prometheus` query.
	Metric string `yaml:"metric" enum:"errors,latency,disagreement,reward,prometheus"`
	// Of latency. 0 is 0.99.
	Quantile float64 `yaml:"quantile" min:"0" max:"1"`
	// Latency that is allowed, as a multiple of the stable version's. 0 is 1.25.
	Ratio float64 `yaml:"ratio" min:"0" max:"1000"`
	// By how much the canary may be worse and still be promoted: a share of the stable
	// version's errors or slow requests, or a difference of rewards. 0 is the metric's default.
	Margin float64 `yaml:"margin" min:"0" max:"1000"`
	// The rate of errors or disagreement, or the value of the query, that is allowed. 0 is the
	// metric's default.
	Max float64 `yaml:"max" min:"0" max:"1e300"`
	// PromQL, for prometheus: its one value must not be above max.
	Query string `yaml:"query"`
	// Address of the Prometheus server, for prometheus.
	Server string `yaml:"server"`
	// Share of the error budget beside those of the other guards. 0 is 1.
	Weight float64 `yaml:"weight" min:"0" max:"1000"`
}

// Then is what follows a promotion, at the model's source.
type Then struct {
	// The alias that moves to the version.
	Alias string `yaml:"alias"`
}

// Freeze is a time in which no rollout begins or goes a step further.
type Freeze struct {
	// Days of the week, such as `sat`. Empty is all.
	Days []string `yaml:"days"`
	// Time of the day, such as 22:00.
	From string `yaml:"from" check:"filled"`
	// Time of the day; before from it is on the next.
	To string `yaml:"to" check:"filled"`
	// Time zone, such as Europe/Berlin. Empty is UTC.
	Zone string `yaml:"zone"`
}

// Hook is asked before a rollout goes on, by a webhook signed after Standard Webhooks.
type Hook struct {
	// What answers 2xx to go on.
	URL string `yaml:"url" check:"filled"`
	// When: `start`, `step`, `promotion`, `end`. Empty is all.
	On []string `yaml:"on"`
	// Environment variable with the secret, `whsec_...`.
	SecretEnv string `yaml:"secret_env" check:"filled"`
}

// Notice says who is told of what happens.
type Notice struct {
	// How it is written.
	Kind string `yaml:"kind" enum:"slack,teams,webhook"`
	// Environment variable with the address, which is a secret.
	URLEnv string `yaml:"url_env" check:"filled"`
	// Environment variable with the secret that a webhook is signed with, `whsec_...`. Empty leaves
	// it unsigned.
	SecretEnv string `yaml:"secret_env"`
}

// Names of the moments that hooks are asked at, and of the days of a freeze.
var (
	hookMoments = []string{"start", "step", "promotion", "end"}
	days        = []string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"}
)

// canaries holds what rollouts are to do against each other.
func (c *checker) canary(k *Canary, key string) {
	switch {
	case k.Version == "" && k.Watch == "":
		c.fault(key, "tries nothing; give it a version, or an alias to watch")
	case k.Version != "" && k.Watch != "":
		c.fault(key+".watch", "stands beside version; a version is fixed, watch an alias instead")
	case k.Watch == "":
		c.fixed(k, key)
		return
	case k.Weight != 0:
		c.fault(key+".weight", "is set by the rollout; give steps")
	case k.Watch[0] != '@' || len(k.Watch) == 1:
		c.fault(key+".watch", "is %q, must be an alias such as \"@challenger\"", k.Watch)
	}
	before := 0.0
	for i, s := range k.Steps {
		if s <= before || s > 100 {
			c.fault(fmt.Sprintf("%s.steps[%d]", key, i),
				"is %v, must be above the step before (%v) and at most 100", s, before)
		}
		before = s
	}
	for i, g := range k.Guards {
		at := fmt.Sprintf("%s.guards[%d]", key, i)
		if (g.Metric == "prometheus") != (g.Query != "") {
			c.fault(at+".query", "is for the metric prometheus, which needs it")
		}
		if (g.Metric == "prometheus") != (g.Server != "") {
			c.fault(at+".server", "is for the metric prometheus, which needs it")
		}
		c.url(at+".server", g.Server, "http", "https")
	}
	for i, h := range k.Hooks {
		at := fmt.Sprintf("%s.hooks[%d]", key, i)
		c.url(at+".url", h.URL, "https", "http")
		c.words(at+".on", h.On, hookMoments)
	}
	c.notices(k.Notify, key+".notify")
	for i, f := range k.Freeze {
		c.freeze(f, fmt.Sprintf("%s.freeze[%d]", key, i))
	}
}

// notices wants only those to be signed that are read by programs.
func (c *checker) notices(all []Notice, key string) {
	for i, n := range all {
		if n.SecretEnv != "" && n.Kind != "webhook" {
			c.fault(fmt.Sprintf("%s[%d].secret_env", key, i), "is for the kind webhook; %s checks "+
				"no signature", n.Kind)
		}
	}
}

// watched holds an endpoint against its rollouts.
func (c *checker) watched(e *Endpoint, key string) {
	switch {
	case e.Canary.Watch == "":
	case e.Stable == "":
		c.fault(key+".stable", "is empty, which is the latest version; beside canary.watch it "+
			"must be a version or an alias, since a new version would be stable at once")
	case e.Stable == e.Canary.Watch:
		c.fault(key+".canary.watch", "is %q, as stable is; watch another alias", e.Canary.Watch)
	case e.Bandit != nil:
		c.fault(key+".bandit", "moves the weights that a rollout sets; take canary.watch out")
	case slices.ContainsFunc(e.Arms, func(a Arm) bool { return a.Name == canary }) ||
		slices.ContainsFunc(e.Shadows, func(s Shadow) bool { return s.Name == canary }):
		c.fault(key, "has an arm or a shadow of the name %q, which is the rollout's; "+
			"give it another", canary)
	case e.Canary.Model != "" && e.Canary.Model != e.Model:
		c.fault(key+".canary.model", "is %q, a rollout is of versions of one model",
			e.Canary.Model)
	}
}

// fixed refuses what only a rollout has beside a fixed version.
func (c *checker) fixed(k *Canary, key string) {
	if len(k.Steps)+len(k.Guards)+len(k.Hooks)+len(k.Notify)+len(k.Freeze) > 0 ||
		k.Strategy != "" || k.Approve || k.Then.Alias != "" || k.Shadow.Percent > 0 {
		c.fault(key, "has keys of a rollout beside a fixed version; "+
			"put watch: \"@alias\" in the place of version")
	}
}

func (c *checker) freeze(f Freeze, key string) {
	c.words(key+".days", f.Days, days)
	for _, t := range [...]struct{ key, text string }{{".from", f.From}, {".to", f.To}} {
		if _, err := time.Parse("15:04", t.text); err != nil && t.text != "" {
			c.fault(key+t.key, "is %q, must be a time such as 22:00", t.text)
		}
	}
	if _, err := time.LoadLocation(f.Zone); err != nil {
		c.fault(key+".zone", "is %q, must be a time zone such as Europe/Berlin", f.Zone)
	}
}

// words wants each of a list to be one of the allowed.
func (c *checker) words(key string, list, allowed []string) {
	for i, w := range list {
		c.oneOf(fmt.Sprintf("%s[%d]", key, i), w, allowed)
	}
}

// Frozen says whether a moment lies in the freeze.
func (f *Freeze) Frozen(now time.Time) bool {
	zone, err := time.LoadLocation(f.Zone)
	if err != nil {
		return false
	}
	now = now.In(zone)
	from, to := minutes(f.From), minutes(f.To)
	at := now.Hour()*60 + now.Minute()
	if from <= to {
		return at >= from && at < to && f.on(now.Weekday())
	}
	if at >= from {
		return f.on(now.Weekday())
	}
	return at < to && f.on(now.AddDate(0, 0, -1).Weekday())
}

func (f *Freeze) on(day time.Weekday) bool {
	if len(f.Days) == 0 {
		return true
	}
	for _, d := range f.Days {
		if d == days[(day+6)%7] {
			return true
		}
	}
	return false
}

// minutes are those since midnight of a time of the day that Validate has checked.
func minutes(text string) int {
	t, _ := time.Parse("15:04", text)
	return t.Hour()*60 + t.Minute()
}
