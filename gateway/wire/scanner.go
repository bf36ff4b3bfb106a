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

// key reads the next key of an object and the colon; ok is false at the end.
func (s *scanner) key(first bool) (key []byte, ok bool, err error) {
	if ok, err = s.more('}', first); !ok {
		return nil, false, err
	}
	if key, err = s.str(); err != nil {
		return nil, false, err
	}
	return key, true, s.expect(':')
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
		if s.pos+1 < len(s.buf) && s.buf[s.pos] == '\\' && s.buf[s.pos+1] == 'u' {
			s.pos += 2
			low, err := s.hex()
			if err != nil {
				return err
			}
			r = utf16.DecodeRune(r, low)
		} else {
			r = utf8.RuneError
		}
	}
	s.text = utf8.AppendRune(s.text, r)
	return nil
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
	_, err := s.number()
	return err
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
	for s.pos < len(s.buf) {
		switch c := s.buf[s.pos]; {
		case c >= '0' && c <= '9', c == '-', c == '+', c == '.', c == 'e', c == 'E':
		case c >= 'a' && c <= 'z', c == 'N', c == 'I':
		default:
			return s.numberText(from)
		}
		s.pos++
	}
	return s.numberText(from)
}

func (s *scanner) numberText(from int) ([]byte, error) {
	text := s.buf[from:s.pos]
	if !validNumber(text) {
		s.pos = from
		return nil, s.unexpected("a number")
	}
	return text, nil
}

// validNumber says whether text is a JSON number or one of the tokens.
func validNumber(text []byte) bool {
	switch string(text) {
	case "NaN", "Infinity", "-Infinity":
		return true
	}
	i := 0
	digits := func() bool {
		from := i
		for i < len(text) && text[i] >= '0' && text[i] <= '9' {
			i++
		}
		return i > from
	}
	if i < len(text) && text[i] == '-' {
		i++
	}
	zero := i < len(text) && text[i] == '0'
	from := i
	if !digits() || zero && i > from+1 {
		return false
	}
	if i < len(text) && text[i] == '.' {
		i++
		if !digits() {
			return false
		}
	}
	if i < len(text) && text[i]|0x20 == 'e' {
		i++
		if i < len(text) && (text[i] == '+' || text[i] == '-') {
			i++
		}
		if !digits() {
			return false
		}
	}
	return i == len(text)
}
