package config

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/gateway/route"
)

// Endpoint is what clients call. It sends each request to a version of a model.
type Endpoint struct {
	// What clients call. An endpoint stands before a model of the same name.
	Name string `yaml:"name" check:"filled"`
	// The model whose versions answer. Empty is the endpoint's name.
	Model string `yaml:"model"`
	// The version that serves, or `@alias`. Empty is the latest that is ready.
	Stable string  `yaml:"stable"`
	Canary *Canary `yaml:"canary"`
	// More versions that share the traffic, for A/B tests and bandits. The stable version
	// gets what they leave.
	Arms []Arm `yaml:"arms"`
	// Requests with certain headers or gRPC metadata, before all weights. The first that
	// matches holds.
	Rules  []Rule  `yaml:"rules"`
	Sticky *Sticky `yaml:"sticky"`
	Bandit *Bandit `yaml:"bandit"`
	// Versions that get copies of requests. Their answers are compared and thrown away.
	Shadows []Shadow `yaml:"shadows"`
	// Time for the answer, where a request says nothing. 0 is that of the server.
	Timeout time.Duration `yaml:"timeout" min:"0s" max:"24h"`
	// Priority of requests that bring none, 1 the highest. 0 is the model's default.
	Priority int  `yaml:"priority" min:"0" max:"64"`
	Admit    Rate `yaml:"limits"`
}

// Canary is the version on trial: either a fixed version with a share of the traffic, or, by
// watch, each new version that an alias names, in a rollout.
type Canary struct {
	// The model of the version. Empty is the endpoint's.
	Model string `yaml:"model"`
	// A version or `@alias`, with a weight that stays.
	Version string `yaml:"version"`
	// Percent of the traffic, in steps of 0.01, beside version.
	Weight float64 `yaml:"weight" min:"0" max:"100"`
	// An alias such as `@challenger`: a new version there starts a rollout.
	Watch string `yaml:"watch"`
	// `canary` goes by steps, `blue_green` from the shadow stage to all traffic at once,
	// `immediate` without a trial. Empty is canary.
	Strategy string       `yaml:"strategy" enum:",canary,blue_green,immediate"`
	Shadow   CanaryShadow `yaml:"shadow"`
	// Percent of the traffic at each step. Empty is 1, 5, 25, 50.
	Steps []float64  `yaml:"steps" min:"0" max:"100"`
	Step  CanaryStep `yaml:"step"`
	// Tests of the new version. Empty is errors, and latency at its default.
	Guards []Guard `yaml:"guards"`
	// The chance that a sound version is never rolled back, however long one looks. 0 is 0.95.
	Confidence float64 `yaml:"confidence" min:"0" max:"0.9999"`
	// A person has to approve the promotion.
	Approve bool `yaml:"approve"`
	// Inputs and outputs may differ from those of the stable version.
	AllowSignatureChange bool `yaml:"allow_signature_change"`
	// How long the former stable version stays loaded for an undo. 0 is 1h.
	KeepWarm time.Duration `yaml:"keep_warm" min:"0s" max:"720h"`
	Then     Then          `yaml:"then"`
	Freeze   []Freeze      `yaml:"freeze"`
	Hooks    []Hook        `yaml:"hooks"`
	Notify   []Notice      `yaml:"notify"`
}

// Arm is one of several versions that share an endpoint's traffic.
type Arm struct {
	// Name in answers, metrics and rules.
	Name string `yaml:"name" check:"filled"`
	// The model of the version. Empty is the endpoint's.
	Model string `yaml:"model"`
	// A version or `@alias`. Empty is the latest that is ready.
	Version string `yaml:"version"`
	// Percent of the traffic, in steps of 0.01. With a bandit it is where the weight begins.
	Weight float64 `yaml:"weight" min:"0" max:"100"`
}

// Rule is requests with a certain header. One of exact, prefix and regexp is set.
type Rule struct {
	// Name of the header or of the gRPC metadata.
	Header string `yaml:"header" check:"filled"`
	// The whole value.
	Exact string `yaml:"exact"`
	// How the value begins.
	Prefix string `yaml:"prefix"`
	// A regular expression (RE2) for the whole value.
	Regexp string `yaml:"regexp"`
	// The arm that answers: `stable`, `canary`, or the name of one.
	Arm string `yaml:"arm" check:"filled"`
}

// Sticky says what keeps a client with its version. One of header, cookie and input is set.
type Sticky struct {
	// Name of a header or of gRPC metadata.
	Header string `yaml:"header"`
	// Name of a cookie.
	Cookie string `yaml:"cookie"`
	// Name of an input: its first element.
	Input string `yaml:"input"`
	// How long a cookie lives that the server sets where a client has none. 0 sets none.
	SetCookie time.Duration `yaml:"set_cookie" min:"0s" max:"17520h"`
	// Endpoints with the same salt agree on each client. Empty is the endpoint's name.
	Salt string `yaml:"salt"`
}

