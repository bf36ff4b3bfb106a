package route

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// within says whether n of total is within six standard deviations of what the
// probability p gives: chance leaves that range once in 500 million tests.
func within(n, total int, p float64) bool {
	mean := float64(total) * p
	return math.Abs(float64(n)-mean) <= 6*math.Sqrt(mean*(1-p))
}

// TestChance counts a million picks.
func TestChance(t *testing.T) {
	const total = 1_000_000
	f := func(weights ...int) {
		t.Helper()
		e := endpoint(t, spec(weights...))
		counts := make([]int, len(e.Arms))
		for range total {
			c := e.Pick(nil)
			counts[c.Arm]++
			if want := float64(e.Arms[c.Arm].Weight) / FullWeight; c.Propensity != want ||
				c.By != ByWeight || c.NeedsKey || c.NeedsCookie {
				t.Fatalf("%+v, want a propensity of %v", c, want)
			}
		}
		for i, n := range counts {
			if p := float64(e.Arms[i].Weight) / FullWeight; !within(n, total, p) {
				t.Errorf("%v: arm %d has %d of %d picks, far from %v", weights, i, n, total, p)
			}
		}
	}
	f(100)
	f(1)
	f(0)
	f(FullWeight)
	f()
	f(2500, 0, 5000)
}

// user is the key of user i.
func user(i int) []byte { return fmt.Appendf(nil, "user-%d", i) }

// arms picks for each of n users.
func arms(e *Endpoint, n int) []byte {
	picked := make([]byte, n)
	for i := range picked {
		picked[i] = byte(e.PickKey(user(i)).Arm)
	}
	return picked
}

