package experiment

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// ErrFull is returned when there is no room for a record, and those that are done could
// not make enough.
var ErrFull = errors.New("experiment: the outbox is full")

// Config says where records are kept, and how patiently they are sent.
type Config struct {
	Dir        string
	MaxRecords int
	MaxBytes   int64         // of all records
	Backoff    time.Duration // the first pause while MLflow is away
	MaxBackoff time.Duration // each is twice as long as the one before, up to this
	Logger     *slog.Logger
}

// DefaultConfig has all but the folder.
func DefaultConfig() Config {
	return Config{
		MaxRecords: 1000,
		MaxBytes:   256 << 20,
		Backoff:    time.Second,
		MaxBackoff: 5 * time.Minute,
		Logger:     slog.New(slog.DiscardHandler),
	}
}

// Validate lists all faults.
func (c Config) Validate() error {
	var faults []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	check(c.Dir != "", "dir: is missing")
	check(c.MaxRecords > 0, "max_records: %d; must be positive", c.MaxRecords)
	check(c.MaxBytes > 0, "max_bytes: %d; must be positive", c.MaxBytes)
	check(c.Backoff > 0 && c.Backoff <= c.MaxBackoff,
		"backoff: %v; must be positive and at most max_backoff, %v", c.Backoff, c.MaxBackoff)
	check(c.Logger != nil, "logger: is missing")
	return errors.Join(faults...)
}

// Outbox keeps records on disk, and sends them when MLflow can be reached. Records stay
// after they were sent, until they have to make room.
type Outbox struct {
	cfg  Config
	root *os.Root
	wake chan struct{} // has an element when there may be more to send

	mu      sync.Mutex       // guards the files and what is below
	items   map[string]*item // by the record's id
	bytes   int64            // of all files
	seq     uint64           // the highest in the files
	version uint64           // the last given
	sent    uint64
	dropped uint64
}

// item is what is remembered of a file.
type item struct {
	seq     uint64
	version uint64 // another one each time the record is added
	size    int64
	done    bool
	sent    bool
	refused bool
}

// entry is what a file holds. A file is replaced as a whole.
type entry struct {
	Seq      uint64   `json:"seq"` // the order in which records are sent
	Record   Record   `json:"record"`
	Progress progress `json:"progress"`
	Sent     bool     `json:"sent"`    // all of the record
	Refused  string   `json:"refused"` // why MLflow does not take it
}

// Stored is a record and what has become of it.
type Stored struct {
	Record  Record
	RunID   string // of its run in MLflow; empty when it has none yet
	Sent    bool   // all of it
	Refused string // why MLflow does not take it; the next version is tried again
}

// Stats counts records.
type Stats struct {
	Records int
	Bytes   int64
	Waiting int    // to be sent
	Refused int    // set aside, since MLflow does not take them
	Sent    uint64 // versions of records, since the start
	Dropped uint64 // that were not sent and had to make room, since the start
}

// Names below the folder.
const (
	tempFile = "temp"
	suffix   = ".json"
	damaged  = ".damaged"
)

// fileName returns the name of a record's file.
func fileName(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:]) + suffix
}

// Open opens the outbox in a folder, or makes one there. A file that cannot be read is
// set aside and logged. Close it after use.
func Open(cfg Config) (*Outbox, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("experiment: %w", err)
	}
	o := &Outbox{cfg: cfg, wake: make(chan struct{}, 1), items: make(map[string]*item)}
	err := os.MkdirAll(cfg.Dir, 0o755)
	if err == nil {
		o.root, err = os.OpenRoot(cfg.Dir)
	}
	if err != nil {
		return nil, fmt.Errorf("experiment: cannot open the outbox: %w", err)
	}
	if err := o.scan(); err != nil {
		err = fmt.Errorf("experiment: cannot read the outbox: %w", err)
		return nil, errors.Join(err, o.Close())
	}
	return o, nil
}

// Close closes the folder. End Run before.
func (o *Outbox) Close() error { return o.root.Close() }

// scan reads all files.
func (o *Outbox) scan() error {
	if err := o.root.Remove(tempFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	files, err := fs.ReadDir(o.root.FS(), ".")
	if err != nil {
		return err
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), suffix) {
			continue
		}
		e, size, err := o.read(f.Name())
		if err == nil && f.Name() != fileName(e.Record.ID) {
			err = errors.New("it holds another record")
		}
		if err != nil {
			o.cfg.Logger.Error("a record is damaged and set aside", "file", f.Name(), "reason", err)
			if err := o.root.Rename(f.Name(), f.Name()+damaged); err != nil {
				return err
			}
			continue
		}
		o.remember(e, size)
	}
	return nil
}

// read reads a file. The caller holds mu, or nobody else has the Outbox yet.
func (o *Outbox) read(name string) (e entry, size int64, err error) {
	text, err := o.root.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(text, &e)
	}
	return e, int64(len(text)), err
}

