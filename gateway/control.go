package gateway

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/millrace-ml/millrace/gateway/wire"
	"github.com/millrace-ml/millrace/runtime/batch"
	"github.com/millrace-ml/millrace/runtime/model"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// control answers everything but infer.
func (h *HTTP) control(ctx *fasthttp.RequestCtx, p *target) error {
	if p.action == actionUnsupported {
		return fmt.Errorf("%w: %s", ErrUnsupported, p.lacking)
	}
	switch p.action {
	case actionServerMetadata:
		return reply(ctx, map[string]any{
			"name": h.core.ServerName(), "version": h.core.ServerVersion(),
			"extensions": h.core.Extensions(),
		})
	case actionLive:
		return reply(ctx, map[string]bool{"live": true})
	case actionServerReady:
		if !h.core.Ready() {
			ctx.SetStatusCode(fasthttp.StatusServiceUnavailable)
		}
		return reply(ctx, map[string]bool{"ready": h.core.Ready()})
	case actionIndex, actionLoad, actionUnload:
		return h.repository(ctx, p)
	case actionLogging:
		return h.logging(ctx)
	case actionFeedback:
		return h.feedback(ctx)
	case actionV1Models, actionV1Model:
		return h.modelsV1(ctx, p)
	case actionPing, actionVersion:
		return h.mlflow(ctx, p)
	case actionOpenAPI, actionPage, actionRoot:
		return h.describe(ctx, p)
	case actionAllStats:
		var all []any
		h.core.models.Each(func(v *model.Version) {
			all = append(all, statistics(v, h.core.Statistics(v)))
		})
		return reply(ctx, map[string]any{"model_stats": all})
	}
	return h.model(ctx, p)
}

// allow returns ErrMethod, and says what may be sent instead, for a verb that is
// not one of the action's. The index may be got as well as posted: what only
// reads is what people try with a browser first.
func allow(ctx *fasthttp.RequestCtx, a action) error {
	get, post := true, false
	switch a {
	case actionInfer, actionLoad, actionUnload, actionFeedback:
		get, post = false, true
	case actionIndex, actionLogging, actionUnsupported:
		post = true
	}
	if get && (ctx.IsGet() || ctx.IsHead()) || post && ctx.IsPost() {
		return nil
	}
	verbs := make([]string, 0, 3)
	if get {
		verbs = append(verbs, "GET", "HEAD")
	}
	if post {
		verbs = append(verbs, "POST")
	}
	ctx.Response.Header.Set("Allow", strings.Join(verbs, ", "))
	return ErrMethod
}

// model answers what is asked of one model.
func (h *HTTP) model(ctx *fasthttp.RequestCtx, p *target) error {
	v, err := h.core.Served(p.model, p.version)
	if err != nil {
		return err
	}
	defer v.Release()
	switch p.action {
	case actionModelReady:
		return reply(ctx, map[string]any{"name": string(p.model), "ready": true})
	case actionModelMetadata:
		return reply(ctx, map[string]any{
			"name": string(p.model), "versions": h.core.models.Versions(v.Name()),
			"platform": v.Platform(),
			"inputs":   metadata(v.Signature().Inputs), "outputs": metadata(v.Signature().Outputs),
		})
	case actionModelConfig:
		text, err := protojson.MarshalOptions{UseProtoNames: true,
			EmitDefaultValues: true}.Marshal(v.Config())
		if err != nil {
			return fmt.Errorf("cannot write the configuration: %w", err)
		}
		ctx.Response.Header.SetContentTypeBytes(contentJSON)
		ctx.SetBody(text)
		return nil
	}
	return reply(ctx, map[string]any{"model_stats": []any{statistics(v, h.core.Statistics(v))}})
}

func reply(ctx *fasthttp.RequestCtx, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot write the answer: %w", err)
	}
	ctx.Response.Header.SetContentTypeBytes(contentJSON)
	ctx.SetBody(text)
	return nil
}

type tensorMetadata struct {
	Name     string  `json:"name"`
	Datatype string  `json:"datatype"`
	Shape    []int64 `json:"shape"`
}

func metadata(specs []tensor.Spec) []tensorMetadata {
	list := make([]tensorMetadata, len(specs))
	for i := range specs {
		list[i] = tensorMetadata{specs[i].Name, specs[i].Datatype.String(), specs[i].Shape}
		if list[i].Shape == nil {
			list[i].Shape = []int64{}
		}
	}
	return list
}

