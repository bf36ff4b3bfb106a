package monitor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/drift/performance"
	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/drift/sketch"
)

// Loss says how wrong an answer is, from 0 to 1, by what becomes known of it.
type Loss struct {
	// Output is the column of the answers that a label is compared with. Without one the loss is
	// 1 less the reward.
	Output string
	// Scale is the error of a number that is a loss of 1, as is a greater one. With 0 each answer
	// that is not the label is.
	Scale float64
	// Expected is the mean loss of Rows answers that were sound. With nil that of the reference is
	// taken, where it has losses, and else that of the first so many.
	Expected *float64
	Rows     int
	// Probabilities is the output with those of the classes, by which is estimated how many answers
	// are right; the first Rows labels teach that. Empty for no estimate.
	Probabilities string
}

// Performance is what labels or rewards tell of the answers.
type Performance struct {
	Strand
	Known   uint64 `json:"known"`           // losses of answers since the version began
	Unknown uint64 `json:"unknown"`         // labels of answers not remembered, or that fit none
	Learned int    `json:"learned"`         // losses for a reference
	Learn   int    `json:"learn,omitempty"` // how many are needed; 0 when there is one
	// The mean loss of the last hundred answers or so, of the reference, and up to which it is no
	// harm. Recent is Limit before the first.
	Recent   float64 `json:"recent"`
	Expected float64 `json:"expected"`
	Limit    float64 `json:"limit"`
	// The losses since the evidence has grown.
	Since performance.Losses `json:"since"`
	// When the last loss became known, about, and for how many ticks of rows none has since.
	Latest time.Time `json:"latest,omitzero"`
	Silent uint64    `json:"silent,omitempty"`
	// What is likely without labels, once it was taught by some.
	Estimate *Estimate `json:"estimate,omitempty"`
}

// performer holds answers against what becomes known of them later.
type performer struct {
	loss    Loss
	place   int // of the output in a row, -1 for rewards
	seed    maphash.Seed
	answers answers
	learned performance.Losses
	harm    *harm    // nil while its reference is learned
	fresh   []answer // to the request that is being taken apart
	last    Performance
	// Where another monitor judges: how much of last.Unknown was taken, and when the first of
	// learned came.
	taken uint64
	began time.Time

	estimating *estimating // nil where there is no estimate
}

// newPerformer returns one for rows that end with these outputs after so many inputs. The losses
// are those of the reference, nil where it has none.
func newPerformer(
	c *Config, inputs int, outputs []string, known *reference.Losses,
) (*performer, error) {
	p := &performer{loss: *c.Loss, place: -1, seed: maphash.MakeSeed()}
	if p.loss.Output != "" {
		at := slices.Index(outputs, p.loss.Output)
		if at < 0 {
			return nil, noAnswers("output", p.loss.Output, outputs)
		}
		p.place = inputs + at
	}
	if p.loss.Probabilities != "" {
		var err error
		if p.estimating, err = newEstimating(&p.loss, inputs, outputs); err != nil {
			return nil, err
		}
	}
	if e := p.loss.Expected; e != nil {
		rows := uint64(p.loss.Rows)
		return p, p.begin(performance.Losses{Rows: rows, Sum: *e * float64(rows)}, c)
	}
	if known == nil || p.loss.Output == "" {
		return p, nil
	}
	if known.Output != p.loss.Output || known.Scale != p.loss.Scale {
		return nil, fmt.Errorf("the reference has the losses of output %q with scale %v, and the "+
			"monitor looks at %q with %v; build it anew, or give performance.reference_error",
			known.Output, known.Scale, p.loss.Output, p.loss.Scale)
	}
	return p, p.begin(performance.Losses{Rows: known.Rows, Sum: known.Sum}, c)
}

// lossesOf returns those of a reference, which may be nil.
func lossesOf(p *reference.Profile) *reference.Losses {
	if p == nil {
		return nil
	}
	return p.Losses
}