// Bandit says how rewards move the weights of the arms.
type Bandit struct {
	// How weights follow from rewards.
	Policy string `yaml:"policy" enum:"thompson,epsilon_greedy"`
	// Percent of the traffic that goes to all arms alike, with epsilon_greedy.
	Epsilon float64 `yaml:"epsilon" min:"0" max:"100"`
	// Time after which a reward counts half. 0 is never.
	HalfLife time.Duration `yaml:"half_life" min:"0s" max:"8760h"`
	// Least percent of each arm.
	Floor float64 `yaml:"floor" min:"0" max:"50"`
	// Most percent of each arm. 0 is no bound.
	Ceiling float64 `yaml:"ceiling" min:"0" max:"100"`
	// How often the weights follow. 0 is 10s.
	Interval time.Duration `yaml:"interval" min:"0s" max:"24h"`
}

// Shadow is a version that gets copies of requests.
type Shadow struct {
	// Name in metrics. Empty is the version.
	Name string `yaml:"name"`
	// The model of the version. Empty is the endpoint's.
	Model string `yaml:"model"`
	// A version or `@alias`. Empty is the latest that is ready.
	Version string `yaml:"version"`
	// Percent of the endpoint's requests.
	Percent float64 `yaml:"percent" min:"0" max:"100"`
	// Numbers agree when they differ by at most absolute + relative * the stable one's size.
	// 0 is what fits the datatype.
	Absolute float64 `yaml:"absolute" min:"0" max:"1e300"`
	// See absolute.
	Relative float64 `yaml:"relative" min:"0" max:"1e300"`
	// Best classes that are compared as a set. 0 is 5.
	TopK int `yaml:"top_k" min:"0" max:"1000"`
}

// Rate is how many requests an endpoint takes. What is above is refused at once. 0 is no bound.
type Rate struct {
	// Requests in flight.
	Concurrency int `yaml:"concurrency" min:"0" max:"1000000"`
	// Learn the concurrency from the latency; concurrency is then the most that is tried.
	Adaptive bool `yaml:"adaptive"`
	// Requests a second.
	Requests float64 `yaml:"requests_per_second" min:"0" max:"1e9"`
	// Rows a second.
	Rows float64 `yaml:"rows_per_second" min:"0" max:"1e9"`
}

// Names of the arms that a file does not name.
const (
	stable = "stable"
	canary = "canary"
)

// bandits change weights this often where a file says nothing.
const banditInterval = 10 * time.Second

// Specs returns the endpoints as routing takes them.
func (c *Config) Specs() []route.Spec {
	specs := make([]route.Spec, len(c.Endpoints))
	for i := range c.Endpoints {
		specs[i] = c.Endpoints[i].Spec()
	}
	return specs
}

// Aliases returns the names of versions of all models.
func (c *Config) Aliases() route.Aliases {
	all := make(route.Aliases)
	for i := range c.Models {
		if m := &c.Models[i]; len(m.Aliases) > 0 {
			all[m.Name] = m.Aliases
		}
	}
	return all
}

// Spec returns the endpoint as routing takes it. The canary of a rollout is not in it, unless
// rules send requests there: then it is the version that is watched, without a weight.
func (e *Endpoint) Spec() route.Spec {
	model := cmp.Or(e.Model, e.Name)
	s := route.Spec{Name: e.Name, Limits: route.LimitSpec{
		Timeout: e.Timeout, Concurrency: e.Admit.Concurrency, Adaptive: e.Admit.Adaptive,
		Requests: e.Admit.Requests, Rows: e.Admit.Rows, Priority: e.Priority,
	}}
	s.Arms = append(s.Arms, route.ArmSpec{Name: stable, Model: model, Version: e.Stable})
	if k := e.Canary; k != nil && k.Watch == "" {
		s.Arms = append(s.Arms, route.ArmSpec{Name: canary, Model: cmp.Or(k.Model, model),
			Version: k.Version, Weight: share(k.Weight)})
	} else if k != nil && slices.ContainsFunc(e.Rules, func(r Rule) bool {
		return r.Arm == canary
	}) {
		s.Arms = append(s.Arms, route.ArmSpec{Name: canary, Model: model, Version: k.Watch})
	}
	for _, a := range e.Arms {
		s.Arms = append(s.Arms, route.ArmSpec{Name: a.Name, Model: cmp.Or(a.Model, model),
			Version: a.Version, Weight: share(a.Weight)})
	}
	for _, r := range e.Rules {
		s.Rules = append(s.Rules, route.RuleSpec(r))
	}
	if k := e.Sticky; k != nil {
		s.Sticky = &route.StickySpec{Header: k.Header, Cookie: k.Cookie, Input: k.Input,
			Set: k.SetCookie, Salt: k.Salt}
	}
	if b := e.Bandit; b != nil {
		s.Bandit = &route.BanditSpec{Policy: b.Policy, Epsilon: b.Epsilon / 100,
			HalfLife: b.HalfLife, Floor: share(b.Floor), Ceiling: share(b.Ceiling),
			Interval: b.Interval}
		if b.Interval == 0 {
			s.Bandit.Interval = banditInterval
		}
	}
	for _, k := range e.Shadows {
		s.Shadows = append(s.Shadows, route.ShadowSpec{Name: k.Name, Model: cmp.Or(k.Model, model),
			Version: k.Version, Percent: k.Percent, Absolute: k.Absolute, Relative: k.Relative,
			TopK: k.TopK})
	}
	return s
}

