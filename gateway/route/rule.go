package route

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// rule is a RuleSpec that can be asked. One of exact, prefix and whole is set.
type rule struct {
	header        string // in lower case
	exact, prefix string
	whole         *regexp.Regexp // anchored at both ends
	literal       string         // what every value that the rule takes begins with
	arm           int            // index
}

func (r *rule) match(value []byte) bool {
	switch {
	case r.whole != nil:
		return r.whole.Match(value)
	case r.prefix != "":
		return len(value) >= len(r.prefix) && string(value[:len(r.prefix)]) == r.prefix
	}
	return string(value) == r.exact
}

// hides says whether r takes every value that o would. It finds the cases that
// can be told without comparing regular expressions with each other.
func (r *rule) hides(o *rule) bool {
	switch {
	case r.header != o.header:
		return false
	case r.whole != nil && o.whole != nil:
		return r.whole.String() == o.whole.String()
	case r.whole != nil:
		return o.exact != "" && r.whole.MatchString(o.exact)
	case r.prefix != "":
		return strings.HasPrefix(o.literal, r.prefix)
	}
	return r.exact == o.exact
}

// rules makes the rules, and wants each to have a chance to match.
func (b *builder) rules(e *Endpoint) {
	for i := range e.Spec.Rules {
		s := &e.Spec.Rules[i]
		key, before := fmt.Sprintf("rules[%d]", i), len(b.faults)
		r := b.rule(key, s)
		r.arm = slices.IndexFunc(e.Spec.Arms, func(a ArmSpec) bool { return a.Name == s.Arm })
		if r.arm < 0 {
			b.fault(key+".arm", "%q is none of the endpoint's arms", s.Arm)
		}
		hidden := slices.IndexFunc(e.rules, func(o rule) bool { return o.hides(&r) })
		if hidden >= 0 && len(b.faults) == before {
			b.fault(key, "never matches: rules[%d] takes every value that it would", hidden)
		}
		e.rules = append(e.rules, r)
	}
}

func (b *builder) rule(key string, s *RuleSpec) rule {
	if !token(s.Header) {
		b.fault(key+".header", "%q is not a name of a header", s.Header)
	}
	s.Header = strings.ToLower(s.Header)
	r := rule{header: s.Header, exact: s.Exact, prefix: s.Prefix, literal: s.Exact + s.Prefix}
	if n := set(s.Exact, s.Prefix, s.Regexp); n != 1 {
		b.fault(key, "%d of exact, prefix and regexp are set; set one", n)
	}
	if s.Regexp == "" {
		return r
	}
	// Alone it must be one, too: "a)(b" is one only within brackets.
	alone, err := regexp.Compile(s.Regexp)
	if err == nil {
		r.literal, _ = alone.LiteralPrefix()
		r.whole, err = regexp.Compile(`\A(?:` + s.Regexp + `)\z`)
	}
	if err != nil {
		b.fault(key+".regexp", "%q is not a regular expression: %.200q", s.Regexp, err.Error())
	}
	return r
}
