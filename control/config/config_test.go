package config

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestDefaultsAreValid(t *testing.T) {
	c := Default()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	c, err := Parse("empty", nil)
	if err != nil || !reflect.DeepEqual(c, Default()) {
		t.Fatalf("an empty file gives %+v, %v", c, err)
	}
}

// Every number has bounds that can be read, and every field has a key.
func TestBounds(t *testing.T) {
	var walk func(typ reflect.Type, at string)
	walk = func(typ reflect.Type, at string) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			key := at + "." + f.Tag.Get("yaml")
			if f.Tag.Get("yaml") == "" {
				t.Errorf("%s.%s has no key", typ, f.Name)
			}
			inner := f.Type
			for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice {
				inner = inner.Elem()
			}
			switch inner.Kind() {
			case reflect.Struct:
				walk(inner, key)
			case reflect.Int, reflect.Int64:
				if f.Tag.Get("enum") == "" &&
					bound(inner, f.Tag.Get("max")) <= bound(inner, f.Tag.Get("min")) {
					t.Errorf("%s has no range", key)
				}
			case reflect.Float64:
				low, err := strconv.ParseFloat(f.Tag.Get("min"), 64)
				high, fault := strconv.ParseFloat(f.Tag.Get("max"), 64)
				if err != nil || fault != nil || high <= low {
					t.Errorf("%s has no range", key)
				}
			case reflect.Bool, reflect.String, reflect.Map:
			default:
				t.Errorf("%s is a %s, which no test covers", key, inner.Kind())
			}
		}
	}
	walk(reflect.TypeFor[Config](), "")
}

const full = `
server:
  http: 0.0.0.0:9000
  grpc: unix:/run/millrace.sock
  admin: ""
  name: triton
  grace: 5s
  limits: {body_bytes: 8MiB, retry_status: 503}
  json: {nan: "null"}
  log: {level: debug, format: json}
runtime:
  providers: [{name: cuda, options: {device_id: 0}}]
  fallback: true
repository:
  paths: [models, /srv/more]
  mode: explicit
  load: [fraud]
  trial: {memory: 2GiB, timeout: 90s}
models:
  - name: fraud
    batching: {max_batch_size: 64, max_queue_delay: 1ms, queue: {size: 10}}
    version_policy: {specific: [3, v10]}
    instances: 2
`

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "millrace.yaml")
	if err := os.WriteFile(path, []byte(full), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	f := func(name string, got, want any) {
		t.Helper()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s = %v, want %v", name, got, want)
		}
	}
	f("http", c.Server.HTTP, "0.0.0.0:9000")
	f("admin", c.Server.Admin, "")
	f("grace", c.Server.Grace, 5*time.Second)
	f("body_bytes", c.Server.Limits.BodyBytes, Size(8<<20))
	f("header_bytes", c.Server.Limits.HeaderBytes, Default().Server.Limits.HeaderBytes)
	f("nan", c.Server.JSON.NaN, "null")
	f("providers", c.Runtime.Providers, []Provider{{"cuda", map[string]string{"device_id": "0"}}})
	f("paths", c.Repository.Paths,
		[]string{filepath.Join(filepath.Dir(path), "models"), "/srv/more"})
	f("memory", c.Repository.Trial.Memory, Size(2<<30))
	m := c.Models[0]
	f("max_batch_size", *m.Batching.MaxBatchSize, 64)
	f("max_queue_delay", *m.Batching.MaxQueueDelay, time.Millisecond)
	f("queue.size", *m.Batching.Queue.Size, 10)
	f("queue.bytes", m.Batching.Queue.Bytes, (*Size)(nil))
	f("specific", m.Version.Specific, []string{"3", "v10"})
	f("instances", *m.Instances, 2)
}

