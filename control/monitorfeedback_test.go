package control

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// answered has a version answer some requests of one row, whose class becomes known after each:
// that which was answered, or another one in some of ten cases.
func (s *stream) answered(version string, rows, wrong int) {
	s.b.t.Helper()
	for i := range rows {
		var data []byte
		for _, x := range s.row() {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(x))
		}
		in, id := s.sig.Inputs[0], fmt.Appendf(nil, "%d-%d", s.b.now.UnixNano(), i)
		outputs := make([]tensor.Tensor, len(s.sig.Outputs))
		class := s.rng.IntN(2)
		for k, out := range s.sig.Outputs {
			if out.Name == "label" {
				outputs[k] = tensor.Tensor{Name: out.Name, Datatype: tensor.Int64,
					Shape: []int64{1}, Data: binary.LittleEndian.AppendUint64(nil, uint64(class))}
			}
		}
		s.b.Sampled(&Sample{Endpoint: "e", Model: "m", Version: version, Request: monitor.Request{
			ID: id, Time: s.b.now, Outputs: outputs, Inputs: []tensor.Tensor{{Name: in.Name,
				Datatype: in.Datatype, Shape: []int64{1, int64(s.features())}, Data: data}}}})
		if s.rng.IntN(10) < wrong {
			class++
		}
		s.b.Learned(&Feedback{ID: id, Endpoint: "e", Model: "m", Version: version, Time: s.b.now,
			Label: fmt.Append(nil, class)})
	}
	s.b.now = s.b.now.Add(time.Minute + time.Second)
	s.b.tickAll(s.b.now)
}

// Labels that say that answers are worse are an alarm of that kind, for people, for metrics and for
// what is told of it. Those of other versions are left out.
func TestPerformance(t *testing.T) {
	b, s := watching(t, `, "performance": {"output": "label", "reference_error": 0.1}`)
	if st := s.status(); st.Threshold != 2*7*24*60 {
		t.Errorf("with two kinds an alarm takes %v", st.Threshold)
	}
	for range 50 {
		s.answered("1", 30, 1)
		s.answered("2", 30, 10)
	}
	if st := s.status(); st.State != monitor.StateOK {
		t.Fatalf("the state is %s: %s", st.State, st.Reason)
	}
	n := 0
	for ; n < 50 && s.status().State != monitor.StateAlarm; n++ {
		s.answered("1", 30, 4)
	}
	st := s.status()
	t.Logf("alarm after %d ticks: %s", n, st.Reason)
	if st.State != monitor.StateAlarm || !strings.Contains(st.Reason, "answers are worse") {
		t.Fatalf("the status is %+v", st)
	}
	a := b.alarms()[0]
	if a.Kind != monitor.KindPerformance || a.Reading.Performance.Unknown != 0 {
		t.Errorf("the alarm is %+v", a)
	}
	one := alertOf(&untold{name: "watch/1", Alarm: a}, "")
	if one.Labels["alertname"] != "MillracePerformance" ||
		!strings.HasPrefix(one.Annotations["summary"], "Worse answers at endpoint e") {
		t.Errorf("the alert is %+v", one)
	}
	if events := b.view.endpoints["e"].status.Events; len(events) == 0 ||
		!strings.Contains(events[0].Text, "performance alarm watch/1") {
		t.Errorf("the endpoint's events are %+v", events)
	}
	metrics := gathered(t, b.Plane)
	known := metrics["millrace_monitor_feedback_total known watch"]
	if known == "" || known == "0" {
		t.Errorf("%s labels are known: %v", known, metrics)
	}
	b.restart()
	b.opened()
	if r := s.status().Last.Performance; r == nil || r.Known == 0 {
		t.Errorf("after a restart: %+v", r)
	}
}

// A column that the model does not answer with is named, with those that it has.
func TestPerformanceOutput(t *testing.T) {
	b := open(t)
	b.aliases("1", "2")
	b.put("Endpoint", "e", `{"model": "m", "stable": "@champion"}`)
	s := newStream(b)
	b.put("Monitor", "watch", `{"endpoint": "e", "reference": {"learn": 1000},
		"performance": {"output": "species"}}`)
	b.eventually("it says so", func() bool {
		b.tickAll(b.now)
		st := s.status()
		return st.State == monitor.StateError && strings.Contains(st.Reason, `called "species"`)
	})
}

// Outliers and segments are looked at where the settings say so; what the reference lacks is told.
func TestOutliersAndSegments(t *testing.T) {
	b, s := watching(t, `, "outliers": 0.01`)
	s.ticks(30, monitor.StateAlarm)
	if o := s.status().Last.Outliers; o == nil || o.Rows != 1500 || o.Above == 0 {
		t.Fatalf("the outliers are %+v", o)
	}
	if n := gathered(t, b.Plane)["millrace_monitor_outliers_total watch"]; n == "" || n == "0" {
		t.Errorf("%s outliers", n)
	}
	b.put("Monitor", "watch", fmt.Sprintf(`{"endpoint": "e", "reference": {"file": %q},
		"ignore": ["target"], "segment": %q}`, s.reference(5000), s.name(0)))
	b.eventually("no value is frequent", func() bool {
		b.tickAll(b.now)
		return strings.Contains(s.status().Reason, fmt.Sprintf("no value of %q has 200", s.name(0)))
	})
}
