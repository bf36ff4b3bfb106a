package wire

import (
	"bytes"
	"fmt"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds how deep JSON values may be nested, as Triton does.
const maxDepth = 100

// scanner reads JSON from its start to its end. Strings without escapes are
// returned in place; those with escapes are unpacked into text.
type scanner struct {
	buf   []byte
	pos   int
	depth int
	text  []byte
}

func (s *scanner) fail(format string, args ...any) error {
	return fmt.Errorf("%w: %s at byte %d of the JSON", ErrBadRequest, fmt.Sprintf(format, args...),
		s.pos)
}

// next skips white space and returns the byte after it, 0 at the end.
func (s *scanner) next() byte {
	for s.pos < len(s.buf) {
		c := s.buf[s.pos]
		if c > ' ' {
			return c
		}
		if c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return c
		}
		s.pos++
	}
	return 0
}

func (s *scanner) expect(c byte) error {
	if got := s.next(); got != c {
		return s.unexpected(fmt.Sprintf("%q", c))
	}
	s.pos++
	return nil
}

func (s *scanner) unexpected(want string) error {
	if s.pos >= len(s.buf) {
		return s.fail("expected %s, but the JSON ends", want)
	}
	return s.fail("expected %s, got %q", want, s.buf[s.pos])
}

// open enters an object or array.
func (s *scanner) open(c byte) error {
	if err := s.expect(c); err != nil {
		return err
	}
	if s.depth++; s.depth > maxDepth {
		return s.fail("JSON nesting depth exceeds maximum allowed limit (%d)", maxDepth)
	}
	return nil
}

// more says whether another element comes before the closing byte, which it
// consumes. first is true for the first element, which no comma precedes.
func (s *scanner) more(closing byte, first bool) (bool, error) {
	c := s.next()
	if c == closing {
		s.pos++
		s.depth--
		return false, nil
	}
	if first {
		return true, nil
	}
	if c != ',' {
		return false, s.unexpected(fmt.Sprintf("',' or %q", closing))
	}
	s.pos++
	if s.next() == closing {
		return false, s.fail("a comma before %q", closing)
	}
	return true, nil
}

// key reads the next key of an object and the colon; ok is false at the end
// and with an error.
func (s *scanner) key(first bool) (key []byte, ok bool, err error) {
	if ok, err = s.more('}', first); !ok {
		return nil, false, err
	}
	if key, err = s.str(); err != nil {
		return nil, false, err
	}
	if err := s.expect(':'); err != nil {
		return nil, false, err
	}
	return key, true, nil
}

// str reads a string. What it returns is valid as long as buf is, and until text is reset.
func (s *scanner) str() ([]byte, error) {
	if s.next() != '"' {
		return nil, s.unexpected("a string")
	}
	s.pos++
	rest := s.buf[s.pos:]
	end := bytes.IndexByte(rest, '"')
	if end < 0 {
		return nil, s.fail("a string without an end")
	}
	plain := rest[:end]
	ascii := true
	for i, c := range plain {
		if c == '\\' {
			return s.escaped()
		}
		if c < ' ' {
			s.pos += i
			return nil, s.fail("a control character in a string")
		}
		ascii = ascii && c < utf8.RuneSelf
	}
	if !ascii && !utf8.Valid(plain) {
		return nil, s.fail("a string is not valid UTF-8")
	}
	s.pos += end + 1
	return plain, nil
}

// escaped reads the rest of a string that has escapes.
func (s *scanner) escaped() ([]byte, error) {
	from := len(s.text)
	for s.pos < len(s.buf) {
		c := s.buf[s.pos]
		s.pos++
		switch {
		case c == '"':
			out := s.text[from:]
			if !utf8.Valid(out) {
				return nil, s.fail("a string is not valid UTF-8")
			}
			return out, nil
		case c < ' ':
			return nil, s.fail("a control character in a string")
		case c != '\\':
			s.text = append(s.text, c)
		default:
			if err := s.escape(); err != nil {
				return nil, err
			}
		}
	}
	return nil, s.fail("a string without an end")
}

var escapes = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r',
	't': '\t'}

func (s *scanner) escape() error {
	if s.pos >= len(s.buf) {
		return s.fail("a string without an end")
	}
	c := s.buf[s.pos]
	s.pos++
	if e := escapes[c]; e != 0 {
		s.text = append(s.text, e)
		return nil
	}
	if c != 'u' {
		return s.fail("unknown escape \\%c in a string", c)
	}
	r, err := s.hex()
	if err != nil {
		return err
	}
	if utf16.IsSurrogate(r) {
		if r, err = s.pair(r); err != nil {
			return err
		}
	}
	s.text = utf8.AppendRune(s.text, r)
	return nil
}

// pair returns what a surrogate and the one that follows it stand for. One
// alone stands for nothing, and takes nothing of what follows with it.
func (s *scanner) pair(high rune) (rune, error) {
	at := s.pos
	if !bytes.HasPrefix(s.buf[at:], []byte(`\u`)) {
		return utf8.RuneError, nil
	}
	s.pos += 2
	low, err := s.hex()
	if err != nil {
		return 0, err
	}
	r := utf16.DecodeRune(high, low)
	if r == utf8.RuneError {
		s.pos = at
	}
	return r, nil
}

func (s *scanner) hex() (rune, error) {
	if len(s.buf)-s.pos < 4 {
		return 0, s.fail("a string without an end")
	}
	var r rune
	for range 4 {
		c := s.buf[s.pos]
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, s.fail("\\u needs four hexadecimal digits")
		}
		r = r<<4 | rune(c)
		s.pos++
	}
	return r, nil
}

// skip passes over one value of any kind.
func (s *scanner) skip() error {
	switch c := s.next(); c {
	case '{':
		return s.skipObject()
	case '[':
		if err := s.open('['); err != nil {
			return err
		}
		for first := true; ; first = false {
			if ok, err := s.more(']', first); !ok {
				return err
			}
			if err := s.skip(); err != nil {
				return err
			}
		}
	case '"':
		_, err := s.str()
		return err
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	}
	if _, err := s.number(); err != nil {
		return s.unexpected("a value")
	}
	return nil
}

func (s *scanner) skipObject() error {
	if err := s.open('{'); err != nil {
		return err
	}
	for first := true; ; first = false {
		_, ok, err := s.key(first)
		if !ok {
			return err
		}
		if err := s.skip(); err != nil {
			return err
		}
	}
}

func (s *scanner) word(w string) error {
	if !bytes.HasPrefix(s.buf[s.pos:], []byte(w)) {
		return s.unexpected("a value")
	}
	s.pos += len(w)
	return nil
}

// number returns the text of a number, or of one of the tokens NaN, Infinity
// and -Infinity that Triton and Python write.
func (s *scanner) number() ([]byte, error) {
	s.next()
	from := s.pos
	if d, ok := s.decimal(); ok {
		s.pos = d.end
		return s.buf[from:d.end], nil
	}
	for _, token := range [...]string{"NaN", "Infinity", "-Infinity"} {
		if bytes.HasPrefix(s.buf[from:], []byte(token)) {
			s.pos += len(token)
			return s.buf[from:s.pos], nil
		}
	}
	return nil, s.unexpected("a number")
}
