package route

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
)

const (
	maxName       = 256 // bytes; names stand in paths and in labels of metrics
	maxCookieName = 64  // bytes; a browser sends it with each request
)

// builder makes one endpoint and gathers everything that is wrong with its spec.
type builder struct {
	at      string // endpoints[i]
	aliases map[string]map[string][]byte
	faults  []error
}

func (b *builder) fault(key, format string, args ...any) {
	b.faults = append(b.faults, fmt.Errorf("%s.%s: "+format, append([]any{b.at, key}, args...)...))
}

// endpoint makes an endpoint. Nothing of what the spec refers to is kept, so
// that its owner may change it.
func (b *builder) endpoint(s Spec) *Endpoint {
	e := &Endpoint{Spec: s.clone(), written: s.clone()}
	b.arms(e)
	b.rules(e)
	salt := s.Name
	if e.Sticky != nil {
		b.sticky(e)
		salt = e.Sticky.Salt
	}
	e.seed = xxhash.Sum64String(salt)
	if e.Bandit != nil {
		b.bandit(e.Bandit, len(s.Arms))
	}
	b.shadows(e)
	b.limits(&e.Limits)
	if s.Trial != "" && s.Canary() < 1 {
		b.fault("trial", "%.64q, but no arm behind the first has the name %q; "+
			"name the version on trial so", s.Trial, CanaryArm)
	}
	return e
}

// clone returns a copy that shares nothing with s.
func (s *Spec) clone() Spec {
	c := *s
	c.Arms, c.Rules = slices.Clone(s.Arms), slices.Clone(s.Rules)
	c.Shadows = slices.Clone(s.Shadows)
	if s.Sticky != nil {
		sticky := *s.Sticky
		c.Sticky = &sticky
	}
	if s.Bandit != nil {
		bandit := *s.Bandit
		c.Bandit = &bandit
	}
	return c
}

// name wants a name that can stand in a path, a label and a file.
func (b *builder) name(key, name string) {
	const allowed = "letters, digits, '.', '_' and '-' are allowed, at most 256 bytes"
	switch {
	case name == "":
		b.fault(key, "missing; %s", allowed)
	case len(name) > maxName:
		b.fault(key, "has %d bytes; %s", len(name), allowed)
	case !plain(name, "._-"):
		b.fault(key, "%q; %s", name, allowed)
	}
}

// once wants a name that is not in seen yet, where each has its place.
func (b *builder) once(key, name, place string, seen map[string]string) {
	if first, ok := seen[name]; ok && name != "" {
		b.fault(key, "%q is the name of %s already", name, first)
		return
	}
	seen[name] = place
}

func (b *builder) arms(e *Endpoint) {
	if len(e.Spec.Arms) == 0 {
		b.fault("arms", "missing; an endpoint has one arm at least")
		return
	}
	names := make(map[string]string)
	left := FullWeight
	for i := range e.Spec.Arms {
		a := &e.Spec.Arms[i]
		key := fmt.Sprintf("arms[%d]", i)
		b.name(key+".name", a.Name)
		b.once(key+".name", a.Name, key, names)
		switch {
		case a.Weight < 0 || a.Weight > FullWeight:
			b.fault(key+".weight", "%v %%; 0 to 100 are allowed", percent(a.Weight))
		case i > 0:
			left -= a.Weight
		}
		model, version := b.version(key, a.Model, a.Version)
		e.Arms = append(e.Arms, Arm{a.Name, model, version, a.Weight})
	}
	if left < 0 {
		b.fault("arms", "the weights of all but the first sum to %v %%; 100 are allowed",
			percent(FullWeight-left))
	}
	e.Arms[0].Weight, e.Spec.Arms[0].Weight = left, left
}

// percent is a weight as people write it.
func percent(weight int) float64 { return float64(weight) * 100 / FullWeight }

// version resolves what an arm or a shadow names. An alias that is not known yet may
// come with the next table; until then its arm is one that cannot serve.
func (b *builder) version(key, model, version string) (name, resolved []byte) {
	if model == "" {
		b.fault(key+".model", "missing; it names the model that serves")
		return nil, nil
	}
	alias, ok := strings.CutPrefix(version, "@")
	if !ok {
		return []byte(model), []byte(version)
	}
	if resolved, ok = b.aliases[model][alias]; !ok {
		return []byte(model), []byte(version) // no version has such a name: it cannot serve
	}
	return []byte(model), resolved
}