// noAnswers is returned for a key that names no answers.
func noAnswers(key, name string, outputs []string) error {
	return fmt.Errorf("the model has no answers of fixed width that are called %q, as "+
		"performance.%s says; there are: %s", name, key, strings.Join(outputs, ", "))
}

func (p *performer) begin(sound performance.Losses, c *Config) (err error) {
	p.learned = sound
	p.harm, err = newHarm(KindPerformance, sound, c)
	return err
}

// note takes an answer of a request, remember keeps all of them once there are no more.
func (p *performer) note(row []sketch.Value) {
	if p.place < 0 {
		return
	}
	a := answer{value: p.value(row[p.place])}
	if e := p.estimating; e != nil {
		confidence := e.confidence(row)
		e.live.Add(confidence)
		a.confidence = float32(confidence)
	}
	p.fresh = append(p.fresh, a)
}

func (p *performer) remember(id []byte) {
	rows := uint32(len(p.fresh))
	for i, a := range p.fresh {
		a.rows = rows
		p.answers.put(p.key(id, i), a)
	}
	p.fresh = p.fresh[:0]
}

// key stands for an answer to a request. That two have the same one does not happen in practice.
func (p *performer) key(id []byte, row int) uint64 {
	const spread = 0x9e3779b97f4a7c15 // odd: rows of a request have keys of their own
	return maphash.Bytes(p.seed, id) + uint64(row)*spread
}

// value is what is kept of an answer: the number where errors have a scale, and otherwise the hash
// of its text.
func (p *performer) value(v sketch.Value) uint64 {
	if p.loss.Scale > 0 {
		return math.Float64bits(v.Float())
	}
	var b [64]byte
	return maphash.Bytes(p.seed, v.AppendText(b[:0]))
}

// label takes the true answer to a request as it was sent: a JSON value, and a list of these for a
// request of several rows.
func (p *performer) label(now time.Time, id, text []byte) {
	var one any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber() // the names of classes may be great numbers
	if d.Decode(&one) != nil {
		p.last.Unknown++
		return
	}
	rows, several := one.([]any)
	if !several {
		rows = []any{one}
	}
	for i, row := range rows {
		a, there := p.answers.take(p.key(id, i))
		loss, ok := 0.0, there && int(a.rows) == len(rows)
		if ok {
			loss, ok = p.compare(a.value, row)
		}
		if !ok {
			p.last.Unknown++
			continue
		}
		p.add(now, loss)
		if p.estimating != nil {
			p.estimating.label(float64(a.confidence), loss == 0)
		}
	}
}

// compare returns the loss of an answer.
func (p *performer) compare(answer uint64, label any) (loss float64, ok bool) {
	var v sketch.Value
	switch label := label.(type) {
	case string:
		v = sketch.Text([]byte(label))
	case bool:
		v = sketch.Boolean(label)
	case json.Number:
		if whole, err := label.Int64(); err == nil {
			v = sketch.Integer(whole)
			break
		}
		x, err := label.Float64()
		if err != nil {
			return 0, false
		}
		v = sketch.Number(x)
	default:
		return 0, false
	}
	if p.loss.Scale == 0 {
		if p.value(v) != answer {
			loss = 1
		}
		return loss, true
	}
	truth, x := v.Float(), math.Float64frombits(answer)
	if math.IsNaN(truth) {
		return 0, false
	}
	if math.IsNaN(x) {
		return 1, true
	}
	return min(math.Abs(truth-x)/p.loss.Scale, 1), true
}

// add counts a loss.
func (p *performer) add(now time.Time, loss float64) {
	var err error
	if p.harm != nil {
		err = p.harm.add(now, loss)
	} else {
		if p.learned.Rows == 0 {
			p.began = now
		}
		err = p.learned.Add(loss)
	}
	if err != nil {
		p.last.Unknown++
		return
	}
	p.last.Known++
}

