package route

import (
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// headers are a request's, for tests.
type headers map[string]string

func (h headers) Header(name string) []byte {
	v, ok := h[name]
	if !ok {
		return nil
	}
	return []byte(v)
}

// spec is an endpoint "e" of model "m": stable, and other arms of these weights.
func spec(weights ...int) Spec {
	s := Spec{Name: "e", Arms: []ArmSpec{{Name: "stable", Model: "m", Version: "1"}}}
	for i, w := range weights {
		name := []string{"canary", "second", "third"}[i]
		s.Arms = append(s.Arms, ArmSpec{Name: name, Model: "m", Version: "2", Weight: w})
	}
	return s
}

// endpoint builds a table of one endpoint.
func endpoint(t testing.TB, s Spec) *Endpoint {
	t.Helper()
	table, err := New([]Spec{s}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return table.Endpoint([]byte(s.Name))
}

var champions = Aliases{"m": {"champion": "7", "old": "3"}}

// fault builds a good endpoint and one with a change, and wants exactly one
// fault, of that key of the second.
func fault(t *testing.T, change func(*Spec), key, text string) {
	t.Helper()
	good, bad := spec(100), spec(100)
	good.Name = "good"
	change(&bad)
	table, err := New([]Spec{good, bad}, champions)
	if err == nil || table != nil {
		t.Errorf("no fault of %s", key)
		return
	}
	got := err.Error()
	if !strings.HasPrefix(got, "endpoints[1]."+key+": ") || strings.Contains(got, "\n") ||
		!strings.Contains(got, text) {
		t.Errorf("want only a fault of %s with %q, got:\n%s", key, text, got)
	}
}

func TestArmFaults(t *testing.T) {
	f := func(change func(*Spec), key, text string) {
		t.Helper()
		fault(t, change, key, text)
	}
	f(func(s *Spec) { s.Name = "" }, "name", "missing")
	f(func(s *Spec) { s.Name = "good" }, "name", `"good" is the name of endpoints[0] already`)
	f(func(s *Spec) { s.Name = "a/b\n" }, "name", `"a/b\n"; letters`)
	f(func(s *Spec) { s.Name = "ü" }, "name", "letters")
	f(func(s *Spec) { s.Name = strings.Repeat("a", 257) }, "name", "257 bytes")
	f(func(s *Spec) { s.Arms = nil }, "arms", "missing")
	f(func(s *Spec) { s.Arms[1].Name = "" }, "arms[1].name", "missing")
	f(func(s *Spec) { s.Arms[1].Name = "stable" }, "arms[1].name", "arms[0] already")
	f(func(s *Spec) { s.Arms[1].Name = "a b" }, "arms[1].name", "letters")
	f(func(s *Spec) { s.Arms[1].Model = "" }, "arms[1].model", "missing")
	f(func(s *Spec) { s.Arms[1].Weight = -1 }, "arms[1].weight", "-0.01 %; 0 to 100")
	f(func(s *Spec) { s.Arms[1].Weight = 10_001 }, "arms[1].weight", "100.01 %; 0 to 100")
	f(func(s *Spec) { s.Arms[0].Weight = -1 }, "arms[0].weight", "-0.01 %; 0 to 100")
	f(func(s *Spec) { *s = spec(5000, 5001) }, "arms", "sum to 100.01 %")
	f(func(s *Spec) { s.Trial, s.Arms = "e.1", s.Arms[:1] }, "trial", `has the name "canary"`)
	f(func(s *Spec) { s.Trial, s.Arms[1].Name = "e.1", "b" }, "trial", `has the name "canary"`)
	f(func(s *Spec) {
		s.Trial, s.Arms[0].Name, s.Arms[1].Name = "e.1", "canary", "stable"
	}, "trial", "behind the first")
}

func TestLimitFaults(t *testing.T) {
	f := func(change func(*LimitSpec), key, text string) {
		t.Helper()
		fault(t, func(s *Spec) { change(&s.Limits) }, key, text)
	}
	f(func(l *LimitSpec) { l.Timeout = -1 }, "limits.timeout", "-1ns")
	f(func(l *LimitSpec) { l.Concurrency = -1 }, "limits.concurrency", "-1")
	f(func(l *LimitSpec) { l.Requests = math.NaN() }, "limits.requests", "NaN")
	f(func(l *LimitSpec) { l.Requests = math.Inf(1) }, "limits.requests", "+Inf")
	f(func(l *LimitSpec) { l.Rows = -1 }, "limits.rows", "-1")
	f(func(l *LimitSpec) { l.Priority = -1 }, "limits.priority", "-1")
}

func TestStickyFaults(t *testing.T) {
	f := func(st StickySpec, key, text string) {
		t.Helper()
		fault(t, func(s *Spec) { s.Sticky = &st }, key, text)
	}
	f(StickySpec{}, "sticky", "0 of header, cookie and input")
	f(StickySpec{Header: "h", Cookie: "c"}, "sticky", "2 of header")
	f(StickySpec{Header: "h", Cookie: "c", Input: "i"}, "sticky", "3 of header")
	f(StickySpec{Header: "a b"}, "sticky.header", `"a b"`)
	f(StickySpec{Header: "\u212a"}, "sticky.header", "not a name") // lower case is a k
	f(StickySpec{Cookie: "a;b"}, "sticky.cookie", `"a;b"`)
	f(StickySpec{Cookie: strings.Repeat("a", 65)}, "sticky.cookie", "65 bytes")
	f(StickySpec{Header: "h", Set: time.Hour}, "sticky.set", "1h0m0s")
	f(StickySpec{Input: "i", Set: time.Hour}, "sticky.set", "1h0m0s")
	f(StickySpec{Cookie: "c", Set: -time.Hour}, "sticky.set", "-1h0m0s")
	f(StickySpec{Cookie: "c", Set: time.Millisecond}, "sticky.set", "1s at least")
}

func TestBanditFaults(t *testing.T) {
	f := func(change func(*BanditSpec), key, text string) {
		t.Helper()
		fault(t, func(s *Spec) {
			*s = spec(1, 1)
			s.Bandit = &BanditSpec{Policy: "thompson", Interval: time.Second}
			change(s.Bandit)
		}, key, text)
	}
	f(func(b *BanditSpec) { b.Policy = "ucb" }, "bandit.policy", `"ucb"; thompson`)
	f(func(b *BanditSpec) { b.Epsilon = math.NaN() }, "bandit.epsilon", "NaN")
	f(func(b *BanditSpec) { b.Epsilon = 1.1 }, "bandit.epsilon", "1.1; 0 to 1")
	f(func(b *BanditSpec) { b.Epsilon = -0.1 }, "bandit.epsilon", "-0.1; 0 to 1")
	f(func(b *BanditSpec) { b.HalfLife = -1 }, "bandit.half_life", "-1ns")
	f(func(b *BanditSpec) { b.Interval = 0 }, "bandit.interval", "0s")
	f(func(b *BanditSpec) { b.Floor = 3334 }, "bandit.floor", "33.34 %; 0 to 33.33")
	f(func(b *BanditSpec) { b.Floor = -1 }, "bandit.floor", "-0.01")
	f(func(b *BanditSpec) { b.Ceiling = 3333 }, "bandit.ceiling", "33.33 %; 33.34 to 100")
	f(func(b *BanditSpec) { b.Ceiling = 10_001 }, "bandit.ceiling", "100.01")
	fault(t, func(s *Spec) {
		*s = spec()
		s.Bandit = &BanditSpec{Policy: "thompson", Interval: time.Second}
	}, "bandit", "2 arms at least")
}

func TestShadowFaults(t *testing.T) {
	f := func(sh ShadowSpec, key, text string) {
		t.Helper()
		fault(t, func(s *Spec) {
			s.Shadows = []ShadowSpec{{Model: "m", Version: "2"}, sh}
		}, key, text)
	}
	f(ShadowSpec{}, "shadows[1].model", "missing")
	f(ShadowSpec{Model: "m", Version: "2"}, "shadows[1].name", `"2" is the name of shadows[0]`)
	f(ShadowSpec{Model: "m", Version: "1 2"}, "shadows[1].name", `"1 2"; letters`)
	f(ShadowSpec{Model: "m", Percent: math.NaN()}, "shadows[1].percent", "NaN; 0 to 100")
	f(ShadowSpec{Model: "m", Percent: 100.1}, "shadows[1].percent", "100.1; 0 to 100")
	f(ShadowSpec{Model: "m", Percent: -1}, "shadows[1].percent", "-1; 0 to 100")
	f(ShadowSpec{Model: "m", Absolute: math.NaN()}, "shadows[1].absolute", "NaN")
	f(ShadowSpec{Model: "m", Relative: -1}, "shadows[1].relative", "-1")
	f(ShadowSpec{Model: "m", TopK: -1}, "shadows[1].top_k", "-1")
}

// TestLimitsAreAllowed has values at both ends of what is allowed.
func TestLimitsAreAllowed(t *testing.T) {
	f := func(change func(*Spec)) {
		t.Helper()
		s := spec(5000, 5000)
		change(&s)
		if _, err := New([]Spec{s}, nil); err != nil {
			t.Error(err)
		}
	}
	f(func(s *Spec) { s.Name = strings.Repeat("Z", 254) + "._" })
	f(func(s *Spec) { s.Arms[0].Weight = FullWeight }) // no matter: the others leave nothing
	f(func(s *Spec) { s.Sticky = &StickySpec{Cookie: strings.Repeat("~", 64), Set: time.Second} })
	f(func(s *Spec) {
		s.Bandit = &BanditSpec{Policy: "epsilon_greedy", Epsilon: 1, Floor: 3333, Ceiling: 3334,
			Interval: 1}
	})
	f(func(s *Spec) {
		s.Shadows = []ShadowSpec{{Model: "m", Version: "1", Percent: 100},
			{Model: "m", Version: "2", Percent: 0, Absolute: math.MaxFloat64}}
	})
}

// TestRuleFaults has rules that cannot be, and such as never match.
func TestRuleFaults(t *testing.T) {
	f := func(text string, rules ...RuleSpec) {
		t.Helper()
		s := spec(100)
		for _, r := range rules {
			if r.Header == "" {
				r.Header = "H"
			}
			if r.Arm == "" {
				r.Arm = "canary"
			}
			s.Rules = append(s.Rules, r)
		}
		_, err := New([]Spec{s}, nil)
		switch {
		case text == "" && err != nil:
			t.Errorf("%+v: %v", rules, err)
		case text != "" && (err == nil || strings.Contains(err.Error(), "\n") ||
			!strings.HasPrefix(err.Error(), "endpoints[0]."+text)):
			t.Errorf("%+v: want %s..., got: %v", rules, text, err)
		}
	}
	f("rules[0]: 0 of exact, prefix and regexp are set", RuleSpec{})
	f("rules[0]: 2 of exact", RuleSpec{Exact: "a", Prefix: "b"})
	f("rules[0]: 3 of exact", RuleSpec{Exact: "a", Prefix: "b", Regexp: "c"})
	f(`rules[0].regexp: "a)(b" is not`, RuleSpec{Regexp: "a)(b"})
	f(`rules[0].regexp: "(\n" is not`, RuleSpec{Regexp: "(\n"})
	f(`rules[0].arm: "none" is none`, RuleSpec{Exact: "a", Arm: "none"})
	f(`rules[0].header: "a:b" is not`, RuleSpec{Header: "a:b", Exact: "a"})

	hidden := "rules[1]: never matches: rules[0] takes"
	exact := func(s string) RuleSpec { return RuleSpec{Exact: s} }
	prefix := func(s string) RuleSpec { return RuleSpec{Prefix: s} }
	re := func(s string) RuleSpec { return RuleSpec{Regexp: s} }
	f(hidden, exact("a"), exact("a"))
	f(hidden, exact("a"), RuleSpec{Header: "h", Exact: "a", Arm: "stable"})
	f(hidden, prefix("a"), exact("ab"))
	f(hidden, prefix("a"), exact("a"))
	f(hidden, prefix("a"), prefix("ab"))
	f(hidden, prefix("a"), prefix("a"))
	f(hidden, prefix("a"), re("ab+"))
	f(hidden, re("a+"), re("a+"))
	f(hidden, re("a+"), exact("aa"))
	f("", exact("a"), exact("b"))
	f("", exact("a"), exact("A"))
	f("", exact("a"), RuleSpec{Header: "other", Exact: "a"})
	f("", exact("a"), prefix("a"))
	f("", exact("a"), re("a.*"), prefix("a"))
	f("", prefix("ab"), exact("a"), prefix("a"))
	f("", prefix("a"), re("a|b"), re("(?i)ab"))
	f("", re("a+"), exact("aab"), prefix("a"), re("a*"))
}

// TestNewListsAllFaults has faults in several places of several endpoints.
func TestNewListsAllFaults(t *testing.T) {
	a := Spec{Sticky: &StickySpec{}, Bandit: &BanditSpec{}, Rules: []RuleSpec{{}},
		Shadows: []ShadowSpec{{Percent: -1}}, Limits: LimitSpec{Rows: -1}}
	b := spec(-1, 20_000)
	_, err := New([]Spec{a, b}, nil)
	if err == nil {
		t.Fatal("no error")
	}
	var got []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		key, _, _ := strings.Cut(line, ": ")
		got = append(got, key)
	}
	want := strings.Fields(`endpoints[0].name endpoints[0].arms
		endpoints[0].rules[0].header endpoints[0].rules[0] endpoints[0].rules[0].arm
		endpoints[0].sticky endpoints[0].bandit.policy endpoints[0].bandit.interval
		endpoints[0].bandit endpoints[0].shadows[0].percent endpoints[0].shadows[0].model
		endpoints[0].limits.rows endpoints[1].arms[1].weight endpoints[1].arms[2].weight`)
	if !slices.Equal(got, want) {
		t.Errorf("faults of\n%q, want\n%q", got, want)
	}
}

// TestDefaults wants every default filled in, aliases resolved, and none of it
// in what the caller gave.
func TestDefaults(t *testing.T) {
	s := spec(500, 1500)
	s.Arms[0].Version, s.Arms[1].Version = "@champion", ""
	s.Rules = []RuleSpec{{Header: "X-Group", Exact: "a", Arm: "second"}}
	s.Sticky = &StickySpec{Header: "X-User"}
	s.Bandit = &BanditSpec{Policy: "epsilon_greedy", Interval: time.Second}
	s.Shadows = []ShadowSpec{{Model: "m", Version: "@old"}, {Model: "n"},
		{Model: "m", Version: "9"}}
	table, err := New([]Spec{s}, champions)
	if err != nil {
		t.Fatal(err)
	}
	e := table.Endpoint([]byte("e"))
	f := func(what string, got, want any) {
		t.Helper()
		if got != want {
			t.Errorf("%s is %v, want %v", what, got, want)
		}
	}
	f("the stable weight", e.Arms[0].Weight, 8000)
	f("the stable weight in the spec", e.Spec.Arms[0].Weight, 8000)
	f("the stable version", string(e.Arms[0].Version), "7")
	f("the stable version as written", e.Spec.Arms[0].Version, "@champion")
	f("the latest version", string(e.Arms[1].Version), "")
	f("the model", string(e.Arms[1].Model), "m")
	f("the rule's header", e.Rules[0].Header, "x-group")
	f("the sticky header", e.Sticky.Header, "x-user")
	f("the salt", e.Sticky.Salt, "e")
	f("the ceiling", e.Bandit.Ceiling, FullWeight)
	f("shadow 0", e.Shadows[0].Name+" is "+string(e.Shadows[0].Version), "old is 3")
	f("shadow 1", e.Shadows[1].Name+" is "+string(e.Shadows[1].Version), "latest is ")
	f("shadow 2", e.Shadows[2].Name+" is "+string(e.Shadows[2].Version), "9 is 9")
	f("the model of shadow 1", string(e.Shadows[1].Model), "n")
	f("the shadow in the spec", e.Spec.Shadows[0].Name, "old")

	f("the caller's weight", s.Arms[0].Weight, 0)
	f("the caller's rule", s.Rules[0].Header, "X-Group")
	f("the caller's sticky", *s.Sticky, StickySpec{Header: "X-User"})
	f("the caller's ceiling", s.Bandit.Ceiling, 0)
	f("the caller's shadow", s.Shadows[0].Name, "")
}

func TestVersion(t *testing.T) {
	table, err := New(nil, champions)
	if err != nil {
		t.Fatal(err)
	}
	f := func(table *Table, model, wish, want string) {
		t.Helper()
		if got := table.Version(model, []byte(wish)); string(got) != want {
			t.Errorf("version %q of %q is %q, want %q", wish, model, got, want)
		}
	}
	f(table, "m", "@champion", "7")
	f(table, "m", "champion", "7")
	f(table, "m", "7", "7")
	f(table, "m", "@none", "@none")
	f(table, "m", "@", "@")
	f(table, "m", "", "")
	f(table, "n", "champion", "champion")
	f(nil, "m", "@champion", "@champion")
}

// TestEndpoints finds endpoints, also in no table at all.
func TestEndpoints(t *testing.T) {
	a, b, c := spec(), spec(), spec()
	a.Name, b.Name, c.Name = "a", "b", "c"
	table, err := New([]Spec{c, a, b}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var names string
	for _, e := range table.Endpoints() {
		names += e.Name
		if e != table.Endpoint([]byte(e.Name)) {
			t.Errorf("%s is not found by its name", e.Name)
		}
	}
	if names != "abc" {
		t.Errorf("the endpoints are %s, want abc", names)
	}
	if table.Endpoint([]byte("d")) != nil {
		t.Error("an endpoint d is there")
	}
	var none *Table
	if none.Endpoint([]byte("a")) != nil || none.Endpoints() != nil ||
		none.WithWeights("a", []int{FullWeight}) != nil {
		t.Error("no table has endpoints")
	}
}

// TestWithWeights wants a changed copy and an unchanged original.
func TestWithWeights(t *testing.T) {
	other := spec(1)
	other.Name = "other"
	old, err := New([]Spec{spec(500), other}, nil)
	if err != nil {
		t.Fatal(err)
	}
	changed := old.WithWeights("e", []int{2500, 7500})
	f := func(table *Table, stable, canary int) {
		t.Helper()
		e := table.Endpoint([]byte("e"))
		if e.Arms[0].Weight != stable || e.Arms[1].Weight != canary ||
			e.Spec.Arms[0].Weight != stable || e.Spec.Arms[1].Weight != canary {
			t.Errorf("weights of %v and %v, want %d and %d", e.Arms, e.Spec.Arms, stable, canary)
		}
	}
	f(old, 9500, 500)
	f(changed, 2500, 7500)
	if changed.Endpoint([]byte("other")) != old.Endpoint([]byte("other")) {
		t.Error("another endpoint has changed")
	}
	if old.WithWeights("none", []int{FullWeight}) != old {
		t.Error("the table has changed with an endpoint that it has not")
	}
}

// TestUnknownAlias wants an alias that is not known yet to leave the endpoint in the
// table, with an arm that cannot serve.
func TestUnknownAlias(t *testing.T) {
	f := func(model, version, want string) {
		t.Helper()
		s := spec(5000)
		s.Arms[1].Model, s.Arms[1].Version = model, version
		table, err := New([]Spec{s}, champions)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(table.Endpoint([]byte(s.Name)).Arms[1].Version); got != want {
			t.Errorf("%s of %s is %q, want %q", version, model, got, want)
		}
	}
	f("m", "@new", "@new")
	f("n", "@champion", "@champion")
	f("m", "@champion", champions["m"]["champion"])
}

// TestUpdate wants what has not changed to be taken over, and nothing else.
func TestUpdate(t *testing.T) {
	one, two := spec(5000), spec(100)
	two.Name = "two"
	two.Arms[1].Version = "@champion"
	before, err := New([]Spec{one, two}, champions)
	if err != nil {
		t.Fatal(err)
	}
	before = before.WithWeights(one.Name, []int{1000, 9000})
	f := func(what string, specs []Spec, aliases Aliases, kept ...bool) {
		t.Helper()
		after, err := Update(before, specs, aliases)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		fresh, err := New(specs, aliases)
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range specs {
			was, is := before.Endpoint([]byte(s.Name)), after.Endpoint([]byte(s.Name))
			if (was == is) != kept[i] {
				t.Errorf("%s: endpoint %s is kept: %v, want %v", what, s.Name, was == is, kept[i])
			}
			if !kept[i] && !reflect.DeepEqual(is, fresh.Endpoint([]byte(s.Name))) {
				t.Errorf("%s: endpoint %s is not as a new one", what, s.Name)
			}
		}
		if len(after.Endpoints()) != len(specs) {
			t.Errorf("%s: %d endpoints, want %d", what, len(after.Endpoints()), len(specs))
		}
	}
	moved := Aliases{"m": {"champion": "9", "old": "1"}}
	other := spec(200)
	f("nothing", []Spec{one, two}, champions, true, true)
	f("a weight", []Spec{other, two}, champions, false, true)
	f("an alias", []Spec{one, two}, moved, true, false)
	f("one less", []Spec{two}, champions, true)
	if w := before.Endpoint([]byte(one.Name)).Arms[1].Weight; w != 9000 {
		t.Errorf("the weight that was moved is %d", w)
	}
	if _, err := Update(before, []Spec{one, one}, champions); err == nil {
		t.Error("the same name twice is taken")
	}
}
