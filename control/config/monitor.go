package config

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/registry/fetch"
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
	// Each answer says how unusual its rows are, and whether one is such an outlier; this takes a
	// microsecond or two a row. One monitor of an endpoint may have it.
	OutlierScore bool `yaml:"outlier_score"`
	// Column whose most frequent values, ten at most, are also looked at one by one, each with the
	// reference's rows that have it.
	Segment string `yaml:"segment"`
	// Address of the admin port of another server, whose monitor of this name judges what this one
	// counts with what it counts itself: replicas of a server watch as one. Empty to judge here.
	Judge        string        `yaml:"judge"`
	Alertmanager *Alertmanager `yaml:"alertmanager"`
	// Who is told when an alarm is raised, acknowledged and over.
	Notify []Notice `yaml:"notify"`
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
	// Column of the reference's file, a table, with what the answers of output should have been:
	// reference_error is computed of it. A profile has it where `millrace reference build` was
	// given the --label. These rows must be ones that the model was not trained on.
	Label string `yaml:"label"`
	// Mean loss of answers to rows that the model was not trained on, such as its error rate there.
	// Without it and a label, that of the first reference_rows live answers.
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

// Alertmanager is who is told of alarms, by its API v2. It has one of url and urls.
type Alertmanager struct {
	// The server's address, with its route prefix where it has one.
	URL string `yaml:"url"`
	// Those of all members of a cluster. Each gets every alert, and one has to take it.
	URLs   []string `yaml:"urls"`
	Access Access   `yaml:"access"`
}

// Members is how each of the servers is asked.
func (a *Alertmanager) Members() []fetch.Config {
	var all []fetch.Config
	for _, address := range a.urls() {
		all = append(all, a.Access.server(address))
	}
	return all
}

func (a *Alertmanager) urls() []string {
	if a.URL != "" {
		return append([]string{a.URL}, a.URLs...)
	}
	return a.URLs
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
	names, scored := make(map[string]string), make(map[string]string)
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
		if other := scored[m.Endpoint]; m.OutlierScore && other != "" {
			c.fault(key+".outlier_score", "is true, as it is of %s for the same endpoint, whose "+
				"answers have one score; take it away from one of them", other)
		} else if m.OutlierScore {
			scored[m.Endpoint] = key
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
		c.alertmanager(m.Alertmanager, key+".alertmanager")
	}
	c.notices(m.Notify, key+".notify")
	if m.OutlierScore && m.Outliers == 0 {
		c.fault(key+".outlier_score", "needs outliers, the share of the reference's rows that are "+
			"some: 0.01 is good")
	}
	if m.Judge != "" {
		c.judge(&m, key)
	}
	c.reference(&m, key+".reference")
	c.metrics(m.Metrics, key+".metrics")
	if m.Performance != nil {
		c.performance(m.Performance, key+".performance")
		c.label(&m, key+".performance.label")
	}
}

func (c *checker) alertmanager(a *Alertmanager, key string) {
	if (a.URL == "") == (len(a.URLs) == 0) {
		c.fault(key, "must have one of url and urls")
	}
	at := func(i int) string { // the key of one of urls
		if a.URL != "" {
			return key + ".url"
		}
		return fmt.Sprintf("%s.urls[%d]", key, i)
	}
	for i, text := range a.urls() {
		u, err := url.Parse(text)
		switch {
		case strings.Contains(text, "@"):
			c.fault(at(i), "has a user name or a password; give them to access, which keeps "+
				"secrets out of the settings")
		case err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https":
			c.fault(at(i), "is %q, must be a URL that begins with http:// or https://", text)
		case slices.Index(a.urls(), text) < i:
			c.fault(at(i), "is %q, which is there twice", text)
		}
	}
	server := a.Access.server("http://localhost") // addresses are looked at above
	if err := server.Validate(); err != nil {
		for line := range strings.Lines(err.Error()) {
			c.fault(key+".access", "%s", strings.TrimSpace(line))
		}
	}
}

// judge checks a monitor that another server judges.
func (c *checker) judge(m *Monitor, key string) {
	if u, err := url.Parse(m.Judge); err != nil || u.Hostname() == "" || u.User != nil ||
		u.Scheme != "http" && u.Scheme != "https" {
		c.fault(key+".judge", "is %q, must be the URL of an admin port such as "+
			"http://millrace-0.millrace:8002", m.Judge)
	}
	if m.Reference.Learn != 0 {
		c.fault(key+".reference.learn", "does not go with judge: all replicas need the same "+
			"reference; give it an artifact or a file")
	}
	for name, is := range map[string]bool{"alertmanager": m.Alertmanager != nil,
		"notify": len(m.Notify) > 0} {
		if is {
			c.fault(key+"."+name, "does not go with judge, which raises the alarms; take it away "+
				"here and give it to the monitor of the judge")
		}
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

// label holds the column of the labels against where it is.
func (c *checker) label(m *Monitor, key string) {
	p, r := m.Performance, &m.Reference
	switch {
	case p.Label == "":
	case p.ReferenceError != nil:
		c.fault(key, "stands beside reference_error, which is computed of it; give one of them")
	case p.Output == "" || p.Label == p.Output:
		c.fault(key, "is what output should have been: name the output, another column")
	case r.Learn != 0:
		c.fault(key, "is a column of the reference's file; live rows that are learned have none")
	case strings.HasSuffix(r.Artifact+r.File, ".json"):
		c.fault(key, "is settled in a profile; give it to `millrace reference build`")
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
