package bench

import (
	"bytes"
	"errors"
)

// errAnswer is the cause of a failed request whose answer was not HTTP/1.x.
var errAnswer = errors.New("bench: malformed HTTP answer")

// Bounds of an answer, in bytes.
const (
	maxHead      = 64 << 10
	maxChunkLine = 4 << 10
	maxAnswer    = 1 << 30
)

// lengthUnknown marks a body that ends when the server closes.
const lengthUnknown = -1

var (
	crlf         = []byte("\r\n")
	nameLength   = []byte("content-length")
	nameEncoding = []byte("transfer-encoding")
	nameConn     = []byte("connection")
	tokenChunked = []byte("chunked")
	tokenClose   = []byte("close")
	tokenKeep    = []byte("keep-alive")
)

// An answer is the state of reading one HTTP answer from a growing buffer. The
// zero value is ready for an answer that begins at the buffer's start.
type answer struct {
	status  int
	start   int // where the head starts: interim answers lie before it
	head    int // where the head ends; 0 until all of it is there
	body    int // bytes of body at buf[head:]
	length  int // of the body, or lengthUnknown
	chunked bool
	close   bool // the server closes the connection after this answer

	next     int  // chunked: where the next chunk starts
	trailers bool // chunked: the last chunk was seen
}

func (a *answer) good() bool { return a.status/100 == 2 }

// feed looks at what has arrived; buf holds everything since the answer's
// start. When done, the answer took the first size bytes of buf. noBody is set
// for the answer to HEAD. Chunks are joined in place, so the next call needs
// the same bytes.
func (a *answer) feed(buf []byte, noBody bool) (size int, done bool, err error) {
	for a.head == 0 {
		next := answer{start: a.start, length: lengthUnknown}
		n, err := next.parseHead(buf[a.start:])
		if n == 0 || err != nil {
			return 0, false, err
		}
		next.start += n
		if next.status >= 200 { // below that it is interim and the real one follows
			next.head, next.next = next.start, next.start
		}
		*a = next
	}
	switch {
	case noBody || a.status == 204 || a.status == 304:
		return a.head, true, nil
	case a.chunked:
		return a.feedChunks(buf)
	case a.length == lengthUnknown:
		a.body, a.close = len(buf)-a.head, true
		return 0, false, nil
	}
	a.body = min(a.length, len(buf)-a.head)
	return a.head + a.body, a.body == a.length, nil
}

// parseHead reads the status line and the headers that matter of a head that b begins with, and
// returns the head's size, 0 until all of it is there.
func (a *answer) parseHead(b []byte) (size int, err error) {
	for size <= maxHead {
		n := bytes.IndexByte(b[size:], '\n')
		if n < 0 && len(b) <= maxHead {
			return 0, nil
		}
		if n <= 0 || b[size+n-1] != '\r' {
			break
		}
		line := b[size : size+n-1]
		first := size == 0
		size += n + 1
		switch {
		case first:
			err = a.parseStatus(line)
		case len(line) > 0:
			err = a.parseHeader(line)
		default:
			return size, nil
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, errAnswer
}

// parseStatus reads "HTTP/1.x NNN", then nothing or a blank and a phrase.
func (a *answer) parseStatus(line []byte) error {
	if len(line) < 12 || string(line[:7]) != "HTTP/1." || line[8] != ' ' ||
		len(line) > 12 && line[12] != ' ' {
		return errAnswer
	}
	status, ok := number(line[9:12], 10)
	if !ok || status < 100 {
		return errAnswer
	}
	a.status = status
	a.close = line[7] == '0'
	return nil
}

func (a *answer) parseHeader(line []byte) error {
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 || line[0] == ' ' || line[0] == '\t' {
		return errAnswer
	}
	name := line[:colon]
	switch {
	case is(name, nameLength):
		n, ok := number(bytes.TrimSpace(line[colon+1:]), 10)
		if !ok || a.length != lengthUnknown && a.length != n {
			return errAnswer
		}
		a.length = n
	case is(name, nameEncoding):
		if !is(bytes.TrimSpace(line[colon+1:]), tokenChunked) {
			return errAnswer
		}
		a.chunked = true
	case is(name, nameConn):
		switch value := bytes.TrimSpace(line[colon+1:]); {
		case is(value, tokenClose):
			a.close = true
		case is(value, tokenKeep):
			a.close = false
		}
	}
	return nil
}

// is compares without regard to case.
func is(text, token []byte) bool { return len(text) == len(token) && bytes.EqualFold(text, token) }

// feedChunks takes each chunk that has arrived in full.
func (a *answer) feedChunks(buf []byte) (size int, done bool, err error) {
	for {
		n := bytes.Index(buf[a.next:], crlf)
		if n > maxChunkLine || n < 0 && len(buf)-a.next > maxChunkLine {
			return 0, false, errAnswer
		}
		if n < 0 {
			return 0, false, nil
		}
		line := buf[a.next : a.next+n]
		after := a.next + n + len(crlf)
		if a.trailers {
			a.next = after
			if n == 0 {
				return after, true, nil
			}
			continue
		}
		digits, _, _ := bytes.Cut(line, []byte{';'})
		length, ok := number(bytes.TrimSpace(digits), 16)
		switch {
		case !ok:
			return 0, false, errAnswer
		case length == 0:
			a.trailers, a.next = true, after
			continue
		case len(buf) < after+length+len(crlf):
			return 0, false, nil
		case !bytes.HasPrefix(buf[after+length:], crlf):
			return 0, false, errAnswer
		}
		a.body += copy(buf[a.head+a.body:], buf[after:after+length])
		a.next = after + length + len(crlf)
	}
}

// number reads all of b as a number from 0 to maxAnswer.
func number(b []byte, base int) (n int, ok bool) {
	for _, c := range b {
		digit := int(c - '0')
		if c|0x20 >= 'a' && c|0x20 <= 'f' {
			digit = int(c|0x20-'a') + 10
		} else if c < '0' || c > '9' {
			return 0, false
		}
		if digit >= base {
			return 0, false
		}
		if n = n*base + digit; n > maxAnswer {
			return 0, false
		}
	}
	return n, len(b) > 0
}
