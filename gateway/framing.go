package gateway

import (
	"bytes"
	"fmt"

	"github.com/valyala/fasthttp"

	"github.com/millrace-ml/millrace/gateway/wire"
)

// checkFraming refuses a head that two readers may understand as two different
// requests. fasthttp takes one of the two; a proxy in front of the server may
// have taken the other, and then what one client sends is part of another's
// request.
func checkFraming(h *fasthttp.RequestHeader) error {
	length, coding := false, false
	for line := range bytes.SplitSeq(h.RawHeaders(), []byte("\n")) {
		if len(line) > 0 && (line[0] == ' ' || line[0] == '\t') {
			return fmt.Errorf("%w: a header line is folded", wire.ErrBadRequest)
		}
		name, _, _ := bytes.Cut(line, []byte(":"))
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