func TestFaults(t *testing.T) {
	f := func(text string, want ...string) {
		t.Helper()
		_, err := Parse("f.yaml", []byte(text))
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: error is %v", text, err)
			return
		}
		got := strings.Split(err.Error(), "\n")
		if len(got) != len(want) {
			t.Errorf("%q: faults are\n%s", text, err)
			return
		}
		for i := range want {
			if !strings.HasPrefix(got[i], want[i]) {
				t.Errorf("%q: fault %d is\n%s\nwant\n%s", text, i, got[i], want[i])
			}
		}
	}
	f("sever: {}", `f.yaml:1: sever: unknown key; did you mean server?`)
	f("server:\n  prot: 1",
		`f.yaml:2: server.prot: unknown key; allowed are http, grpc, admin, data, name,`)
	f("max_queue_delay: 1ms",
		`f.yaml:1: max_queue_delay: unknown key; allowed are server, runtime, repository, `+
			`sources, models, endpoints, monitors, taps, triggers; there is models[].batching.`)
	f("server: 3", `f.yaml:1: server: is "3", must be a mapping (key: value)`)
	f("server:", `f.yaml:1: server: has no value; give it one or take the key out`)
	f("server: {grace: 5}", `f.yaml:1: server.grace: is "5", must be a duration such as "1ms"`)
	f("server: {grace: -5s}", `f.yaml:1: server.grace: is -5s, must be 0s to 1h`)
	f("server: {threads: 1.5}", `f.yaml:1: server.threads: is "1.5", must be a whole number`)
	f("server: {threads: two}", `f.yaml:1: server.threads: is "two", must be a whole number`)
	f("server: {http: 8000}", `f.yaml:1: server.http: is "8000", must be host:port such as`)
	f("server: {http: 'a:70000'}",
		`f.yaml:1: server.http: is "a:70000", must be host:port with a port from 0 to 65535`)
	f("server: {http: 'unix:'}", `f.yaml:1: server.http: is "unix:", must be host:port such as`)
	f("server: {http: '', grpc: ''}", `f.yaml:1: server.http: is empty and so is server.grpc`)
	f("server: {http: 'a:1', grpc: 'a:1'}",
		`f.yaml:1: server.grpc: is a:1, which server.http has already`)
	f("server: {limits: {body_bytes: 1YB}}",
		`f.yaml:1: server.limits.body_bytes: is "1YB", must be a size such as "64MiB"`)
	f("server: {limits: {body_bytes: 2GiB}}",
		`f.yaml:1: server.limits.body_bytes: is 2GiB, must not be above bytes_in_flight (1GiB)`)
	f("server: {limits: {retry_status: 500}}",
		`f.yaml:1: server.limits.retry_status: is "500", must be one of 429, 503`)
	f("server: {log: {level: inof}}",
		`f.yaml:1: server.log.level: is "inof", must be one of debug, info, warn, error; `+
			`did you mean info?`)
	f("server: {name: ''}", `f.yaml:1: server.name: is empty, must have a value`)
	f("server: {name: [a]}", `f.yaml:1: server.name: is a list, must be text`)
	f("server:\n  name: a\n  name: b", `f.yaml:3: server.name: is there twice, first in line 2`)
	f("runtime: {arena: yes}", `f.yaml:1: runtime.arena: is "yes", must be true or false`)
	f("runtime: {providers: {name: cuda}}",
		`f.yaml:1: runtime.providers: is a mapping, must be a list (- value)`)
	f("runtime: {providers: [{}]}",
		`f.yaml:1: runtime.providers[0].name: is empty, must have a value`)
	f("repository: {load: [a]}", `f.yaml:1: repository.load: is for mode explicit; mode is none`)
	f("models:\n- name: a\n- name: a",
		`f.yaml:3: models[1].name: "a" is there twice, first in models[0]`)
	f("models:\n- name: a\n  version_policy: {latest: 1, all: true}",
		`f.yaml:3: models[0].version_policy: has 2 keys, must have one of latest, all, specific`)
	f("models:\n- name: a\n  batching: {max_batch_size: 4, preferred_batch_size: [2, 8]}",
		`f.yaml:3: models[0].batching.preferred_batch_size[1]: is 8, `+
			`must not be above max_batch_size (4)`)
	f("a: [", `f.yaml:1: not YAML: did not find expected node content`)
	f("{}\n---\n{}", `f.yaml:2: a second document starts here`)
	f("- a", `f.yaml:1: is a list, must be a mapping (key: value)`)
	f("server:\n  prot: 1\n  grace: 2\nmodel: []\n",
		`f.yaml:2: server.prot: unknown key`, `f.yaml:3: server.grace: is "2"`,
		`f.yaml:4: model: unknown key; did you mean models?`)
}

