package h2

import (
	"strconv"

	"golang.org/x/net/http2/hpack"
)

// fields is a header as it is decoded. The memory is used again for the next.
type fields struct {
	limit   int // bytes, as RFC 9113, section 6.5.2, counts them
	list    []hpack.HeaderField
	bytes   int
	tooLong bool  // what is over the limit is not in list
	bad     bool  // the header breaks a rule
	pseudo  bool  // it has a pseudo-header field
	regular bool  // it has another one
	seen    uint8 // which of the required fields it has
	length  int64 // of the body as the header says, -1 if it does not
}

// Values of fields.seen.
const (
	seenMethod = 1 << iota
	seenScheme
	seenPath
	seenAuthority
	required = seenMethod | seenScheme | seenPath
)

// reset begins a header. bad stays: it is set before.
func (l *fields) reset() {
	l.list, l.bytes, l.tooLong, l.length = l.list[:0], 0, false, -1
	l.pseudo, l.regular, l.seen = false, false, 0
}

func (l *fields) add(f hpack.HeaderField) {
	if l.bytes += int(f.Size()); l.bytes > l.limit {
		l.tooLong = true
		return
	}
	if f.IsPseudo() {
		l.addPseudo(&f)
	} else {
		l.addRegular(&f)
	}
	l.list = append(l.list, f)
}

func (l *fields) addPseudo(f *hpack.HeaderField) {
	l.pseudo = true
	var this uint8
	switch f.Name {
	case ":method":
		this = seenMethod
	case ":scheme":
		this = seenScheme
	case ":path":
		this = seenPath
		l.bad = l.bad || f.Value == ""
	case ":authority":
		this = seenAuthority
	}
	if this == 0 || l.seen&this != 0 || l.regular {
		l.bad = true
	}
	l.seen |= this
}

func (l *fields) addRegular(f *hpack.HeaderField) {
	l.regular = true
	if f.Name == "" {
		l.bad = true
	}
	for i := range len(f.Name) {
		if c := f.Name[i]; c <= ' ' || c >= 0x7f || 'A' <= c && c <= 'Z' || c == ':' {
			l.bad = true
		}
	}
	switch f.Name {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		l.bad = true
	case "te":
		l.bad = l.bad || f.Value != "trailers"
	case "content-length":
		n, err := strconv.ParseInt(f.Value, 10, 64)
		l.bad = l.bad || err != nil || n < 0 || l.length >= 0 && l.length != n
		l.length = n
	}
}

// malformed says whether the header of a new stream breaks a rule of RFC 9113,
// section 8; end is whether the stream has no body.
func (l *fields) malformed(end bool) bool {
	return l.bad || l.seen&required != required || end && l.length > 0
}
