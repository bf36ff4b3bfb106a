package gateway

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"

	"github.com/millrace-ml/millrace/gateway/wire"
)

// TestPanics lets decoding and encoding panic, on an Exchange without a model:
// each must be an answer, after which the Exchange is given back.
func TestPanics(t *testing.T) {
	core := New(DefaultConfig(), nil, slog.New(slog.DiscardHandler))
	want := func(err error) {
		t.Helper()
		if f := core.failure(err, dialectOIP); f.status != 500 || f.text != "internal error" {
			t.Errorf("a panic is answered with %+v", f)
		}
	}
	x := new(Exchange)
	want(core.Decode(x, []byte("{}"), -1))
	h := &HTTP{core: core, log: core.log}
	x.Request.Outputs = []wire.Output{{Index: 7}}
	want(h.answer(new(fasthttp.RequestCtx), x))
	c := &conn{lane: &lane{core: core, log: core.log}}
	_, err := c.encode(x)
	want(err)

	var ctx fasthttp.RequestCtx
	ctx.Request.SetRequestURI("/v2/health/ready")
	h.handle(&ctx) // asks the repository, which is not there
	if got := string(ctx.Response.Body()); ctx.Response.StatusCode() != 500 ||
		!strings.Contains(got, "internal error") {
		t.Errorf("a panic of the handler is answered with %d: %s", ctx.Response.StatusCode(), got)
	}
}
