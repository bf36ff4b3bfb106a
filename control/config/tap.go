package config

import (
	"fmt"
	"net/url"
	"slices"
	"time"
)

// Tap is a stream of samples of live traffic. It has files or cloudevents.
type Tap struct {
	// Name in metrics and logs.
	Name string `yaml:"name" check:"filled"`
	// Endpoints whose requests are sampled. Empty is all.
	Endpoints []string `yaml:"endpoints"`
	// Percent of the requests. Left out it is 100.
	Percent *float64 `yaml:"percent" min:"0" max:"100"`
	// Fields that are left empty: `input.NAME`, `output.NAME`, a tensor's name, `id`, `label`.
	Redact []string `yaml:"redact"`
	// Samples that may wait to be written; what is above is dropped and counted. 0 is 1024.
	Queue       int          `yaml:"queue" min:"0" max:"1000000"`
	Files       *Files       `yaml:"files"`
	CloudEvents *CloudEvents `yaml:"cloudevents"`
}

// Files is a folder of files with samples, for training on live data.
type Files struct {
	// The folder. A relative path starts at the settings file.
	Path string `yaml:"path" check:"filled"`
	// Parquet files, or one JSON object a line.
	Format string `yaml:"format" enum:"parquet,jsonl"`
	// What a crash may lose at most. Each flush of Parquet ends a file. 0 is 10s for jsonl, 1m
	// for parquet.
	Flush time.Duration `yaml:"flush" min:"0s" max:"1h"`
	// Size at which a file ends. 0 is 64MiB.
	RotateBytes Size `yaml:"rotate_bytes" min:"0B" max:"64GiB"`
	// Age at which a file ends. 0 is 1h.
	RotateAge time.Duration `yaml:"rotate_age" min:"0s" max:"8760h"`
	// Bytes of all files that are kept; the oldest go. 0 is 1GiB.
	KeepBytes Size `yaml:"keep_bytes" min:"0B" max:"1024TiB"`
	// Age at which files go. 0 keeps them until there are too many.
	KeepAge time.Duration `yaml:"keep_age" min:"0s" max:"87600h"`
}

// CloudEvents is an address that gets each sample as two events, by KServe's types.
type CloudEvents struct {
	// http or https.
	URL string `yaml:"url" check:"filled"`
	// Time for one event to be taken. 0 is 5s.
	Timeout time.Duration `yaml:"timeout" min:"0s" max:"10m"`
	// Name in the events' source and attributes. Empty is that of the server.
	Source string `yaml:"source"`
	// Attribute namespace of the events.
	Namespace string `yaml:"namespace"`
}

// Keeps says whether samples of an endpoint's requests go to files.
func (t *Tap) Keeps(endpoint string) bool {
	return t.Files != nil && (len(t.Endpoints) == 0 || slices.Contains(t.Endpoints, endpoint))
}

// taps holds the taps against the endpoints.
func (c *checker) taps(all *Config) {
	endpoints := make([]string, len(all.Endpoints))
	for i := range all.Endpoints {
		endpoints[i] = all.Endpoints[i].Name
	}
	names := make(map[string]string)
	for i := range all.Taps {
		t := &all.Taps[i]
		key := fmt.Sprintf("taps[%d]", i)
		c.once(names, t.Name, key)
		if t.Name == MonitorTap {
			c.fault(key+".name", "is %q, which the monitors' own tap is called", t.Name)
		}
		for k, name := range t.Endpoints {
			if !slices.Contains(endpoints, name) {
				c.fault(fmt.Sprintf("%s.endpoints[%d]", key, k),
					"is %q, which no endpoint is called",
					name)
			}
		}
		switch {
		case t.Files == nil && t.CloudEvents == nil:
			c.fault(key, "leads nowhere; give it files or cloudevents")
		case t.Files != nil && t.CloudEvents != nil:
			c.fault(key, "has files and cloudevents; make two taps of it")
		}
		if t.CloudEvents == nil {
			continue
		}
		u, err := url.Parse(t.CloudEvents.URL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			c.fault(key+".cloudevents.url", "is %q, must be an http or https URL",
				t.CloudEvents.URL)
		}
	}
}