// tick judges what has become known since the last one, in which there were so many rows.
func (p *performer) tick(c *Config, rows uint64) (*Performance, error) {
	r := p.last
	if e := p.estimating; e != nil {
		if err := e.tick(); err != nil {
			return nil, err
		}
		r.Estimate = e.last
	}
	r.Learned, r.Learn = int(p.learned.Rows), 0
	if p.harm == nil && r.Learned < p.loss.Rows {
		r.Learn = p.loss.Rows
		return &r, nil
	}
	if p.harm == nil {
		if err := p.begin(p.learned, c); err != nil {
			return nil, err
		}
	}
	if p.harm.window.Rows > 0 {
		r.Latest, r.Silent = p.harm.at, 0
	} else if rows > 0 {
		r.Silent++
	}
	h, err := p.harm.tick(c)
	r.Strand, r.Recent, r.Expected, r.Limit = p.harm.strand, h.Recent, h.Expected, h.Limit
	r.Since = p.harm.since
	p.last = r
	return &r, err
}

// restart forgets the evidence.
func (p *performer) restart() {
	if p.harm != nil {
		p.harm.restart()
	}
}

// keptPerformance is the JSON form of what a performer has learned. Answers are not in it: labels
// of those before a restart are unknown.
type keptPerformance struct {
	Learned performance.Losses `json:"learned"`
	Harm    json.RawMessage    `json:"harm,omitempty"`
	Last    Performance        `json:"last"`

	Estimating json.RawMessage `json:"estimating,omitempty"`
}

// MarshalJSON writes what was learned.
func (p *performer) MarshalJSON() ([]byte, error) {
	k := keptPerformance{Learned: p.learned, Last: p.last}
	var err error
	if p.estimating != nil {
		if k.Estimating, err = json.Marshal(p.estimating); err != nil {
			return nil, err
		}
	}
	if p.harm != nil {
		if k.Harm, err = json.Marshal(p.harm.detector); err != nil {
			return nil, err
		}
	}
	return json.Marshal(k)
}

// restore takes over what was learned.
func (p *performer) restore(text []byte, c *Config) error {
	var k keptPerformance
	if err := json.Unmarshal(text, &k); err != nil {
		return err
	}
	p.last = k.Last
	if k.Estimating != nil && p.estimating != nil {
		if err := p.estimating.restore(k.Estimating); err != nil {
			return err
		}
	}
	if k.Harm == nil {
		p.learned = k.Learned
		return nil
	}
	if err := p.begin(k.Learned, c); err != nil {
		return err
	}
	p.harm.strand, p.harm.since = k.Last.Strand, k.Last.Since
	p.harm.strand.Kind = KindPerformance
	return p.harm.detector.UnmarshalJSON(k.Harm)
}

// maxAnswers is how many answers are remembered: with the map that finds them 6 MB.
const maxAnswers = 65_536

// answer is what is kept of one.
type answer struct {
	value      uint64
	rows       uint32 // of its request
	slot       uint32 // of ring
	confidence float32
}

// answers remembers the latest ones.
type answers struct {
	known map[uint64]answer
	ring  []uint64 // keys in the order in which they came
	next  uint32   // slot of the oldest, once the ring is full
}

func (a *answers) put(key uint64, one answer) {
	if a.known == nil {
		a.known = make(map[uint64]answer)
	}
	if len(a.ring) < maxAnswers {
		one.slot = uint32(len(a.ring))
		a.ring = append(a.ring, key)
	} else {
		one.slot = a.next
		if old := a.ring[a.next]; a.known[old].slot == a.next {
			delete(a.known, old)
		}
		a.ring[a.next] = key
		a.next = (a.next + 1) % maxAnswers
	}
	a.known[key] = one
}

// take returns an answer and forgets it, so that it counts once.
func (a *answers) take(key uint64) (answer, bool) {
	one, there := a.known[key]
	delete(a.known, key)
	return one, there
}
