package gateway

import (
	"bytes"
	"compress/zlib"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/valyala/fasthttp"

	"github.com/millrace-ml/millrace/gateway/wire"
)

// decompress undoes the Content-Encoding. The bytes that come out are bounded
// like those of a body that was sent as it is.
func (h *HTTP) decompress(ctx *fasthttp.RequestCtx, x *Exchange, body []byte) ([]byte, error) {
	name := bytes.ToLower(bytes.TrimSpace(ctx.Request.Header.ContentEncoding()))
	if len(name) == 0 {
		return body, nil
	}
	var r io.Reader
	var err error
	switch string(name) {
	case "identity":
		return body, nil
	case "gzip":
		r, err = gzip.NewReader(bytes.NewReader(body))
	case "deflate":
		r, err = zlib.NewReader(bytes.NewReader(body))
	default:
		return nil, fmt.Errorf("%w %q: gzip and deflate are known", ErrEncoding, clip(name))
	}
	broken := fmt.Errorf("%w: the body is not valid %s", wire.ErrBadRequest, name)
	if err != nil {
		return nil, broken
	}
	x.plain, err = h.readAll(x, r, x.plain[:0], broken)
	return x.plain, err
}

// encoding is how a body is compressed.
type encoding uint8

const (
	identity encoding = iota
	gzipped
	deflated
)

// name returns what Content-Encoding calls it.
func (e encoding) name() string { return [...]string{"identity", "gzip", "deflate"}[e] }

// or returns the better one of two that a client accepts.
func (e encoding) or(other encoding) encoding {
	if e == identity || other == gzipped {
		return other
	}
	return e
}

// acceptedBy returns the encoding for the answer to a request.
func acceptedBy(h *fasthttp.RequestHeader) encoding {
	best := identity
	for _, value := range h.PeekAll("Accept-Encoding") {
		best = best.or(accepted(value))
	}
	return best
}

// accepted returns the encoding to use for a client that accepts these: gzip
// where it may be chosen. A quality of 0 forbids one; others do not rank them.
func accepted(accept []byte) encoding {
	best := identity
	for part := range bytes.SplitSeq(accept, []byte(",")) {
		name, quality, _ := bytes.Cut(part, []byte(";"))
		quality = bytes.TrimSpace(quality)
		if len(quality) >= 3 && isName(quality[:3], "q=0") &&
			len(bytes.Trim(quality[3:], ".0")) == 0 {
			continue
		}
		switch name = bytes.TrimSpace(name); {
		case isName(name, "gzip"):
			return gzipped
		case isName(name, "deflate"):
			best = deflated
		}
	}
	return best
}

// compressFrom is the least body that is worth compressing: below, the
// headers weigh as much as what is saved.
const compressFrom = 1 << 10

// compress appends the encoded body to dst; nil says to send it as it is.
func compress(dst, body []byte, e encoding) []byte {
	if e == identity || len(body) < compressFrom {
		return nil
	}
	if e == gzipped {
		return fasthttp.AppendGzipBytes(dst, body)
	}
	return fasthttp.AppendDeflateBytes(dst, body)
}

// clip bounds what is repeated of a client's words.
func clip(s []byte) []byte {
	if len(s) > 64 {
		return s[:64]
	}
	return s
}