// remember notes what a file holds now. The caller holds mu.
func (o *Outbox) remember(e entry, size int64) {
	it := o.items[e.Record.ID]
	if it == nil {
		it = &item{}
		o.items[e.Record.ID] = it
	}
	o.bytes += size - it.size
	o.seq = max(o.seq, e.Seq)
	it.seq, it.size, it.done = e.Seq, size, e.Record.done()
	it.sent, it.refused = e.Sent, e.Refused != ""
}

// write replaces a file: whenever it is cut off, the file holds what it held before or
// e, and once it has returned nil the latter. The caller holds mu.
func (o *Outbox) write(e entry, text []byte) error {
	f, err := o.root.OpenFile(tempFile, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = o.root.Rename(tempFile, fileName(e.Record.ID))
	}
	if err != nil {
		return err
	}
	o.remember(e, int64(len(text)))
	dir, err := o.root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Add keeps a record, in place of an earlier version of it, and returns when that is on
// disk. When there are too many, the oldest that are done make room, those that were
// sent first. It is ErrFull when that is not enough.
func (o *Outbox) Add(r Record) error {
	if err := r.Validate(); err != nil {
		return fmt.Errorf("experiment: cannot take the record %q: %w", r.ID, err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.add(r); err != nil {
		return fmt.Errorf("experiment: cannot keep the record %q: %w", r.ID, err)
	}
	select {
	case o.wake <- struct{}{}:
	default:
	}
	return nil
}

func (o *Outbox) add(r Record) error {
	e := entry{Seq: o.seq + 1, Record: r}
	var before int64
	if o.items[r.ID] != nil {
		old, size, err := o.read(fileName(r.ID))
		if err != nil {
			return err
		}
		if old.Sent && same(old.Record, r) {
			return nil
		}
		before, e.Progress = size, old.Progress
		if !old.Sent && old.Refused == "" {
			e.Seq = old.Seq // it keeps its place
		}
	}
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if err := o.makeRoom(r.ID, int64(len(text))-before); err != nil {
		return err
	}
	err = o.write(e, text)
	if it := o.items[r.ID]; it != nil { // after an error it may be on disk or not
		o.version++
		it.version = o.version
	}
	return err
}

// same compares what would be written.
func same(a, b Record) bool {
	textA, errA := json.Marshal(a)
	textB, errB := json.Marshal(b)
	return errA == nil && errB == nil && bytes.Equal(textA, textB)
}

// makeRoom removes records until one more, or one that grows, has room. The caller
// holds mu.
func (o *Outbox) makeRoom(id string, grows int64) error {
	count, size := len(o.items), o.bytes+grows
	if o.items[id] == nil {
		count++
	}
	var out []string
	for _, other := range o.removable() {
		if count <= o.cfg.MaxRecords && size <= o.cfg.MaxBytes {
			break
		}
		if other != id {
			out = append(out, other)
			count, size = count-1, size-o.items[other].size
		}
	}
	if count > o.cfg.MaxRecords || size > o.cfg.MaxBytes {
		return fmt.Errorf("%w: %d records that are not done, of %d bytes, would be left; raise "+
			"max_records, %d, or max_bytes, %d", ErrFull, count, size, o.cfg.MaxRecords,
			o.cfg.MaxBytes)
	}
	for _, other := range out {
		if err := o.remove(other); err != nil {
			return err
		}
	}
	return nil
}

// removable lists the records that are done in the order in which they make room:
// those that were sent first, of them the oldest. The caller holds mu.
func (o *Outbox) removable() []string {
	var done []string
	for id, it := range o.items {
		if it.done {
			done = append(done, id)
		}
	}
	unsent := func(it *item) int {
		if it.sent {
			return 0
		}
		return 1
	}
	slices.SortFunc(done, func(a, b string) int {
		x, y := o.items[a], o.items[b]
		return cmp.Or(cmp.Compare(unsent(x), unsent(y)), cmp.Compare(x.seq, y.seq))
	})
	return done
}

// remove removes a record. The caller holds mu.
func (o *Outbox) remove(id string) error {
	if err := o.root.Remove(fileName(id)); err != nil {
		return err
	}
	it := o.items[id]
	if !it.sent {
		o.dropped++
		o.cfg.Logger.Warn("a record that was not sent has made room for others", "id", id)
	}
	o.bytes -= it.size
	delete(o.items, id)
	return nil
}

// Records returns all records that are kept, in the order in which they came.
func (o *Outbox) Records() ([]Stored, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	entries := make([]entry, 0, len(o.items))
	for id := range o.items {
		e, _, err := o.read(fileName(id))
		if err != nil {
			return nil, fmt.Errorf("experiment: cannot read the record %q: %w", id, err)
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Compare(a.Seq, b.Seq) })
	list := make([]Stored, len(entries))
	for i, e := range entries {
		list[i] = Stored{e.Record, e.Progress.RunID, e.Sent, e.Refused}
	}
	return list, nil
}

// Stats returns what there is.
func (o *Outbox) Stats() Stats {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := Stats{Records: len(o.items), Bytes: o.bytes, Sent: o.sent, Dropped: o.dropped}
	for _, it := range o.items {
		switch {
		case it.refused:
			s.Refused++
		case !it.sent:
			s.Waiting++
		}
	}
	return s
}
