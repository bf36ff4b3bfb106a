package gateway

import "bytes"

// head is the head of a plain inference request: the only kind that the lane
// answers by itself. Its names and fields alias the request.
type head struct {
	dialect        dialect
	model, version []byte
	fields         []field
	id             []byte // the X-Request-Id
	bytes          int    // of the head, with its empty line
	body           int    // bytes, from Content-Length
	json           int    // bytes of its JSON part; -1 for all
	timeout        int    // ms, 0 for none
	accept         encoding
}

// field is one of a header's.
type field struct{ name, value []byte }

// headState says what readHead has found.
type headState uint8

const (
	headPlain   headState = iota
	headPartial           // more bytes are needed to tell
	headOther             // anything else: all that is rare, doubtful or wrong
)

var (
	inferVerb   = []byte("POST /")
	inferSuffix = []byte(" HTTP/1.1\r\n")
	headEnd     = []byte("\r\n\r\n")
)

// parse reads the head at the start of data. It is strict: what it does not
// know for certain is headOther, and a full parser's to judge.
func (h *head) parse(data []byte) headState {
	if len(data) < len(inferVerb) {
		if bytes.HasPrefix(inferVerb, data) {
			return headPartial
		}
		return headOther
	}
	if !bytes.HasPrefix(data, inferVerb) {
		return headOther
	}
	end := bytes.Index(data, headEnd)
	if end < 0 {
		return headPartial
	}
	line := bytes.IndexByte(data, '\n') + 1
	if !bytes.HasSuffix(data[:line], inferSuffix) ||
		!h.parsePath(data[len(inferVerb)-1:line-len(inferSuffix)]) {
		return headOther
	}
	h.bytes = end + len(headEnd)
	h.body, h.json, h.timeout, h.accept, h.id = -1, -1, 0, identity, nil
	hosts := 0
	h.fields = h.fields[:0]
	for lines := data[line : end+2]; len(lines) > 0; {
		n := bytes.IndexByte(lines, '\n')
		if n < 2 || lines[n-1] != '\r' || !h.parseField(lines[:n-1], &hosts) {
			return headOther
		}
		lines = lines[n+1:]
	}
	if hosts != 1 || h.body < 0 || h.json > h.body {
		return headOther
	}
	return headPlain
}

// parsePath reads /v2/models/MODEL[/versions/VERSION]/infer, or the path of
// another dialect.
func (h *head) parsePath(path []byte) bool {
	for _, b := range path {
		if b <= ' ' || b >= 0x7f || b == '%' || b == '?' || b == '#' {
			return false
		}
	}
	rest, ok := bytes.CutPrefix(path, pathOIP)
	if !ok {
		h.dialect, h.model, h.version, ok = inference(path)
		return ok
	}
	h.dialect = dialectOIP
	i := bytes.IndexByte(rest, '/')
	if i <= 0 {
		return false
	}
	h.model, h.version = rest[:i], nil
	rest = rest[i+1:]
	if after, ok := bytes.CutPrefix(rest, versionsIn); ok {
		if i = bytes.IndexByte(after, '/'); i <= 0 {
			return false
		}
		h.version, rest = after[:i], after[i+1:]
	}
	return string(rest) == "infer"
}

// Header returns a header's first value; the name is in lower case.
func (h *head) Header(name string) []byte {
	if name == headerRequestID {
		return h.id
	}
	for i := range h.fields {
		if f := &h.fields[i]; isName(f.name, name) {
			return f.value
		}
	}
	return nil
}

// parseField reads one header line. Names that change how the body is read
// and are not known here end the parsing.
func (h *head) parseField(line []byte, hosts *int) bool {
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 {
		return false
	}
	name, value := line[:colon], trim(line[colon+1:])
	for _, b := range name {
		if !isToken[b] {
			return false
		}
	}
	if bytes.IndexByte(value, '\r') >= 0 || bytes.IndexByte(value, 0) >= 0 {
		return false
	}
	h.fields = append(h.fields, field{name, value})
	ok := true
	switch len(name) {
	case 2, 7: // TE, Trailer, Upgrade
		ok = !isName(name, "te") && !isName(name, "trailer") && !isName(name, "upgrade")
	case 4:
		if isName(name, "host") {
			*hosts++
			ok = len(value) > 0
		}
	case 6:
		ok = !isName(name, "expect")
	case 10:
		if isName(name, "connection") {
			return isName(value, "keep-alive")
		}
	case 12:
		if h.id == nil && isName(name, headerRequestID) {
			h.id = value
		}
		if h.dialect == dialectMLflow && isName(name, "content-type") {
			ok = isJSON(value) // tables as text are rare
		}
	case 14:
		if isName(name, "content-length") {
			ok = h.body < 0
			h.body = digits(value)
			return ok && h.body >= 0
		}
	case 15:
		if isName(name, "accept-encoding") {
			h.accept = h.accept.or(accepted(value))
		}
	case 16:
		ok = !isName(name, "content-encoding")
	case 17:
		ok = !isName(name, "transfer-encoding")
	case len(headerVersion):
		if len(h.version) == 0 && isName(name, headerVersion) {
			h.version = value
		}
	case len(headerTimeout):
		if isName(name, headerTimeout) {
			ok = h.timeout == 0
			h.timeout = digits(value)
			return ok && h.timeout > 0
		}
	case len(headerLength):
		if isName(name, headerLength) {
			ok = h.json < 0
			h.json = digits(value)
			return ok && h.json >= 0
		}
	}
	return ok
}

// trim takes off the blanks around a field's value.
func trim(s []byte) []byte {
	for len(s) > 0 && isBlank(s[0]) {
		s = s[1:]
	}
	for len(s) > 0 && isBlank(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
}

func isBlank(b byte) bool { return b == ' ' || b == '\t' }

// isJSON says whether a Content-Type is that of JSON.
func isJSON(value []byte) bool {
	name, _, _ := bytes.Cut(value, []byte(";"))
	return isName(bytes.TrimRight(name, " "), "application/json")
}

// digits returns the number that s is, -1 when it is none or a large one.
func digits(s []byte) int {
	if len(s) == 0 || len(s) > 9 {
		return -1
	}
	n := 0
	for _, b := range s {
		if b < '0' || b > '9' {
			return -1
		}
		n = n*10 + int(b-'0')
	}
	return n
}

// isName compares without regard to the case of ASCII letters; what letters
// name has does not matter.
func isName(s []byte, name string) bool {
	if len(s) != len(name) {
		return false
	}
	for i, b := range s {
		if lower[b] != lower[name[i]] {
			return false
		}
	}
	return true
}

// isToken marks the bytes that a header's name may have; lower maps ASCII
// capitals to small letters.
var isToken, lower = func() (token [256]bool, low [256]byte) {
	for b := range 256 {
		low[b] = byte(b)
		if 'A' <= b && b <= 'Z' {
			low[b] = byte(b) + 'a' - 'A'
		}
		token[b] = 'a' <= low[b] && low[b] <= 'z' || '0' <= b && b <= '9' ||
			b < 0x7f && bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), byte(b)) >= 0
	}
	return token, low
}()
