package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Monitor watches whether the rows of an endpoint, and the answers to them, are still as in the
// reference of the version that serves it.
type Monitor struct {
	// Name in metrics, alarms and paths: letters, digits, `.`, `_` and `-`.
	Name string `yaml:"name" check:"filled"`
	// The endpoint whose rows are looked at.
	Endpoint  string    `yaml:"endpoint" check:"filled"`
	Reference Reference `yaml:"reference"`
	// Columns that are not looked at, such as the label in the reference.
	Ignore []string `yaml:"ignore"`
	// Columns of numbers that are names, such as codes.
	Categorical []string `yaml:"categorical"`
	// Average time between alarms without drift, at least. 0 is 30d.
	FalseAlarmEvery time.Duration `yaml:"false_alarm_every" min:"0s" max:"3650d"`
	// How often the rows since the last time are judged. 0 is 1m.
	Tick time.Duration `yaml:"tick" min:"0s" max:"24h"`
	// What is no drift, in standard deviations: 0.1 is a shift of the mean by a tenth of one,
	// and what is as hard to tell. Left out it is 0.1; 0 finds any lasting difference.
	Tolerance *float64 `yaml:"tolerance" min:"0" max:"1"`
	// Rows a second that are looked at, on average; requests above are not even copied. 0 is 1000.
	RowsPerSecond int           `yaml:"rows_per_second" min:"0" max:"1000000"`
	Alertmanager  *Alertmanager `yaml:"alertmanager"`
}

// Reference is what rows ought to be like. It has one of artifact, file and learn.
type Reference struct {
	// A file among those of the version: .csv, .parquet, or .json as `millrace reference build`
	// writes it. Each version has its own.
	Artifact string `yaml:"artifact"`
	// Such a file for all versions. A relative path starts at the settings file.
	File string `yaml:"file"`
	// The first so many live rows of each version.
	Learn int `yaml:"learn" min:"0" max:"10000000"`
	// Whether what is normal depends on the hour.
	Season string `yaml:"season" enum:",hour_of_day,hour_of_week"`
	// Column of the file with the time of its rows, for season.
	TimeColumn string `yaml:"time_column"`
}

// Alertmanager is who is told of alarms, by its API v2.
type Alertmanager struct {
	// The server's address, with its route prefix where it has one.
	URL string `yaml:"url" check:"filled"`
}

// MonitorTap is the name, in metrics, of the tap through which monitors see rows.
const MonitorTap = "monitors"

// The defaults of a monitor.
const (
	defaultFalseAlarmEvery = 30 * 24 * time.Hour
	defaultTick            = time.Minute
	defaultTolerance       = 0.1
	defaultRowsPerSecond   = 1000
)

// WithDefaults returns the monitor with a value for each key that has one.
func (m Monitor) WithDefaults() Monitor {
	if m.FalseAlarmEvery == 0 {
		m.FalseAlarmEvery = defaultFalseAlarmEvery
	}
	if m.Tick == 0 {
		m.Tick = defaultTick
	}
	if m.Tolerance == nil {
		tolerance := defaultTolerance
		m.Tolerance = &tolerance
	}
	if m.RowsPerSecond == 0 {
		m.RowsPerSecond = defaultRowsPerSecond
	}
	return m
}

// leastTicks is how many ticks there are between false alarms at least. leastTick is the least
// time of one: to judge more often would take the processor from requests. leastLearn is how
// many rows are a reference.
const (
	leastTicks = 10
	leastTick  = 100 * time.Millisecond
	leastLearn = 200
)

// monitorName is what a monitor may be called: it stands in paths and names of alarms.
var monitorName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)

// monitors holds the monitors against the endpoints.
func (c *checker) monitors(all *Config) {
	endpoints := make(map[string]bool, len(all.Endpoints))
	for i := range all.Endpoints {
		endpoints[all.Endpoints[i].Name] = true
	}
	names := make(map[string]int)
	for i := range all.Monitors {
		m := &all.Monitors[i]
		key := fmt.Sprintf("monitors[%d]", i)
		if first, twice := names[m.Name]; twice {
			c.fault(key+".name", "%q is there twice, first in monitors[%d]", m.Name, first)
		} else if m.Name != "" && !monitorName.MatchString(m.Name) {
			c.fault(key+".name", "is %q, must be up to 100 letters, digits, '.', '_' and '-'",
				m.Name)
		}
		names[m.Name] = i
		if m.Endpoint != "" && !endpoints[m.Endpoint] {
			c.fault(key+".endpoint", "is %q, which no endpoint is called", m.Endpoint)
		}
		c.monitor(m.WithDefaults(), key)
	}
}

func (c *checker) monitor(m Monitor, key string) {
	if m.Tick < leastTick {
		c.fault(key+".tick", "is %s, must be %s at least", FormatDuration(m.Tick),
			FormatDuration(leastTick))
	} else if m.FalseAlarmEvery < leastTicks*m.Tick {
		c.fault(key+".false_alarm_every", "is %s, must be %d ticks of %s at least",
			FormatDuration(m.FalseAlarmEvery), leastTicks, FormatDuration(m.Tick))
	} else if m.FalseAlarmEvery/m.Tick > 1e9 {
		c.fault(key+".false_alarm_every", "is %s, must be 1e9 ticks of %s at most",
			FormatDuration(m.FalseAlarmEvery), FormatDuration(m.Tick))
	}
	if m.Alertmanager != nil {
		c.url(key+".alertmanager.url", m.Alertmanager.URL, "http", "https")
	}
	c.reference(&m, key+".reference")
}

func (c *checker) reference(m *Monitor, key string) {
	r := &m.Reference
	count := 0
	for _, is := range [...]bool{r.Artifact != "", r.File != "", r.Learn != 0} {
		if is {
			count++
		}
	}
	path := r.Artifact + r.File
	profile := strings.HasSuffix(path, ".json")
	known := slices.ContainsFunc([]string{".csv", ".parquet", ".json"},
		func(end string) bool { return strings.HasSuffix(path, end) })
	switch {
	case count != 1:
		c.fault(key, "has %d of artifact, file and learn, must have one", count)
	case r.Learn == 0 && !known:
		c.fault(key, "is the file %q, whose name must end in .csv, .parquet or .json", path)
	case r.Learn != 0 && r.Learn < leastLearn:
		c.fault(key+".learn", "is %d, must be %d rows at least; 10000 are good", r.Learn,
			leastLearn)
	case r.Learn != 0 && r.Season != "":
		c.fault(key+".season", "needs data of weeks, which learn does not wait for; "+
			"give it an artifact or a file")
	case profile && (len(m.Ignore)+len(m.Categorical) > 0 || r.Season != "" || r.TimeColumn != ""):
		c.fault(key, "is a profile, in which ignore, categorical, season and time_column are "+
			"settled; give them to `millrace reference build`")
	}
	if m.Tick > time.Hour && r.Season != "" {
		c.fault(key+".season", "goes with a tick of 1h at most")
	}
}