// statistics is a version's entry of the statistics extension.
func statistics(v *model.Version, s Statistics) map[string]any {
	last := int64(0)
	if !s.LastRun.IsZero() {
		last = s.LastRun.UnixMilli()
	}
	batches := make([]map[string]any, 0, len(s.Sizes))
	for _, b := range s.Sizes {
		batches = append(batches, map[string]any{
			"batch_size": b.Rows, "compute_input": duration(b.ComputeInput),
			"compute_infer": duration(b.ComputeInfer), "compute_output": duration(b.ComputeOutput),
		})
	}
	return map[string]any{
		"name": v.Name(), "version": v.Version(), "last_inference": last,
		"inference_count": s.Inferences, "execution_count": s.Executions,
		"inference_stats": map[string]any{
			"success": duration(s.Success), "fail": duration(s.Fail), "queue": duration(s.Queue),
			"compute_input": duration(s.ComputeInput), "compute_infer": duration(s.ComputeInfer),
			"compute_output": duration(s.ComputeOutput),
			"cache_hit":      duration(s.CacheHit), "cache_miss": duration(s.CacheMiss),
		},
		"response_stats": map[string]any{},
		"batch_stats":    batches,
		"memory_usage":   []map[string]any{{"type": "CPU", "id": 0, "byte_size": v.FileBytes()}},
	}
}

func duration(d batch.Duration) map[string]uint64 {
	return map[string]uint64{"count": d.Count, "ns": d.NS}
}

// controlTimeout bounds how long a load request may take.
const controlTimeout = 10 * time.Minute

// repository answers the repository extension.
func (h *HTTP) repository(ctx *fasthttp.RequestCtx, p *target) error {
	x, err := h.core.Open(ProtocolHTTP)
	if err != nil {
		return err
	}
	body, err := h.readBody(ctx, x)
	if err == nil {
		switch p.action {
		case actionIndex:
			err = h.index(ctx, body)
		case actionLoad:
			err = h.load(string(p.model), body)
		default:
			err = h.unload(string(p.model), body)
		}
	}
	h.core.Finish(x, err)
	return err
}

func (h *HTTP) index(ctx *fasthttp.RequestCtx, body []byte) error {
	var ask struct {
		Ready bool `json:"ready"`
	}
	if len(body) > 0 {
		if err := json.Unmarshal(body, &ask); err != nil {
			return fmt.Errorf("%w: Invalid value for 'ready': expected a boolean, in an object",
				wire.ErrBadRequest)
		}
	}
	type line struct {
		Name    string `json:"name"`
		Version string `json:"version,omitempty"`
		State   string `json:"state,omitempty"`
		Reason  string `json:"reason,omitempty"`
	}
	lines := []line{}
	for _, e := range h.core.models.Index(ask.Ready) {
		lines = append(lines, line{e.Name, e.Version, string(e.State), e.Reason})
	}
	return reply(ctx, lines)
}

func (h *HTTP) load(name string, body []byte) error {
	var ask struct {
		Parameters map[string]any `json:"parameters"`
	}
	if len(body) > 0 {
		if err := json.Unmarshal(body, &ask); err != nil {
			return fmt.Errorf("%w: the body of load: %v", wire.ErrBadRequest, err)
		}
	}
	o := model.LoadOptions{Files: make(map[string][]byte)}
	for key, value := range ask.Parameters {
		text, ok := value.(string)
		path, file := strings.CutPrefix(key, "file:")
		if !ok || !file && key != "config" {
			return fmt.Errorf("%w: load takes the parameters \"config\", a string of JSON, and "+
				"\"file:<version>/<path>\", a string of base64; got %s", wire.ErrBadRequest,
				strconv.Quote(string(clip([]byte(key)))))
		}
		if !file {
			o.Config = []byte(text)
			continue
		}
		data, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return fmt.Errorf("%w: the parameter %s is not base64: %v", wire.ErrBadRequest,
				strconv.Quote(string(clip([]byte(key)))), err)
		}
		o.Files[path] = data
	}
	return h.core.Load(name, o)
}

// unload takes a model out of service. There are no ensembles, so that no model
// depends on another and unload_dependents changes nothing.
func (h *HTTP) unload(name string, body []byte) error {
	var ask struct {
		Parameters struct {
			Dependents bool `json:"unload_dependents"`
		} `json:"parameters"`
	}
	if len(body) > 0 {
		if err := json.Unmarshal(body, &ask); err != nil {
			return fmt.Errorf("%w: the body of unload: %v", wire.ErrBadRequest, err)
		}
	}
	return h.core.Unload(name)
}

// logging answers the logging extension.
func (h *HTTP) logging(ctx *fasthttp.RequestCtx) error {
	if ctx.IsPost() {
		x, err := h.core.Open(ProtocolHTTP)
		if err != nil {
			return err
		}
		body, err := h.readBody(ctx, x)
		if err == nil {
			var settings map[string]any
			switch err = json.Unmarshal(body, &settings); {
			case err != nil:
				err = fmt.Errorf("%w: the body of logging: %v", wire.ErrBadRequest, err)
			case settings == nil: // null
				err = fmt.Errorf("%w: the body of logging is no object", wire.ErrBadRequest)
			default:
				err = h.core.SetLogSettings(settings)
			}
		}
		h.core.Finish(x, err)
		if err != nil {
			return err
		}
	}
	return reply(ctx, h.core.LogSettings())
}
