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
	if err != nil {
		return nil, fmt.Errorf("%w: the body is not valid %s", wire.ErrBadRequest, name)
	}
	x.plain, err = h.readAll(x, r, x.plain[:0])
	return x.plain, err
}

// clip bounds what is repeated of a client's words.
func clip(s []byte) []byte {
	if len(s) > 64 {
		return s[:64]
	}
	return s
}