// Aliases of aliases cannot unfold without end.
func TestAliasBomb(t *testing.T) {
	text := "a: &a [x,x,x,x,x,x,x,x,x,x]\nruntime: {providers: &b [" +
		strings.Repeat("{name: a},", 400) + "]}\nmodels: [" +
		strings.Repeat("{name: a, providers: *b},", 400) + "]\n"
	_, err := Parse("f.yaml", []byte(text))
	if err == nil || !strings.Contains(err.Error(), "more than 100000 values") {
		t.Errorf("error is %.300v", err)
	}
}

func TestSize(t *testing.T) {
	f := func(text string, want Size, written string) {
		t.Helper()
		got, err := ParseSize(text)
		if err != nil || got != want || got.String() != written {
			t.Errorf("ParseSize(%q) = %d (%s), %v", text, got, got, err)
		}
	}
	f("0", 0, "0")
	f("17", 17, "17")
	f("64MiB", 64<<20, "64MiB")
	f("1.5 GiB", 3<<29, "1536MiB")
	f("10MB", 10e6, "10000000")
	f("3B", 3, "3")
	for _, bad := range []string{"", "MiB", "-1", "1e30", "NaN", "inf", "1XB", "9EB"} {
		if _, err := ParseSize(bad); err == nil {
			t.Errorf("ParseSize(%q) gives no error", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(full)
	f.Add("a: &a [*a]")
	f.Add("server: &s {limits: *s}")
	f.Add("? [1]\n: 2")
	f.Add("<<: {server: 1}")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse("f", []byte(text))
		if err == nil && c.Validate() != nil {
			t.Errorf("what was read is invalid: %v", c.Validate())
		}
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("error of the wrong kind: %v", err)
		}
	})
}

// The settings file that people start from is right, and serves the sample models.
func TestShippedFile(t *testing.T) {
	const shipped = "../../configs/millrace.yaml"
	c, err := Load(shipped)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Repository.Paths) != 1 {
		t.Fatalf("it serves %q", c.Repository.Paths)
	}
	for _, m := range append(c.Models, Model{Name: "iris"}) {
		if _, err := os.Stat(filepath.Join(c.Repository.Paths[0], m.Name)); err != nil {
			t.Error(err)
		}
	}
	// What it gives as a default behind a # is one: with all of them uncommented
	// nothing changes.
	text, err := os.ReadFile(shipped)
	if err != nil {
		t.Fatal(err)
	}
	defaults := regexp.MustCompile(`(?m)^( +)# ([a-z_]+: .*)$`).ReplaceAllFunc(text,
		func(line []byte) []byte {
			if bytes.Contains(line, []byte("providers:")) {
				return line // an example
			}
			return bytes.Replace(line, []byte("# "), nil, 1)
		})
	if bytes.Count(defaults, []byte("# ")) > bytes.Count(text, []byte("# "))-8 {
		t.Error("the file hardly shows any default")
	}
	all, err := Parse(shipped, defaults)
	if err != nil {
		t.Fatal(err)
	}
	all.resolve(filepath.Dir(shipped))
	delay := time.Duration(0)
	c.Models[0].Batching.MaxQueueDelay = &delay
	if !reflect.DeepEqual(all, c) {
		t.Errorf("with its defaults written out the file says\n%+v\ninstead of\n%+v", all, c)
	}
}
