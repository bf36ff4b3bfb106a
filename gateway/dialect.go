package gateway

import (
	"bytes"
	"fmt"
	"mime"
	"strings"

	"github.com/millrace-ml/millrace/gateway/wire"
)

// dialect is how a request's body is written, and its answer's.
type dialect uint8

const (
	dialectOIP dialect = iota // Open Inference Protocol, JSON and binary
	dialectV1                 // KServe's first
	dialectMLflow
	dialectCSV // MLflow's, with a table as text
	dialectPlain
	dialectProto // Open Inference Protocol, gRPC
)

// protocol returns how metrics count a dialect.
func (d dialect) protocol() Protocol {
	return [...]Protocol{dialectOIP: ProtocolHTTP, dialectV1: ProtocolV1,
		dialectMLflow: ProtocolMLflow, dialectCSV: ProtocolMLflow, dialectPlain: ProtocolPlain,
		dialectProto: ProtocolGRPC}[d]
}

// Decode makes tensors of the body. Of a body in the Open Inference Protocol's
// REST form the JSON part has jsonLen bytes: -1 for all, 0 for a raw body.
func (c *Core) Decode(x *Exchange, body []byte, jsonLen int) error {
	if err := c.decode(x, body, jsonLen); err != nil || !x.choice.NeedsKey {
		return err
	}
	moved, err := c.pickAgain(x)
	if err != nil || !moved {
		return err
	}
	x.Request.Forget()
	return c.decode(x, body, jsonLen)
}

func (c *Core) decode(x *Exchange, body []byte, jsonLen int) (err error) {
	defer c.catch(&err)
	r, sig := &x.Request, x.Version.Signature()
	switch x.dialect {
	case dialectProto:
		return wire.DecodeProto(r, sig, body)
	case dialectV1:
		return wire.DecodeV1(r, sig, body)
	case dialectMLflow:
		return wire.DecodeMLflow(r, sig, body)
	case dialectCSV:
		return wire.DecodeMLflowCSV(r, sig, body)
	case dialectPlain:
		return wire.DecodePlain(r, sig, body)
	}
	if jsonLen == 0 {
		return wire.DecodeRaw(r, sig, body)
	}
	return wire.Decode(r, sig, body, jsonLen)
}

// Encode appends the answer, with its score where it has one. jsonLen is the length of
// its JSON part where binary tensors follow it, else -1.
func (c *Core) Encode(dst []byte, x *Exchange) (out []byte, jsonLen int, err error) {
	defer c.catch(&err)
	if e := x.endpoint; e != nil {
		if s := e.scoring.Load(); s != nil {
			c.score(x, s)
		}
	}
	r, a, null := &x.Request, &x.Answer, c.cfg.NullNaN
	switch x.dialect {
	case dialectProto:
		out, err = wire.AppendProto(dst, r, a)
	case dialectV1:
		out, err = wire.AppendV1(dst, r, a, null)
	case dialectMLflow, dialectCSV:
		out, err = wire.AppendMLflow(dst, r, a, null)
	case dialectPlain:
		out, err = wire.AppendPlain(dst, r, a, null)
	default:
		return wire.Append(dst, r, a, null)
	}
	return out, -1, err
}

var (
	pathOIP         = []byte("/v2/models/")
	pathV1          = []byte("/v1/models/")
	pathPlain       = []byte("/predict")
	pathInvocations = []byte("/invocations")
	verbPredict     = []byte(":predict")
	versionsIn      = []byte("versions/")
)

// inference reads the path of an inference request in a dialect beside OIP:
//
//	/v1/models/NAME[/versions/VERSION]:predict
//	/predict[/NAME[/versions/VERSION]]
//	[/NAME[/versions/VERSION]]/invocations
//
// ok is false for every other path. The names are as they stand there.
func inference(path []byte) (d dialect, name, version []byte, ok bool) {
	if rest, is := bytes.CutPrefix(path, pathV1); is {
		if rest, is = bytes.CutSuffix(rest, verbPredict); !is {
			return 0, nil, nil, false
		}
		name, version, ok = versioned(rest)
		return dialectV1, name, version, ok && len(name) > 0
	}
	if rest, is := bytes.CutPrefix(path, pathPlain); is && (len(rest) == 0 || rest[0] == '/') {
		name, version, ok = versioned(bytes.TrimPrefix(rest, []byte("/")))
		return dialectPlain, name, version, ok
	}
	if rest, is := bytes.CutSuffix(path, pathInvocations); is {
		name, version, ok = versioned(bytes.TrimPrefix(rest, []byte("/")))
		return dialectMLflow, name, version, ok && (len(rest) == 0 || len(name) > 0)
	}
	return 0, nil, nil, false
}

// versioned splits NAME[/versions/VERSION].
func versioned(path []byte) (name, version []byte, ok bool) {
	name, rest, cut := bytes.Cut(path, []byte("/"))
	if !cut {
		return name, nil, true
	}
	version, is := bytes.CutPrefix(rest, versionsIn)
	return name, version, is && len(name) > 0 && len(version) > 0 &&
		bytes.IndexByte(version, '/') < 0
}

// parseOther reads the paths beside those of the Open Inference Protocol.
func (p *target) parseOther(path []byte) error {
	d, name, version, ok := inference(path)
	if ok {
		p.action, p.dialect = actionInfer, d
		return p.named(name, version)
	}
	switch string(path) {
	case "/ping", "/health":
		p.action = actionPing
	case "/version":
		p.action = actionVersion
	case "/openapi.json":
		p.action = actionOpenAPI
	case "/":
		p.action = actionRoot
	case "/docs":
		p.action = actionPage
	case "/v1/models", "/v1/models/":
		p.action = actionV1Models
	default:
		rest, ok := bytes.CutPrefix(path, pathV1)
		if !ok {
			return ErrNotFound
		}
		p.action = actionV1Model
		if rest, ok = bytes.CutSuffix(rest, []byte(":explain")); ok {
			p.unsupported("explanations; ask an explainer in front of this server")
		}
		if name, version, ok = versioned(rest); !ok {
			return ErrNotFound
		}
		return p.named(name, version)
	}
	return nil
}

// named takes the names of a path.
func (p *target) named(name, version []byte) (err error) {
	if p.model, err = unescape(name); err == nil {
		p.version, err = unescape(version)
	}
	return err
}

// mlflowForm returns how a body for MLflow's scoring is written. JSON is what
// curl -d sends under the type of a form.
func mlflowForm(contentType []byte) (dialect, error) {
	kind, params, err := mime.ParseMediaType(string(contentType))
	switch {
	case err != nil && len(contentType) > 0:
	case params["charset"] != "" && !strings.EqualFold(params["charset"], "utf-8"):
	case kind == "" || kind == "application/json" || kind == "application/x-www-form-urlencoded":
		return dialectMLflow, nil
	case kind == "text/csv":
		return dialectCSV, nil
	}
	return 0, fmt.Errorf("%w %q: application/json and text/csv are known, in UTF-8",
		ErrContentType, clip(contentType))
}
