package gateway

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"

	"github.com/valyala/fasthttp"

	"github.com/millrace-ml/millrace/gateway/wire"
)

const (
	headerLength  = "Inference-Header-Content-Length"
	headerTimeout = "X-Request-Timeout-Ms"

	// prefetched is how much of a body fasthttp reads before the handler runs.
	prefetched = 8 << 10
)

// errShortBody is returned when the client ended its request early.
var errShortBody = fmt.Errorf("%w: the body ended before its Content-Length", wire.ErrBadRequest)

// errBrokenChunks is returned for a body in chunks that are none, or are cut short.
var errBrokenChunks = fmt.Errorf("%w: the chunks of the body are malformed", wire.ErrBadRequest)

// fields are a request's headers as routing looks at them.
type fields fasthttp.RequestHeader

// Header implements route.Headers.
func (f *fields) Header(name string) []byte {
	return (*fasthttp.RequestHeader)(f).Peek(name)
}

// infer answers an inference request of any dialect.
func (h *HTTP) infer(ctx *fasthttp.RequestCtx, p *target) {
	q := Query{Name: p.model, Version: p.version, Headers: (*fields)(&ctx.Request.Header)}
	if len(q.Version) == 0 {
		q.Version = q.Headers.Header(headerVersion)
	}
	x, err := h.core.Begin(q, p.dialect.protocol())
	if err != nil {
		h.failAs(ctx, err, p.dialect)
		return
	}
	x.dialect = p.dialect
	err = h.exchange(ctx, x)
	if err != nil {
		h.failAs(ctx, err, p.dialect)
	}
	h.core.Finish(x, err)
}

// exchange takes the request through: body, tensors, run, answer.
func (h *HTTP) exchange(ctx *fasthttp.RequestCtx, x *Exchange) error {
	if ms := ctx.Request.Header.Peek(headerTimeout); len(ms) > 0 {
		n, err := strconv.ParseUint(string(ms), 10, 32)
		if err != nil {
			return fmt.Errorf("%w: header %s must be a number of milliseconds",
				wire.ErrBadRequest, headerTimeout)
		}
		x.Deadline(int64(n) * 1_000_000)
	}
	body, err := h.readBody(ctx, x)
	if err != nil {
		return err
	}
	if body, err = h.decompress(ctx, x, body); err != nil {
		return err
	}
	if x.dialect == dialectMLflow {
		if x.dialect, err = mlflowForm(ctx.Request.Header.ContentType()); err != nil {
			return err
		}
	}
	jsonLen, err := jsonLength(ctx, len(body))
	if err != nil {
		return err
	}
	if err := h.core.Decode(x, body, jsonLen); err != nil {
		return err
	}
	if err := h.core.Infer(x); err != nil {
		return err
	}
	return h.answer(ctx, x)
}

// jsonLength returns the length of the JSON part, -1 when all is JSON.
func jsonLength(ctx *fasthttp.RequestCtx, body int) (int, error) {
	value := ctx.Request.Header.Peek(headerLength)
	if len(value) == 0 {
		return -1, nil
	}
	n, err := strconv.ParseUint(string(value), 10, 31)
	if err != nil {
		return 0, fmt.Errorf("%w: header %s must be a number of bytes, got %q",
			wire.ErrBadRequest, headerLength, value)
	}
	if int(n) > body {
		return 0, fmt.Errorf("%w: header %s says %d bytes, the body has %d",
			wire.ErrBadRequest, headerLength, n, body)
	}
	return int(n), nil
}

// readBody reads the body as it came into the Exchange's memory, which it
// grows only as bytes arrive.
func (h *HTTP) readBody(ctx *fasthttp.RequestCtx, x *Exchange) ([]byte, error) {
	stream := ctx.RequestBodyStream()
	length := ctx.Request.Header.ContentLength()
	x.body = x.body[:0]
	if stream == nil || length == 0 {
		return x.body, nil
	}
	if int64(length) > h.core.cfg.MaxBodyBytes {
		return nil, h.core.tooLarge()
	}
	if length > 0 {
		if err := h.core.Reserve(x, int64(length)); err != nil {
			return nil, err
		}
		if err := x.makeRoom(length, false); err != nil {
			return nil, err
		}
		x.body = x.body[:length]
		if _, err := io.ReadFull(stream, x.body); isTimeout(err) {
			return nil, ErrTooSlow
		} else if err != nil {
			return nil, errShortBody
		}
		return x.body, nil
	}
	var err error
	x.body, err = h.readAll(x, stream, x.body, errBrokenChunks)
	// fasthttp hides why it could not read a chunk.
	if c, ok := ctx.Conn().(*handed); ok && err == errBrokenChunks && c.late.Load() {
		err = ErrTooSlow
	}
	return x.body, err
}

// readAll appends all of r, of unknown length, to dst. It returns broken when r
// cannot be read to its end.
func (h *HTTP) readAll(x *Exchange, r io.Reader, dst []byte, broken error) ([]byte, error) {
	for {
		if len(dst) == cap(dst) {
			grown := make([]byte, len(dst), max(2*cap(dst), 16<<10))
			copy(grown, dst)
			dst = grown
		}
		n, err := r.Read(dst[len(dst):cap(dst)])
		if n > 0 {
			if err := h.core.Reserve(x, int64(n)); err == ErrTooLarge {
				return dst, h.core.tooLarge()
			} else if err != nil {
				return dst, err
			}
			dst = dst[:len(dst)+n]
		}
		if err == io.EOF {
			return dst, nil
		}
		if isTimeout(err) {
			return dst, ErrTooSlow
		}
		if err != nil {
			return dst, broken
		}
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// answer encodes the outputs into the response.
func (h *HTTP) answer(ctx *fasthttp.RequestCtx, x *Exchange) error {
	body := ctx.Response.SwapBody(nil)
	body, jsonLen, err := h.core.Encode(body[:0], x)
	ctx.Response.SwapBody(body)
	if err != nil {
		return err
	}
	ctx.SetStatusCode(fasthttp.StatusOK)
	if jsonLen < 0 {
		ctx.Response.Header.SetContentTypeBytes(contentJSON)
	} else {
		ctx.Response.Header.SetContentTypeBytes(contentBinary)
		var digits [20]byte
		length := strconv.AppendInt(digits[:0], int64(jsonLen), 10)
		ctx.Response.Header.SetBytesV(headerLength, length)
	}
	x.Headers(func(name string, value []byte) { ctx.Response.Header.SetBytesV(name, value) })
	accept := acceptedBy(&ctx.Request.Header)
	if packed := compress(nil, body, accept); packed != nil {
		ctx.Response.Header.SetBytesV("Content-Encoding", []byte(accept.name()))
		ctx.Response.SetBodyRaw(packed)
	}
	return nil
}