// TestRampMovesUsersIn raises a canary from 5 % to 25 %: nobody leaves it. The
// numbers of users are those that the Python package xxhash 4.1.0 gives.
func TestRampMovesUsersIn(t *testing.T) {
	const users = 10_000
	table, err := New([]Spec{spec(500)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	before := arms(table.Endpoint([]byte("e")), users)
	after := arms(table.WithWeights("e", []int{7500, 2500}).Endpoint([]byte("e")), users)
	for i := range before {
		if before[i] == 1 && after[i] != 1 {
			t.Fatalf("user %d has left the canary", i)
		}
	}
	f := func(picked []byte, want int) {
		t.Helper()
		if got := bytes.Count(picked, []byte{1}); got != want || !within(got, users,
			float64(want)/users) {
			t.Errorf("%d users have the canary, want %d", got, want)
		}
	}
	f(before, 497)
	f(after, 2491)
}

// TestThreeArmsRamp raises the first of two canaries: its users stay with it.
func TestThreeArmsRamp(t *testing.T) {
	before := arms(endpoint(t, spec(500, 1000)), 10_000)
	after := arms(endpoint(t, spec(900, 1000)), 10_000)
	for i := range before {
		if before[i] == 1 && after[i] != 1 || before[i] == 0 && after[i] == 1 {
			t.Fatalf("user %d has moved from arm %d to %d", i, before[i], after[i])
		}
	}
}

// TestBucket has values that the Python package xxhash 4.1.0 gives:
// xxh64(key, xxh64(salt)) * 10000 >> 64. Other values would move users.
func TestBucket(t *testing.T) {
	f := func(salt, key string, want int) {
		t.Helper()
		s := spec()
		s.Sticky = &StickySpec{Header: "h", Salt: salt}
		if got := bucket(hash(endpoint(t, s).seed, []byte(key))); got != want {
			t.Errorf("key %q with salt %q has bucket %d, want %d", key, salt, got, want)
		}
	}
	f("fraud", "a", 6017)
	f("fraud", "user-1", 9914)
	f("fraud", "user-2", 6003)
	f("churn", "user-1", 9813)
	f("fraud", "0123456789abcdef0123456789abcdef", 5987)
	f("fraud", strings.Repeat("x", 100), 2314)
	f("fraud", "\x05\x00\x00\x00\x00\x00\x00\x00", 3091)
	sum := 0
	seed := endpoint(t, spec()).seed // of the endpoint's name, "e"
	for i := range 10_000 {
		sum += bucket(hash(seed, user(i)))
	}
	if sum != 50_050_862 {
		t.Errorf("the buckets of 10000 users sum to %d, want 50050862", sum)
	}
}

// TestChoiceRanges holds every bucket against the arms' ranges.
func TestChoiceRanges(t *testing.T) {
	f := func(weights ...int) {
		t.Helper()
		e := endpoint(t, spec(weights...))
		var want []int
		for i, w := range weights {
			want = append(want, slices.Repeat([]int{i + 1}, w)...)
		}
		want = append(want, make([]int, FullWeight-len(want))...)
		for b, arm := range want {
			if c := e.choice(b, BySticky); c.Arm != arm || c.By != BySticky || !(c.Propensity > 0) {
				t.Fatalf("%v: bucket %d gives %+v, want arm %d", weights, b, c, arm)
			}
		}
	}
	f()
	f(0)
	f(1)
	f(FullWeight)
	f(500, 0, 2500)
	f(0, 5000, 5000)
}

// usersFile tells a child process where to write the arms of its users.
const usersFile = "MILLRACE_TEST_USERS_FILE"

// TestTwoProcessesAgree asks another process for the arm of every user.
func TestTwoProcessesAgree(t *testing.T) {
	const users = 100_000
	mine := arms(endpoint(t, spec(1000, 2500)), users)
	if path := os.Getenv(usersFile); path != "" {
		if err := os.WriteFile(path, mine, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	path := filepath.Join(t.TempDir(), "users")
	child := exec.Command(os.Args[0], "-test.run=^TestTwoProcessesAgree$")
	child.Env = append(os.Environ(), usersFile+"="+path)
	if out, err := child.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	theirs, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(mine, theirs) {
		t.Errorf("two processes disagree on some of %d users", users)
	}
}

// TestRules has rules of each kind, in their order.
func TestRules(t *testing.T) {
	s := spec(0, 0, 0)
	s.Rules = []RuleSpec{
		{Header: "X-Group", Exact: "beta", Arm: "canary"},
		{Header: "X-Group", Prefix: "be", Arm: "second"},
		{Header: "x-group", Regexp: `t(es|x)t|test-\d+`, Arm: "third"},
		{Header: "Agent", Regexp: `.*`, Arm: "canary"},
		{Header: "X-Group", Exact: "home", Arm: "stable"},
	}
	e := endpoint(t, s)
	f := func(h headers, arm int, by By) {
		t.Helper()
		if c := e.Pick(h); c.Arm != arm || c.By != by || c.Propensity != 1 {
			t.Errorf("%v gives %+v, want arm %d by %d", h, c, arm, by)
		}
	}
	f(headers{"x-group": "beta"}, 1, ByRule)
	f(headers{"x-group": "bet"}, 2, ByRule)
	f(headers{"x-group": "be"}, 2, ByRule)
	f(headers{"x-group": "betaa"}, 2, ByRule)
	f(headers{"x-group": "b"}, 0, ByWeight)
	f(headers{"x-group": "test"}, 3, ByRule)
	f(headers{"x-group": "test-12"}, 3, ByRule)
	f(headers{"x-group": "a test"}, 0, ByWeight)
	f(headers{"x-group": "test "}, 0, ByWeight)
	f(headers{"x-group": "test", "agent": "x"}, 3, ByRule)
	f(headers{"x-group": "none", "agent": "x"}, 1, ByRule)
	f(headers{"x-group": "home"}, 0, ByRule)
	f(headers{"x-group": "home", "agent": ""}, 1, ByRule)
	f(headers{}, 0, ByWeight)
}

// TestStickyHeader wants the same arm for the same key, after the rules.
func TestStickyHeader(t *testing.T) {
	s := spec(5000)
	s.Sticky = &StickySpec{Header: "X-User"}
	s.Rules = []RuleSpec{{Header: "X-Group", Exact: "beta", Arm: "canary"}}
	e := endpoint(t, s)
	for i := range 100 {
		key := user(i)
		want := e.PickKey(key)
		if want.By != BySticky || want.Propensity != 0.5 || want.User != hash(e.seed, key) {
			t.Fatalf("%+v, want a sticky choice of the user with a propensity of 0.5", want)
		}
		if c := e.Pick(headers{"x-user": string(key)}); c != want {
			t.Errorf("user %d has %+v and %+v", i, c, want)
		}
		if c := e.Pick(headers{"x-user": string(key), "x-group": "beta"}); c.By != ByRule {
			t.Errorf("user %d with a rule has %+v", i, c)
		}
	}
	for _, h := range []headers{{}, {"x-user": ""}} {
		if c := e.Pick(h); c.By != ByWeight || c.NeedsCookie || c.NeedsKey {
			t.Errorf("without a key: %+v", c)
		}
	}
}

// TestStickyCookie follows a client that has no cookie, gets one and sends it.
func TestStickyCookie(t *testing.T) {
	s := spec(5000)
	s.Sticky = &StickySpec{Cookie: "mr"}
	if c := endpoint(t, s).Pick(headers{}); c.NeedsCookie || c.By != ByWeight {
		t.Errorf("%+v, but the server is to set no cookie", c)
	}
	s.Sticky.Set = 90 * time.Minute
	e := endpoint(t, s)
	for _, h := range []headers{{}, {"cookie": ""}, {"cookie": "a=b; mr="}, {"cookie": "mrx=1"}} {
		if c := e.Pick(h); !c.NeedsCookie || c.By != ByWeight || c.Propensity != 0.5 {
			t.Errorf("%v gives %+v, want a choice by chance that needs a cookie", h, c)
		}
	}
	form := regexp.MustCompile(
		`^x(mr=[0-9a-f]{32}); Path=/; Max-Age=5400; HttpOnly; SameSite=Lax$`)
	seen := make(map[string]bool)
	canary := 0
	const clients = 1000
	for range clients {
		value, given := e.NewCookie([]byte("x"))
		m := form.FindSubmatch(value)
		if m == nil || seen[string(m[1])] {
			t.Fatalf("the cookie is %q", value)
		}
		seen[string(m[1])] = true
		if back := e.Pick(headers{"cookie": "a=b; " + string(m[1])}); back != given ||
			given.By != BySticky || given.NeedsCookie {
			t.Fatalf("the cookie was given with %+v and comes back with %+v", given, back)
		}
		canary += given.Arm
	}
	if !within(canary, clients, 0.5) {
		t.Errorf("%d of %d new cookies have the canary, far from half", canary, clients)
	}
}

// TestStickyInput leaves the choice to the decoded request.
func TestStickyInput(t *testing.T) {
	s := spec(5000)
	s.Sticky = &StickySpec{Input: "id"}
	s.Rules = []RuleSpec{{Header: "h", Exact: "a", Arm: "canary"}}
	e := endpoint(t, s)
	if c := e.Pick(headers{"h": "b"}); c != (Choice{Needs: Needs{NeedsKey: true}}) {
		t.Errorf("%+v, want a choice that needs a key", c)
	}
	if c := e.Pick(headers{"h": "a"}); c.NeedsKey || c.By != ByRule {
		t.Errorf("%+v, want a choice by rule", c)
	}
	if c := e.PickKey(nil); c.By != ByWeight || c.User != 0 {
		t.Errorf("%+v for no key, want a choice by chance", c)
	}
}

func TestKey(t *testing.T) {
	f := func(d tensor.Datatype, data []byte, want string) {
		t.Helper()
		s := spec()
		s.Sticky = &StickySpec{Input: "id"}
		inputs := []tensor.Tensor{{Name: "x", Datatype: tensor.Bool, Data: []byte{1}},
			{Name: "id", Datatype: d, Data: data}}
		if got := endpoint(t, s).Key(inputs); string(got) != want {
			t.Errorf("%s %q has the key %q, want %q", d, data, got, want)
		}
	}
	two := tensor.AppendElement(tensor.AppendElement(nil, "first"), "second")
	f(tensor.Bytes, two, "first")
	f(tensor.Bytes, tensor.AppendElement(nil, ""), "")
	f(tensor.Bytes, two[:6], "")
	f(tensor.Bytes, nil, "")
	long := binary.LittleEndian.AppendUint64(nil, 0x0807060504030201)
	f(tensor.Int64, append(long, "more"...), "\x01\x02\x03\x04\x05\x06\x07\x08")
	f(tensor.FP32, long, "\x01\x02\x03\x04")
	f(tensor.Bool, []byte{0}, "\x00")
	f(tensor.Int64, nil, "")
	f(tensor.Invalid, long, "")

	s := spec()
	inputs := []tensor.Tensor{{Name: "x", Datatype: tensor.Bool, Data: []byte{1}}, {Name: ""}}
	if key := endpoint(t, s).Key(inputs); key != nil {
		t.Errorf("an endpoint without sticky keys finds %q", key)
	}
	s.Sticky = &StickySpec{Input: "id"}
	if key := endpoint(t, s).Key(inputs); key != nil {
		t.Errorf("without the input there is the key %q", key)
	}
}

func TestCookieValue(t *testing.T) {
	f := func(header, want string) {
		t.Helper()
		if got := cookieValue([]byte(header), "id"); string(got) != want {
			t.Errorf("%q has the value %q, want %q", header, got, want)
		}
	}
	f("id=1", "1")
	f("a=b; id=1; c=d", "1")
	f("a=b;id=1;c=d", "1")
	f(" ;; \tid=1 \t", "1")
	f("id=1; id=2", "1")
	f(`id="1"`, "1")
	f(`id="`, `"`)
	f(`id=""`, "")
	f("id=a=b", "a=b")
	f("id=a b", "a b")
	f("", "")
	f("id", "")
	f("id=", "")
	f("ID=1", "")
	f("xid=1; idx=1; a=id=1; id =1", "")
}

// FuzzCookieValue holds the parser against net/http's wherever that takes the
// header, which it does only when all of it is well-formed.
func FuzzCookieValue(f *testing.F) {
	f.Add("a=b; id=1; c=d", "id")
	f.Add(`id="1 2,3"; id=2`, "id")
	f.Add(";;=;id;id=", "id")
	f.Fuzz(func(t *testing.T, header, name string) {
		got := cookieValue([]byte(header), name)
		if !bytes.Contains([]byte(header), got) {
			t.Fatalf("%q is not in the header", got)
		}
		cookies, err := http.ParseCookie(header)
		if err != nil || !token(name) {
			return
		}
		want := ""
		for _, c := range slices.Backward(cookies) {
			if c.Name == name {
				want = c.Value // in the end that of the first
			}
		}
		if string(got) != want {
			t.Fatalf("%q in %q has the value %q, want %q", name, header, got, want)
		}
	})
}

// fixed has the same value for every header.
type fixed []byte

func (f fixed) Header(string) []byte { return f }

// picks are the ways to pick, each with the headers of one request.
func picks(t testing.TB) map[string]func() Choice {
	sticky := func(st StickySpec) *Endpoint {
		s := spec(100, 500)
		s.Sticky = &st
		return endpoint(t, s)
	}
	ruled := spec(100, 500)
	for i := range 8 {
		ruled.Rules = append(ruled.Rules,
			RuleSpec{Header: "x-group", Exact: fmt.Sprint(i), Arm: "canary"})
	}
	ruled.Rules = append(ruled.Rules,
		RuleSpec{Header: "x-group", Regexp: "test-[0-9]+", Arm: "second"})
	chance, rules := endpoint(t, spec(100, 500)), endpoint(t, ruled)
	header := sticky(StickySpec{Header: "x-user"})
	cookie := sticky(StickySpec{Cookie: "mr", Set: time.Hour})
	input := sticky(StickySpec{Input: "id"})
	var id Headers = fixed("0b5a1f5e-9f1c-4f57-8a7b-2f6d3c1e9a10")
	var jar Headers = fixed("theme=dark; session=abcdef01; mr=0123456789abcdef0123456789abcdef")
	var exact, last Headers = fixed("7"), fixed("test-12")
	key := user(1)
	return map[string]func() Choice{
		"chance":        func() Choice { return chance.Pick(id) },
		"rule":          func() Choice { return rules.Pick(exact) },
		"regexp":        func() Choice { return rules.Pick(last) },
		"sticky_header": func() Choice { return header.Pick(id) },
		"sticky_cookie": func() Choice { return cookie.Pick(jar) },
		"sticky_input":  func() Choice { return input.PickKey(key) },
	}
}

// TestPickDoesNotAllocate also covers what is called around picks.
func TestPickDoesNotAllocate(t *testing.T) {
	f := func(name string, call func()) {
		t.Helper()
		if n := testing.AllocsPerRun(100, call); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	for name, pick := range picks(t) {
		f(name, func() { pick() })
	}
	s := spec(100)
	s.Sticky = &StickySpec{Cookie: "mr", Set: time.Hour}
	table, err := New([]Spec{s}, champions)
	if err != nil {
		t.Fatal(err)
	}
	e, buf := table.Endpoint([]byte("e")), make([]byte, 0, 256)
	name, wish := []byte("e"), []byte("@champion")
	f("NewCookie", func() { e.NewCookie(buf) })
	f("Endpoint", func() { table.Endpoint(name) })
	f("Version", func() { table.Version("m", wish) })
}

func BenchmarkPick(b *testing.B) {
	all := picks(b)
	for _, name := range []string{"chance", "rule", "regexp", "sticky_header", "sticky_cookie",
		"sticky_input"} {
		pick := all[name]
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				pick()
			}
		})
	}
}

// TestHash compares the hash of keys of all lengths with the library's.
func TestHash(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	key := make([]byte, 100)
	for i := range key {
		key[i] = byte(r.Uint32())
	}
	for n := range len(key) {
		seed := r.Uint64()
		d := xxhash.NewWithSeed(seed)
		_, _ = d.Write(key[:n])
		if got, want := hash(seed, key[:n]), d.Sum64(); got != want {
			t.Errorf("the hash of %d bytes is %#x, not %#x", n, got, want)
		}
	}
}
