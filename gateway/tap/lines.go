package tap

import (
	"encoding/json"
	"io"
	"strconv"
	"time"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// lines writes JSON Lines. All lines of a file have the same keys, in the order
// of the columns of a Parquet file.
type lines struct {
	w      io.Writer
	layout *layout
	buf    []byte // lines that were not written yet
	bytes  int64  // written
}

// A file gets pieces of this size, but for what is left at a flush.
const lineBuffer = 256 << 10

// timeForm has the precision of Parquet's column, and one length: what guesses
// types guesses right.
const timeForm = "2006-01-02T15:04:05.000000Z"

func (l *lines) add(r Record) error {
	if r.Sample != nil {
		l.buf = l.appendSample(l.buf, r.Sample)
	} else {
		l.buf = appendFeedback(l.buf, r.Feedback)
	}
	if l.buf = append(l.buf, '\n'); len(l.buf) >= lineBuffer {
		return l.end()
	}
	return nil
}

func (l *lines) size() int64 { return l.bytes + int64(len(l.buf)) }

func (l *lines) end() error {
	if len(l.buf) == 0 {
		return nil
	}
	n, err := l.w.Write(l.buf)
	l.bytes += int64(n)
	if l.buf = l.buf[:0]; cap(l.buf) > 4*lineBuffer {
		l.buf = nil
	}
	return err
}

// appendSample appends the object of a sample.
func (l *lines) appendSample(dst []byte, s *Sample) []byte {
	dst = appendHead(append(dst, `{"kind":"sample"`...), s.ID, s.Time)
	dst = appendMember(dst, "endpoint", s.Endpoint)
	dst = appendMember(dst, "model", s.Model)
	dst = appendMember(dst, "version", s.Version)
	dst = appendMember(dst, "route", s.Route)
	dst = appendDouble(append(dst, `,"propensity":`...), s.Propensity)
	dst = appendMember(dst, "protocol", s.Protocol)
	dst = appendMember(dst, "outcome", s.Outcome)
	dst = strconv.AppendInt(append(dst, `,"status":`...), int64(s.Status), 10)
	dst = appendDouble(append(dst, `,"total_seconds":`...), s.Total.Seconds())
	dst = appendDouble(append(dst, `,"queue_seconds":`...), s.Queue.Seconds())
	dst = appendDouble(append(dst, `,"compute_seconds":`...), s.Compute.Seconds())
	for i, t := range l.layout.places {
		c := &l.layout.columns[i]
		dst = appendText(append(dst, ','), c.key)
		if c.binary {
			dst = append(dst[:len(dst)-1], `.base64"`...)
		}
		dst = append(dst, ':')
		if t == nil {
			dst = append(dst, "null"...)
		} else {
			dst = appendValues(dst, t, c.binary)
		}
		dst = append(appendText(append(dst, ','), c.shape), ':')
		if t == nil {
			dst = append(dst, "null"...)
		} else {
			dst = tensor.AppendShape(dst, t.Shape)
		}
	}
	return append(dst, '}')
}

// appendFeedback appends the object of a feedback.
func appendFeedback(dst []byte, f *Feedback) []byte {
	dst = appendHead(append(dst, `{"kind":"feedback"`...), []byte(f.ID), f.Time)
	dst = appendMember(dst, "endpoint", f.Endpoint)
	dst = appendMember(dst, "model", f.Model)
	dst = appendMember(dst, "version", f.Version)
	dst = appendMember(dst, "route", f.Route)
	dst = append(dst, `,"reward":`...)
	if f.Reward == nil {
		dst = append(dst, "null"...)
	} else {
		dst = appendDouble(dst, *f.Reward)
	}
	dst = append(dst, `,"label":`...)
	return append(append(dst, labelText(f.Label)...), '}')
}

// labelText returns a label as JSON, null where there is none.
func labelText(label any) []byte {
	text, err := json.Marshal(label)
	if err != nil {
		return []byte("null") // a JSON value always marshals
	}
	return text
}

// appendHead appends the members that all records have. No id is a redacted one.
func appendHead(dst, id []byte, at time.Time) []byte {
	if len(id) == 0 {
		dst = append(dst, `,"id":null`...)
	} else {
		dst = appendText(append(dst, `,"id":`...), id)
	}
	dst = at.UTC().AppendFormat(append(dst, `,"time":"`...), timeForm)
	return append(dst, '"')
}

func appendMember(dst []byte, name, value string) []byte {
	return appendText(append(appendText(append(dst, ','), name), ':'), value)
}
