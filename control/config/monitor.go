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
	RowsPerSecond int          `yaml:"rows_per_second" min:"0" max:"1000000"`
	Performance   *Performance `yaml:"performance"`
	// Rows that hardly any of the reference are like are counted, and there is an alarm when they
	// are more: the share of the reference's rows that are outliers, about. 0 looks for none.
	Outliers float64 `yaml:"outliers" min:"0" max:"0.1"`
	// Column whose most frequent values, ten at most, are also looked at one by one, each with the
	// reference's rows that have it.
	Segment      string        `yaml:"segment"`
	Alertmanager *Alertmanager `yaml:"alertmanager"`
	// Numbers of the rows for Prometheus.
	Metrics []Metric `yaml:"metrics"`
}

// Performance has a monitor also look at what POST /v2/feedback tells of the answers. An answer has
// a loss from 0 to 1, and there is an alarm when the mean loss is above that of the reference.
type Performance struct {
	// Column of the answers that labels are compared with, such as `probabilities.class`. Without
	// one the loss is 1 less the reward.
	Output string `yaml:"output"`
	// For answers that are numbers: the error that is a loss of 1, as is a greater one; a smaller
	// one is so much less. Without it an answer that is not the label is a loss of 1.
	Scale float64 `yaml:"scale" min:"0" max:"1e18"`
	// Mean loss of answers to rows that the model was not trained on, such as its error rate there.
	// Without it, that of the first reference_rows live answers.
	ReferenceError *float64 `yaml:"reference_error" min:"0" max:"1"`
	// How many answers that is the mean of: the more, the smaller a rise can be told. 0 is 1000.
	ReferenceRows int `yaml:"reference_rows" min:"0" max:"1000000000"`
	// Output with the probabilities of the classes, or of one of two. By it is estimated how many
	// answers are right, also without labels, once the first reference_rows labels have told how
	// often answers that sure are.
	Probabilities string `yaml:"probabilities"`
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
	defaultReferenceRows   = 1000
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
	if m.Performance != nil && m.Performance.ReferenceRows == 0 {
		p := *m.Performance
		p.ReferenceRows = defaultReferenceRows
		m.Performance = &p
	}
	return m
}

// kinds is how many kinds of evidence a monitor looks at.
func (m *Monitor) kinds() (n int) {
	for _, is := range [...]bool{true, m.Performance != nil, m.Outliers > 0, m.Segment != ""} {
		if is {
			n++
		}
	}
	return n
}

// EvidenceOfAlarm is the evidence that an alarm takes, of a monitor with all defaults: the ticks
// between false alarms, of which each kind of evidence has its share.
func (m *Monitor) EvidenceOfAlarm() float64 {
	return float64(m.kinds()) * float64(m.FalseAlarmEvery) / float64(m.Tick)
}

// leastTicks is how many ticks there are between false alarms at least. leastTick is the least
// time of one: to judge more often would take the processor from requests. leastLearn is how
// many rows are a reference, and mostError the mean loss above which one is none.
const (
	leastTicks = 10
	leastTick  = 100 * time.Millisecond
	leastLearn = 200
	mostError  = 0.95
)

// monitorName is what a monitor may be called: it stands in paths and names of alarms.
var monitorName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)

// monitors holds the monitors against the endpoints.
func (c *checker) monitors(all *Config) {
	endpoints := make(map[string]bool, len(all.Endpoints))
	for i := range all.Endpoints {
		endpoints[all.Endpoints[i].Name] = true
	}
	names := make(map[string]string)
	for i := range all.Monitors {
		m := &all.Monitors[i]
		key := fmt.Sprintf("monitors[%d]", i)
		if c.once(names, m.Name, key) && m.Name != "" && !monitorName.MatchString(m.Name) {
			c.fault(key+".name", "is %q, must be up to 100 letters, digits, '.', '_' and '-'",
				m.Name)
		}
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
	} else if m.EvidenceOfAlarm() > 1e9 {
		c.fault(key+".false_alarm_every", "is %s, must be 1e9 ticks of %s at most, times the %d "+
			"kinds of evidence", FormatDuration(m.FalseAlarmEvery), FormatDuration(m.Tick),
			m.kinds())
	}
	if m.Alertmanager != nil {
		c.url(key+".alertmanager.url", m.Alertmanager.URL, "http", "https")
	}
	c.reference(&m, key+".reference")
	c.metrics(m.Metrics, key+".metrics")
	if m.Performance != nil {
		c.performance(m.Performance, key+".performance")
	}
}

func (c *checker) performance(p *Performance, key string) {
	if p.Scale > 0 && p.Output == "" {
		c.fault(key+".scale", "is of labels: name the output that they are compared with")
	}
	if p.Probabilities != "" && (p.Output == "" || p.Scale > 0) {
		c.fault(key+".probabilities", "are of classes: name the output that labels are compared "+
			"with, without a scale")
	}
	if p.ReferenceRows < leastLearn {
		c.fault(key+".reference_rows", "is %d, must be %d at least; 10000 are good",
			p.ReferenceRows, leastLearn)
	}
	if e := p.ReferenceError; e != nil && *e > mostError {
		c.fault(key+".reference_error", "is %g, must be %g at most: it could hardly become worse",
			*e, mostError)
	}
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