func (b *builder) sticky(e *Endpoint) {
	s := e.Sticky
	if n := set(s.Header, s.Cookie, s.Input); n != 1 {
		b.fault("sticky", "%d of header, cookie and input are set; set one", n)
	}
	if s.Header != "" && !token(s.Header) {
		b.fault("sticky.header", "%q is not a name of a header", s.Header)
	}
	s.Header = strings.ToLower(s.Header)
	switch {
	case len(s.Cookie) > maxCookieName:
		b.fault("sticky.cookie", "has %d bytes; %d are allowed", len(s.Cookie), maxCookieName)
	case s.Cookie != "" && !token(s.Cookie):
		b.fault("sticky.cookie", "%q is not a name of a cookie", s.Cookie)
	}
	switch {
	case s.Set != 0 && s.Cookie == "":
		b.fault("sticky.set", "%v, but only a cookie can be set; name it in sticky.cookie", s.Set)
	case s.Set < 0 || s.Set > 0 && s.Set < time.Second:
		// Cookies live whole seconds, and none at all is an order to forget one.
		b.fault("sticky.set", "%v; 0 sets no cookie, else 1s at least is allowed", s.Set)
	}
	if s.Salt == "" {
		s.Salt = e.Name
	}
	e.cookie = fmt.Sprintf("; Path=/; Max-Age=%d; HttpOnly; SameSite=Lax", s.Set/time.Second)
}

func (b *builder) bandit(s *BanditSpec, arms int) {
	if s.Policy != "thompson" && s.Policy != "epsilon_greedy" {
		b.fault("bandit.policy", "%q; thompson and epsilon_greedy are allowed", s.Policy)
	}
	if !(s.Epsilon >= 0 && s.Epsilon <= 1) {
		b.fault("bandit.epsilon", "%v; 0 to 1 is allowed", s.Epsilon)
	}
	if s.HalfLife < 0 {
		b.fault("bandit.half_life", "%v; 0 never forgets, else more than 0 is allowed", s.HalfLife)
	}
	if s.Interval <= 0 {
		b.fault("bandit.interval", "%v; more than 0 is allowed", s.Interval)
	}
	if s.Ceiling == 0 {
		s.Ceiling = FullWeight
	}
	if arms < 2 {
		b.fault("bandit", "needs 2 arms at least to move weights between, there are %d", arms)
		return
	}
	if most := FullWeight / arms; s.Floor < 0 || s.Floor > most {
		b.fault("bandit.floor", "%v %%; 0 to %v are allowed, so that %d arms have 100 at most",
			percent(s.Floor), percent(most), arms)
	}
	if least := (FullWeight + arms - 1) / arms; s.Ceiling < least || s.Ceiling > FullWeight {
		b.fault("bandit.ceiling", "%v %%; %v to 100 are allowed, so that %d arms can have 100",
			percent(s.Ceiling), percent(least), arms)
	}
}

func (b *builder) shadows(e *Endpoint) {
	names := make(map[string]string)
	for i := range e.Spec.Shadows {
		s := &e.Spec.Shadows[i]
		key := fmt.Sprintf("shadows[%d]", i)
		if s.Name == "" {
			s.Name = strings.TrimPrefix(s.Version, "@")
		}
		if s.Name == "" {
			s.Name = "latest"
		}
		b.name(key+".name", s.Name)
		b.once(key+".name", s.Name, key, names)
		if !(s.Percent >= 0 && s.Percent <= 100) {
			b.fault(key+".percent", "%v; 0 to 100 is allowed", s.Percent)
		}
		b.amount(key+".absolute", s.Absolute)
		b.amount(key+".relative", s.Relative)
		b.amount(key+".top_k", float64(s.TopK))
		model, version := b.version(key, s.Model, s.Version)
		e.Shadows = append(e.Shadows, Shadow{*s, model, version})
	}
}

func (b *builder) limits(s *LimitSpec) {
	if s.Timeout < 0 {
		b.fault("limits.timeout", "%v; 0 is no bound, else more than 0 is allowed", s.Timeout)
	}
	b.amount("limits.concurrency", float64(s.Concurrency))
	b.amount("limits.requests", s.Requests)
	b.amount("limits.rows", s.Rows)
	b.amount("limits.priority", float64(s.Priority))
}

// amount wants a number that can be counted with, and kept on disk.
func (b *builder) amount(key string, v float64) {
	if !(v >= 0 && v <= math.MaxFloat64) {
		b.fault(key, "%v; a number of 0 or more is allowed", v)
	}
}

// set counts what is not empty.
func set(texts ...string) int {
	n := 0
	for _, s := range texts {
		n += min(len(s), 1)
	}
	return n
}

// token says whether s is a token of RFC 9110, as names of headers and cookies are.
func token(s string) bool { return s != "" && plain(s, "!#$%&'*+-.^_`|~") }

// plain says whether s has only letters and digits of ASCII, and those of more.
func plain(s, more string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' ||
			strings.ContainsRune(more, r))
	})
}
