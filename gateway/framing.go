package gateway

import (
	"bytes"
	"fmt"

	"github.com/valyala/fasthttp"

	"github.com/millrace-ml/millrace/gateway/wire"
)

// checkFraming refuses a head that is not of HTTP/1, and one that two readers may
// understand as two different requests: fasthttp takes one of the two, a proxy in
// front of the server may have taken the other, and then what one client sends is
// part of another's request.
func checkFraming(h *fasthttp.RequestHeader) error {
	switch p := string(h.Protocol()); p {
	case "HTTP/1.1", "HTTP/1.0":
	default:
		return fmt.Errorf("%w: HTTP/1.1 and HTTP/1.0 are spoken here, not %.16q",
			wire.ErrBadRequest, p)
	}
	length, coding := false, false
	for line := range bytes.SplitSeq(h.RawHeaders(), []byte("\n")) {
		line = bytes.TrimSuffix(line, []byte("\r"))
		if len(line) > 0 && (line[0] == ' ' || line[0] == '\t') {
			return fmt.Errorf("%w: a header line is folded", wire.ErrBadRequest)
		}
		name, _, _ := bytes.Cut(line, []byte(":"))
		for _, b := range name {
			if !isToken[b] {
				return fmt.Errorf("%w: %.64q is no name of a header", wire.ErrBadRequest, name)
			}
		}
		length = length || isName(name, "content-length")
		coding = coding || isName(name, "transfer-encoding")
	}
	switch {
	case coding && length:
		return fmt.Errorf("%w: send either Content-Length or Transfer-Encoding", wire.ErrBadRequest)
	case coding && h.ContentLength() != -1:
		return fmt.Errorf("%w: the only Transfer-Encoding is chunked", wire.ErrBadRequest)
	}
	return nil
}
