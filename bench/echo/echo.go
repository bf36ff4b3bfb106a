// Package echo is the limit that a server is held against: servers that do
// nothing but send back what they got, with the same libraries and the same
// transport. What a model server loses against them is its own doing.
package echo

import (
	"context"
	"fmt"
	"net"

	"github.com/valyala/fasthttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
)

// maxBody bounds a request, in bytes.
const maxBody = 1 << 30

// Method is the only gRPC method that an echo server knows; it has the path of
// the Open Inference Protocol's ModelInfer, so that one client fits both.
const Method = "/inference.GRPCInferenceService/ModelInfer"

// Serve echoes HTTP bodies on one listener and gRPC messages on the other
// until ctx ends. It closes both.
func Serve(ctx context.Context, overHTTP, overGRPC net.Listener) error {
	h := &fasthttp.Server{
		Handler: func(c *fasthttp.RequestCtx) {
			c.SetContentTypeBytes(c.Request.Header.ContentType())
			c.Response.SetBodyRaw(c.Request.Body())
		},
		MaxRequestBodySize: maxBody,
		Logger:             quiet{},
	}
	g := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}),
		grpc.MaxRecvMsgSize(maxBody), grpc.MaxSendMsgSize(maxBody))
	g.RegisterService(&service, nil)

	failed := make(chan error, 2)
	go func() { failed <- wrap("HTTP", h.Serve(overHTTP)) }()
	go func() { failed <- wrap("gRPC", g.Serve(overGRPC)) }()
	var first error
	left := 2
	select {
	case <-ctx.Done():
	case first = <-failed:
		if left--; first == nil { // fasthttp's word for a listener that was closed
			first = fmt.Errorf("cannot echo: %w", net.ErrClosed)
		}
	}
	g.Stop()
	_ = h.Shutdown()
	for ; left > 0; left-- {
		<-failed
	}
	return first
}

func wrap(what string, err error) error {
	if err != nil {
		return fmt.Errorf("cannot echo over %s: %w", what, err)
	}
	return nil
}

// quiet drops fasthttp's lines about connections that clients cut.
type quiet struct{}

// Printf implements fasthttp.Logger.
func (quiet) Printf(string, ...any) {}

var service = grpc.ServiceDesc{
	ServiceName: "inference.GRPCInferenceService",
	Methods:     []grpc.MethodDesc{{MethodName: "ModelInfer", Handler: modelInfer}},
}

func modelInfer(_ any, _ context.Context, decode func(any) error,
	_ grpc.UnaryServerInterceptor) (any, error) {
	m := new(message)
	return m, decode(m)
}

// message is one request that is also its answer.
type message struct{ data mem.BufferSlice }

// rawCodec passes messages through as they are.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

// Unmarshal keeps the buffers alive for Marshal, which hands them to gRPC.
func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	data.Ref()
	v.(*message).data = data
	return nil
}

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) { return v.(*message).data, nil }
