package gateway

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"

	"github.com/millrace-ml/millrace/gateway/h2"
	"github.com/millrace-ml/millrace/gateway/wire"
	"github.com/millrace-ml/millrace/runtime/batch"
)

// call is a ModelInfer of one message, which the lane answers by itself.
type call struct {
	session *session
	stream  *h2.Stream
	x       *Exchange // from when the message's length is known
	fields  []hpack.HeaderField
	timeout time.Duration // 0 for none
	began   int64         // by the lane's clock
	prefix  [grpcPrefix]byte
	have    int                 // bytes of the prefix
	need    int                 // bytes of the message
	answers []hpack.HeaderField // memory
	// submitted says that the call waits for a run or is in one, over that it is answered. Guarded
	// by session.mu.
	submitted, over bool
}

// grpcPrefix is the length of what goes before a message: whether it is compressed, and its length.
const grpcPrefix = 5

const pathInfer = "/inference.GRPCInferenceService/ModelInfer"

// plainInfer says whether a header is that of a call that the lane answers, and how long its client
// waits; 0 for as long as it takes.
func plainInfer(fields []hpack.HeaderField) (timeout time.Duration, ok bool) {
	path, content := false, false
	for i := range fields {
		f := &fields[i]
		switch f.Name {
		case ":path":
			path = f.Value == pathInfer
		case ":method":
			if f.Value != "POST" {
				return 0, false
			}
		case "content-type":
			content = f.Value == "application/grpc" || f.Value == "application/grpc+proto"
		case "grpc-encoding":
			if f.Value != "identity" {
				return 0, false
			}
		case "grpc-timeout":
			if timeout, ok = grpcTimeout(f.Value); !ok {
				return 0, false
			}
			timeout = max(1, timeout)
		}
	}
	return timeout, path && content
}

// grpcTimeout reads a grpc-timeout: up to eight digits and a unit.
func grpcTimeout(s string) (time.Duration, bool) {
	if len(s) < 2 || len(s) > 9 {
		return 0, false
	}
	n := digits([]byte(s[:len(s)-1]))
	if n < 0 {
		return 0, false
	}
	switch s[len(s)-1] {
	case 'n':
		return time.Duration(n), true
	case 'u':
		return time.Duration(n) * time.Microsecond, true
	case 'm':
		return time.Duration(n) * time.Millisecond, true
	case 'S':
		return time.Duration(n) * time.Second, true
	case 'M':
		return time.Duration(n) * time.Minute, true
	case 'H':
		return time.Duration(min(n, 1<<20)) * time.Hour, true
	}
	return 0, false
}

// Header implements route.Headers.
func (c *call) Header(name string) []byte {
	for i := range c.fields {
		if f := &c.fields[i]; f.Name == name {
			return unsafe.Slice(unsafe.StringData(f.Value), len(f.Value))
		}
	}
	return nil
}

// data takes a part of the message.
func (c *call) data(data []byte, end bool) {
	c.stream.Took(len(data))
	var err error
	if c.have < grpcPrefix {
		n := copy(c.prefix[c.have:], data)
		c.have += n
		data = data[n:]
		if c.have == grpcPrefix {
			err = c.begin()
		}
	}
	if err == nil {
		err = c.take(data)
	}
	if err == nil && !end {
		return
	}
	if err == nil && (c.x == nil || len(c.x.body) < c.need) {
		err = fmt.Errorf("%w: the message is cut short", wire.ErrBadRequest)
	}
	c.session.whole(c)
	if err == nil {
		err = c.submit()
	}
	if err != nil {
		c.answer(err)
	}
}

// take adds a part to the message. It is counted as it comes: what a client says will come may not.
func (c *call) take(data []byte) error {
	if c.x == nil || len(data) == 0 {
		return nil
	}
	if len(c.x.body)+len(data) > c.need {
		return fmt.Errorf("%w: more than one message", wire.ErrBadRequest)
	}
	if err := c.session.grpc.core.Reserve(c.x, int64(len(data))); err != nil {
		return err
	}
	c.x.body = append(c.x.body, data...)
	return nil
}

// begin makes room for the message.
func (c *call) begin() error {
	core := c.session.grpc.core
	if c.prefix[0] != 0 {
		return fmt.Errorf("%w: a compressed message without a grpc-encoding", wire.ErrBadRequest)
	}
	n := binary.BigEndian.Uint32(c.prefix[1:])
	if most := c.session.grpc.cfg.MaxMessageBytes; int64(n) > int64(most) {
		return fmt.Errorf("%w: received message larger than max (%d vs. %d)", ErrTooLarge, n, most)
	}
	c.need = int(n)
	x, err := core.Open(ProtocolGRPC)
	if err != nil {
		return err
	}
	c.x = x
	x.home = c.session.p.number
	if err := x.makeRoom(c.need, true); err != nil {
		return err
	}
	x.body = x.body[:0]
	return nil
}

