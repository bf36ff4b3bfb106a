package route

import (
	"bytes"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// everything is an endpoint with a value for each key.
func everything() Spec {
	s := spec(100, 200)
	s.Arms[0].Version = "@champion"
	s.Rules = []RuleSpec{{Header: "h", Exact: `<&>"ü`, Arm: "canary"},
		{Header: "h", Prefix: "p", Arm: "canary"}, {Header: "h", Regexp: `\d+`, Arm: "second"}}
	s.Sticky = &StickySpec{Cookie: "c", Set: 36 * time.Hour, Salt: "s"}
	s.Bandit = &BanditSpec{Policy: "epsilon_greedy", Epsilon: 0.1, HalfLife: time.Hour,
		Floor: 100, Ceiling: 9000, Interval: time.Minute}
	s.Shadows = []ShadowSpec{{Name: "n", Model: "m", Version: "3", Percent: 12.5,
		Absolute: 1e-300, Relative: 0.1, TopK: 5}}
	s.Limits = LimitSpec{Timeout: time.Second, Concurrency: 8, Adaptive: true, Requests: 0.1,
		Rows: 1e9, Priority: 2}
	s.Trial = "e.7"
	return s
}

func TestSaveAndLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "endpoints")
	f := func(specs []Spec, aliases Aliases) {
		t.Helper()
		if err := Save(path, specs, aliases); err != nil {
			t.Fatal(err)
		}
		gotSpecs, gotAliases, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(gotSpecs, specs) || !reflect.DeepEqual(gotAliases, aliases) {
			t.Errorf("got %+v and %v back, want %+v and %v", gotSpecs, gotAliases, specs, aliases)
		}
	}
	f([]Spec{everything(), spec()}, champions)
	f([]Spec{spec()}, nil)
	f(nil, nil)
	names, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*"))
	if err != nil || len(names) != 1 {
		t.Errorf("the folder holds %v after all is saved, want one file (%v)", names, err)
	}
}

// TestSaveFails wants the old content and no rest of the new when Save fails.
func TestSaveFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "endpoints")
	if err := Save(path, []Spec{spec()}, nil); err != nil {
		t.Fatal(err)
	}
	bad := spec()
	bad.Limits.Rows = math.NaN()
	if err := Save(path, []Spec{bad}, nil); err == nil {
		t.Error("a number is saved that JSON has not")
	}
	if specs, _, err := Load(path); err != nil || !reflect.DeepEqual(specs, []Spec{spec()}) {
		t.Errorf("after Save has failed: %v, %v", specs, err)
	}
	err := Save(filepath.Join(dir, "none", "endpoints"), nil, nil)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a folder that is not there: %v", err)
	}
	folder := filepath.Join(dir, "folder")
	if err := os.MkdirAll(filepath.Join(folder, "full"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Save(folder, nil, nil); err == nil {
		t.Error("a folder is replaced")
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*.new-*")); err != nil || len(left) > 0 {
		t.Errorf("Save leaves %v behind (%v)", left, err)
	}
}

func TestLoadFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "endpoints")
	if _, _, err := Load(path); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrCorrupt) {
		t.Errorf("a missing file: %v, want fs.ErrNotExist", err)
	}
	f := func(text, want string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		specs, aliases, err := Load(path)
		if !errors.Is(err, ErrCorrupt) || errors.Is(err, fs.ErrNotExist) || specs != nil ||
			aliases != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v, %v; want ErrCorrupt with %q", text, specs, aliases, err, want)
		}
	}
	f("", "0 bytes that cannot be parsed")
	f("{}", "format 0")
	f("null", "format 0")
	f("[]", "cannot be parsed")
	f("\x00\x01\x02", "3 bytes that cannot be parsed")
	f(`{"endpoints":[]}`, "format 0")
	f(`{"millrace_endpoints_format":2}`, "format 2, only 1 can be read")
	f(`{"millrace_endpoints_format":1,"sha256":"","content":{}}`, "checksum")
	f(sealed(`{"endpoints":[{"name":"e","later":1}]}`), `unknown field "later"`)
	f(sealed(`{"endpoints":1}`), "cannot unmarshal")
}

// TestDamage cuts a file at each place and flips each of its bits: what comes
// back is an error or what was saved, never less.
func TestDamage(t *testing.T) {
	specs := []Spec{everything()}
	whole, err := encode(specs, champions)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if _, _, err := decode(whole[:n]); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut to %d of %d bytes: %v, want ErrCorrupt", n, len(whole), err)
		}
	}
	for i := range 8 * len(whole) {
		damaged := bytes.Clone(whole)
		damaged[i/8] ^= 1 << (i % 8)
		got, aliases, err := decode(damaged)
		if errors.Is(err, ErrCorrupt) {
			continue
		}
		if err != nil || !reflect.DeepEqual(got, specs) || !reflect.DeepEqual(aliases, champions) {
			t.Fatalf("bit %d flipped: %v, %v, %v", i, got, aliases, err)
		}
	}
}

// FuzzDecode has any file, and any content with its checksum. What is accepted
// is saved and found again.
func FuzzDecode(f *testing.F) {
	whole, err := encode([]Spec{everything()}, champions)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[bytes.Index(whole, []byte(`{"endpoints"`)) : len(whole)-1])
	f.Add([]byte(`{"endpoints":[{"rules":[],"sticky":null}],"aliases":{"m":null}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, data := range []string{string(data), sealed(string(data))} {
			specs, aliases, err := decode([]byte(data))
			if errors.Is(err, ErrCorrupt) {
				continue
			}
			if err != nil {
				t.Fatalf("%v is not ErrCorrupt", err)
			}
			once, err := encode(specs, aliases)
			if err != nil {
				t.Fatal(err)
			}
			specs, aliases, err = decode(once)
			if err != nil {
				t.Fatal(err)
			}
			if twice, err := encode(specs, aliases); err != nil || !bytes.Equal(once, twice) {
				t.Fatalf("%s becomes %s (%v)", once, twice, err)
			}
		}
	})
}

// sealed is a file with that content.
func sealed(content string) string {
	return `{"millrace_endpoints_format":1,"sha256":"` + checksum([]byte(content)) +
		`","content":` + content + `}`
}
