package grpc

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/millrace-ml/millrace/gateway"
	"github.com/millrace-ml/millrace/gateway/wire"
)

// modelInfer is the handler of the unary call, in the generated one's place.
func modelInfer(srv any, ctx context.Context, decode func(any) error,
	intercept grpc.UnaryServerInterceptor) (any, error) {
	s := srv.(*service)
	f := frames.Get().(*frame)
	if err := decode(f); err != nil {
		f.free()
		return nil, err
	}
	handle := func(ctx context.Context, _ any) (any, error) {
		if err := s.infer(ctx, f); err != nil {
			f.free()
			return nil, s.failure(err)
		}
		return f, nil
	}
	info := &grpc.UnaryServerInfo{Server: srv,
		FullMethod: "/inference.GRPCInferenceService/ModelInfer"}
	return intercept(ctx, f, info, handle)
}

// infer answers the request in f.in into f.out.
func (s *Server) infer(ctx context.Context, f *frame) error {
	body := f.in.ReadOnlyData()
	name, version, err := wire.ProtoHead(body)
	if err != nil {
		return err
	}
	q := gateway.Query{Name: name, Version: version, Headers: f}
	f.ctx = ctx
	if len(q.Version) == 0 {
		q.Version = f.Header("x-millrace-version")
	}
	x, err := s.core.Begin(q, gateway.ProtocolGRPC)
	if err != nil {
		return err
	}
	err = s.exchange(ctx, x, f)
	s.core.Finish(x, err)
	return err
}

func (s *Server) exchange(ctx context.Context, x *gateway.Exchange, f *frame) error {
	body := f.in.ReadOnlyData()
	if err := s.core.Reserve(x, int64(len(body))); err != nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok {
		x.Deadline(max(1, int64(time.Until(deadline))))
	}
	x.Ticket.Cancel = ctx.Done()
	if err := s.core.Decode(x, body, -1); err != nil {
		return err
	}
	err := s.core.Infer(x)
	if err == nil {
		f.out, _, err = s.core.Encode(f.out[:0], x)
	}
	if err == nil && x.Routed() && !f.streamed {
		err = sendHeaders(ctx, x)
	}
	return err
}

// Header returns a call's metadata as routing looks at it.
func (f *frame) Header(name string) []byte {
	if values := metadata.ValueFromIncomingContext(f.ctx, name); len(values) > 0 {
		return []byte(values[0])
	}
	return nil
}

// sendHeaders tells the client of a unary call which version of an endpoint has
// answered. The message itself names the version of a model.
func sendHeaders(ctx context.Context, x *gateway.Exchange) error {
	md := make(metadata.MD)
	x.Headers(func(name string, value []byte) { md.Append(name, string(value)) })
	return grpc.SetHeader(ctx, md)
}

// modelStreamInfer answers the requests of a stream as they finish. An error
// of one request is an answer; the stream goes on.
func modelStreamInfer(srv any, ss grpc.ServerStream) error {
	s, st := srv.(*service), ss.(*stream)
	slots := make(chan struct{}, s.cfg.StreamInFlight)
	defer st.answering.Wait()
	var sending sync.Mutex
	for {
		f := frames.Get().(*frame)
		if err := st.RecvMsg(f); err != nil {
			f.free()
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		slots <- struct{}{}
		if !st.begin() {
			f.free()
			return s.failure(gateway.ErrClosing)
		}
		f.streamed = true
		go func() {
			defer st.answering.Done()
			s.answer(st, f, &sending)
			<-slots
		}()
	}
}

// inferGuarded is infer where no interceptor takes a panic.
func (s *Server) inferGuarded(ctx context.Context, f *frame) (err error) {
	defer s.catch(&err, "ModelStreamInfer")
	return s.infer(ctx, f)
}

// answer answers one request of a stream; an error carries the request's id,
// since answers come in the order in which they are ready. A stream whose
// client has gone reports that to its receiving side.
func (s *Server) answer(stream grpc.ServerStream, f *frame, sending *sync.Mutex) {
	err := s.inferGuarded(stream.Context(), f)
	out := frames.Get().(*frame)
	out.out = out.out[:0]
	if err != nil {
		_, text := gateway.Classify(err)
		out.out = protowire.AppendTag(out.out, streamError, protowire.BytesType)
		out.out = protowire.AppendString(out.out, text)
		f.out = f.out[:0]
		if id := wire.ProtoID(f.in.ReadOnlyData()); len(id) > 0 {
			f.out = protowire.AppendTag(f.out, messageID, protowire.BytesType)
			f.out = protowire.AppendBytes(f.out, id)
		}
	}
	f.out = wire.AppendFinal(f.out)
	out.out = protowire.AppendTag(out.out, streamResponse, protowire.BytesType)
	out.out = protowire.AppendBytes(out.out, f.out)
	f.free()
	sending.Lock()
	defer sending.Unlock()
	if err := stream.SendMsg(out); err != nil {
		s.log.Debug("cannot send on a stream", "error", err)
	}
}

// Field numbers of ModelStreamInferResponse, and of the id in both a
// ModelInferRequest and a ModelInferResponse.
const streamError, streamResponse, messageID = 1, 2, 3