// submit decodes the request and puts it into its model's queue.
func (c *call) submit() error {
	s, x := c.session, c.x
	core := s.grpc.core
	name, version, err := wire.ProtoHead(x.body)
	if err != nil {
		return err
	}
	q := Query{Name: name, Version: version, Headers: c}
	if len(q.Version) == 0 {
		q.Version = c.Header(headerVersion)
	}
	if err := core.resolve(x, &q); err != nil {
		return err
	}
	x.Deadline(int64(c.timeout))
	if err := core.Decode(x, x.body, -1); err != nil {
		return err
	}
	v := x.Version
	s.mu.Lock()
	s.underWay++
	c.submitted = true
	s.mu.Unlock()
	answered, err := core.submit(x, c)
	if err == nil && !answered {
		s.p.touch(v)
		return nil
	}
	s.mu.Lock()
	s.underWay--
	c.submitted = false
	s.mu.Unlock()
	if err == nil {
		c.answer(nil)
	}
	return err
}

// Help implements batch.Waiter.
func (c *call) Help() { c.session.conn.lane.help(c.x.Version) }

// Finished implements batch.Waiter.
func (c *call) Finished() {
	s := c.session
	c.answer(c.x.outcome())
	s.finished()
}

// Landed implements cache.Waiter.
func (c *call) Landed() {
	s := c.session
	waits, err := s.conn.lane.landed(c.x)
	if waits {
		return
	}
	c.answer(err)
	s.finished()
}

var (
	grpcHeader = []hpack.HeaderField{{Name: ":status", Value: "200"},
		{Name: "content-type", Value: "application/grpc"}}
	grpcOK = []hpack.HeaderField{{Name: "grpc-status", Value: "0"}}
)

// answer sends the outcome and ends the call.
func (c *call) answer(err error) {
	s, x, st := c.session, c.x, c.stream
	core := s.grpc.core
	var out []byte
	if err == nil {
		var room [grpcPrefix]byte
		out, _, err = core.Encode(append(x.out[:0], room[:]...), x)
		if err == nil {
			x.out = out[:0]
			binary.BigEndian.PutUint32(out[1:], uint32(len(out)-grpcPrefix))
		}
	}
	if x != nil {
		core.settle(x, err)
	}
	if err != nil {
		o, text := Classify(err)
		if o.HTTP == 500 {
			core.log.Error("request failed", "error", err)
		}
		st.Header(grpcFailure(o.GRPC, text), true)
	} else {
		header := grpcHeader
		if x.Routed() {
			c.answers = append(c.answers[:0], grpcHeader...)
			x.Headers(func(name string, value []byte) {
				c.answers = append(c.answers, hpack.HeaderField{Name: strings.ToLower(name),
					Value: string(value), Sensitive: true})
			})
			header = c.answers
		}
		st.Header(header, false)
		st.Data(out)
		st.End(grpcOK)
	}
	s.mu.Lock()
	c.over, c.submitted, c.x = true, false, nil
	s.mu.Unlock()
	if x != nil {
		core.free(x)
	}
	st.Release()
	s.mu.Lock()
	s.calls = append(s.calls, c)
	s.mu.Unlock()
}

// grpcFailure is the header of an answer that is an error.
func grpcFailure(code codes.Code, text string) []hpack.HeaderField {
	return []hpack.HeaderField{grpcHeader[0], grpcHeader[1],
		{Name: "grpc-status", Value: strconv.Itoa(int(code))},
		{Name: "grpc-message", Value: grpcMessage(text), Sensitive: true}}
}

// grpcMessage percent-encodes what a grpc-message may not have.
func grpcMessage(text string) string {
	var b strings.Builder
	for i := range len(text) {
		if ch := text[i]; ch >= ' ' && ch <= '~' && ch != '%' {
			b.WriteByte(ch)
		} else {
			fmt.Fprintf(&b, "%%%02X", ch)
		}
	}
	return b.String()
}

// reset ends the call of a client that has left.
func (c *call) reset() {
	s := c.session
	s.mu.Lock()
	over, submitted := c.over, c.submitted
	told := submitted && c.x.Version.Cancel(&c.x.Ticket) // x stays while mu is held
	s.mu.Unlock()
	switch {
	case told:
		c.Finished()
	case !over && !submitted:
		s.whole(c)
		c.answer(batch.ErrCanceled)
	}
}