// share makes hundredths of percent.
func share(percent float64) int { return int(math.Round(percent * route.FullWeight / 100)) }

// endpoints holds the endpoints against what routing asks of them.
func (c *checker) endpoints(all *Config) {
	models := make(map[string]*Model, len(all.Models))
	for i := range all.Models {
		models[all.Models[i].Name] = &all.Models[i]
	}
	for i := range all.Endpoints {
		e := &all.Endpoints[i]
		key := fmt.Sprintf("endpoints[%d]", i)
		c.step(key, e)
		if e.Canary != nil {
			c.canary(e.Canary, key+".canary")
			c.watched(e, key)
		}
		c.aliases(models, e, key)
	}
	faulty := make(map[string]bool)
	for _, f := range c.faults {
		faulty[f.Key] = true
	}
	_, err := route.New(all.Specs(), all.Aliases())
	for _, line := range lines(err) {
		key, text, ok := strings.Cut(line, ": ")
		if key = written(all.Endpoints, key); ok && !faulty[key] {
			c.fault(key, "%s", text)
		}
	}
}

// aliases refuses aliases that nobody can know: those of a model without a source are
// all in the settings.
func (c *checker) aliases(models map[string]*Model, e *Endpoint, key string) {
	check := func(key, name, version string) {
		alias, ok := strings.CutPrefix(version, "@")
		name = cmp.Or(name, e.Model, e.Name)
		m := models[name]
		if !ok || m != nil && m.Source != "" {
			return
		}
		known := "none"
		if m != nil {
			if _, ok := m.Aliases[alias]; ok {
				return
			}
			if len(m.Aliases) > 0 {
				known = fmt.Sprintf("%q", slices.Sorted(maps.Keys(m.Aliases)))
			}
		}
		c.fault(key, "model %q has no alias %q; it has %s", name, alias, known)
	}
	check(key+".stable", "", e.Stable)
	if k := e.Canary; k != nil {
		check(key+".canary.version", k.Model, k.Version)
		check(key+".canary.watch", k.Model, k.Watch)
	}
	for i := range e.Arms {
		check(fmt.Sprintf("%s.arms[%d].version", key, i), e.Arms[i].Model, e.Arms[i].Version)
	}
	for i := range e.Shadows {
		check(fmt.Sprintf("%s.shadows[%d].version", key, i), e.Shadows[i].Model,
			e.Shadows[i].Version)
	}
}

// step refuses weights between the steps of 0.01 %.
func (c *checker) step(key string, e *Endpoint) {
	check := func(key string, percent float64) {
		if steps := percent * route.FullWeight / 100; math.Abs(steps-math.Round(steps)) > 1e-6 {
			c.fault(key, "is %v, must be a multiple of 0.01", percent)
		}
	}
	if e.Canary != nil {
		check(key+".canary.weight", e.Canary.Weight)
	}
	for i := range e.Arms {
		check(fmt.Sprintf("%s.arms[%d].weight", key, i), e.Arms[i].Weight)
	}
	if e.Bandit != nil {
		check(key+".bandit.floor", e.Bandit.Floor)
		check(key+".bandit.ceiling", e.Bandit.Ceiling)
	}
}

// lines returns the lines of an error's text.
func lines(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

var armKey = regexp.MustCompile(`\.arms\[(\d+)\](\.\w+)?`)

// inFile has the keys whose names differ.
var inFile = map[string]string{
	".sticky.set":      ".sticky.set_cookie",
	".limits.requests": ".limits.requests_per_second",
	".limits.rows":     ".limits.rows_per_second",
}

// written returns the key that a file has for one of routing's: there the
// stable version and the canary are the first arms.
func written(endpoints []Endpoint, key string) string {
	for k, name := range inFile {
		if rest, ok := strings.CutSuffix(key, k); ok {
			return rest + name
		}
	}
	var i int
	m := armKey.FindStringSubmatchIndex(key)
	_, err := fmt.Sscanf(key, "endpoints[%d]", &i)
	if err != nil || m == nil || i >= len(endpoints) {
		return key
	}
	before, rest := key[:m[0]], key[m[1]:]
	if m[4] >= 0 {
		rest = key[m[4]:]
	}
	arm, _ := strconv.Atoi(key[m[2]:m[3]])
	if arm == 0 {
		return before + ".stable"
	}
	if e := &endpoints[i]; len(e.Spec().Arms) > len(e.Arms)+1 {
		if arm == 1 {
			return before + ".canary" + rest
		}
		arm--
	}
	return fmt.Sprintf("%s.arms[%d]%s", before, arm-1, rest)
}
