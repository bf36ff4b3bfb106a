package config

import (
	"fmt"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Validate lists everything that is wrong with the values.
func (c *Config) Validate() error { return newError("", c.check()) }

// checker gathers the faults of values.
type checker struct{ faults []Fault }

func (c *checker) fault(key, format string, args ...any) {
	c.faults = append(c.faults, Fault{Key: key, Text: fmt.Sprintf(format, args...)})
}

// once notes the key of what has a name, and says whether none before it has the same: that is a
// fault. An empty map has no names yet.
func (c *checker) once(keys map[string]string, name, key string) bool {
	first, twice := keys[name]
	if twice {
		c.fault(key+".name", "%q is there twice, first in %s", name, first)
		return false
	}
	keys[name] = key
	return true
}

func (c *Config) check() []Fault {
	var k checker
	k.walk(reflect.ValueOf(c).Elem(), "", "")
	names := make(map[string]string)
	for i := range c.Models {
		m := &c.Models[i]
		key := fmt.Sprintf("models[%d]", i)
		k.once(names, m.Name, key)
		k.model(m, key)
	}
	k.server(&c.Server)
	if c.Repository.Mode != "explicit" && len(c.Repository.Load) > 0 {
		k.fault("repository.load", "is for mode explicit; mode is %s, which loads all models",
			c.Repository.Mode)
	}
	k.sources(c)
	k.endpoints(c)
	k.monitors(c)
	k.taps(c)
	k.triggers(c)
	return k.faults
}

func (c *checker) server(s *Server) {
	if s.HTTP == "" && s.GRPC == "" {
		c.fault("server.http", "is empty and so is server.grpc; give one of them an address")
	}
	if s.Limits.BodyBytes > s.Limits.BytesInFlight {
		c.fault("server.limits.body_bytes", "is %s, must not be above bytes_in_flight (%s)",
			s.Limits.BodyBytes, s.Limits.BytesInFlight)
	}
	taken := make(map[string]string)
	for _, l := range [...]struct{ key, address string }{
		{"server.http", s.HTTP}, {"server.grpc", s.GRPC}, {"server.admin", s.Admin},
	} {
		other, twice := taken[l.address]
		if twice && l.address != "" && !strings.HasSuffix(l.address, ":0") {
			c.fault(l.key, "is %s, which %s has already; give it another port", l.address, other)
		}
		taken[l.address] = l.key
	}
}

func (c *checker) model(m *Model, key string) {
	set := 0
	for _, is := range [...]bool{m.Version.Latest != nil, m.Version.All != nil,
		m.Version.Specific != nil} {
		if is {
			set++
		}
	}
	if set > 1 {
		c.fault(key+".version_policy", "has %d keys, must have one of latest, all, specific", set)
	}
	if m.Golden != nil {
		c.golden(m, key)
	}
	b := &m.Batching
	if b.MaxBatchSize == nil {
		return
	}
	for i, size := range b.PreferredBatchSize {
		if size > *b.MaxBatchSize {
			c.fault(fmt.Sprintf("%s.batching.preferred_batch_size[%d]", key, i),
				"is %d, must not be above max_batch_size (%d)", size, *b.MaxBatchSize)
		}
	}
}

// golden wants one bound, of the side that the metric has.
func (c *checker) golden(m *Model, key string) {
	g := m.Golden
	wanted, other, set, not := "min_score", "max_error", g.MinScore, g.MaxError
	if g.Metric == "mae" || g.Metric == "rmse" {
		wanted, other, set, not = other, wanted, not, set
	}
	switch {
	case set == nil:
		c.fault(key+".golden."+wanted, "is missing; it says what score will do")
	case not != nil:
		c.fault(key+".golden."+other, "does not go with the metric; %s does", wanted)
	case m.Source == "":
		c.fault(key+".golden", "is for versions that come from a source; the model has none")
	}
}

// walk holds every value below v against its tags.
func (c *checker) walk(v reflect.Value, key string, tag reflect.StructTag) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			c.walk(v.Elem(), key, tag)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			c.walk(v.Field(i), join(key, f.Tag.Get("yaml")), f.Tag)
		}
	case reflect.Slice:
		for i := range v.Len() {
			c.walk(v.Index(i), fmt.Sprintf("%s[%d]", key, i), tag)
		}
	case reflect.Int, reflect.Int64:
		c.number(v, key, tag)
	case reflect.Float64:
		c.float(v.Float(), key, tag)
	case reflect.String:
		c.text(v.String(), key, tag)
	}
}

func (c *checker) number(v reflect.Value, key string, tag reflect.StructTag) {
	if allowed, ok := tag.Lookup("enum"); ok {
		c.enum(strconv.FormatInt(v.Int(), 10), key, allowed)
		return
	}
	low, high := bound(v.Type(), tag.Get("min")), bound(v.Type(), tag.Get("max"))
	if v.Int() < low || v.Int() > high {
		c.fault(key, "is %v, must be %s to %s", v.Interface(), tag.Get("min"), tag.Get("max"))
	}
}

// float holds a number with a fraction against its bounds; NaN is in none.
func (c *checker) float(f float64, key string, tag reflect.StructTag) {
	low, _ := strconv.ParseFloat(tag.Get("min"), 64)
	high, _ := strconv.ParseFloat(tag.Get("max"), 64)
	if !(f >= low && f <= high) {
		c.fault(key, "is %v, must be %s to %s", f, tag.Get("min"), tag.Get("max"))
	}
}

// bound reads a bound in the notation of the field's type. Every number has
// both bounds; TestBounds sees to it.
func bound(t reflect.Type, text string) int64 {
	switch t {
	case reflect.TypeFor[time.Duration]():
		d, _ := parseDuration(text)
		return int64(d)
	case reflect.TypeFor[Size]():
		s, _ := ParseSize(text)
		return int64(s)
	}
	n, _ := strconv.ParseInt(text, 10, 64)
	return n
}

func (c *checker) text(text, key string, tag reflect.StructTag) {
	if allowed, ok := tag.Lookup("enum"); ok {
		c.enum(text, key, allowed)
	}
	switch tag.Get("check") {
	case "filled":
		if strings.TrimSpace(text) == "" {
			c.fault(key, "is empty, must have a value")
		}
	case "address":
		if err := checkAddress(text); err != nil {
			c.fault(key, "is %q, must be %v", text, err)
		}
	}
}

func (c *checker) enum(text, key, allowed string) {
	c.oneOf(key, text, strings.Split(allowed, ","))
}

// oneOf wants a text to be one of the words.
func (c *checker) oneOf(key, text string, words []string) {
	if slices.Contains(words, text) {
		return
	}
	words = slices.DeleteFunc(slices.Clone(words), func(w string) bool { return w == "" })
	if best := nearest(text, words); best != "" {
		c.fault(key, "is %q, must be one of %s; did you mean %s?", text, strings.Join(words, ", "),
			best)
		return
	}
	c.fault(key, "is %q, must be one of %s", text, strings.Join(words, ", "))
}

var errAddress = fmt.Errorf("host:port such as 127.0.0.1:8000, unix:/path, or empty for none")

// checkAddress returns what is allowed when address is not.
func checkAddress(address string) error {
	if address == "" {
		return nil
	}
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		if path == "" {
			return errAddress
		}
		return nil
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return errAddress
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("host:port with a port from 0 to 65535")
	}
	return nil
}
