package grpc

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
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
	x, err := s.core.Begin(name, version, gateway.ProtocolGRPC)
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
	if err := wire.DecodeProto(&x.Request, x.Version.Signature(), body); err != nil {
		return err
	}
	if err := s.core.Infer(x); err != nil {
		return err
	}
	var err error
	f.out, err = wire.AppendProto(f.out[:0], &x.Request, &x.Answer)
	return err
}

// modelStreamInfer answers the requests of a stream as they finish. An error
// of one request is an answer; the stream goes on.
func modelStreamInfer(srv any, stream grpc.ServerStream) error {
	s := srv.(*service)
	slots := make(chan struct{}, s.cfg.StreamInFlight)
	var wait sync.WaitGroup
	defer wait.Wait()
	var sending sync.Mutex
	for {
		f := frames.Get().(*frame)
		if err := stream.RecvMsg(f); err != nil {
			f.free()
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		slots <- struct{}{}
		wait.Go(func() {
			s.answer(stream, f, &sending)
			<-slots
		})
	}
}

// answer answers one request of a stream. A stream whose client has gone
// reports that to its receiving side.
func (s *Server) answer(stream grpc.ServerStream, f *frame, sending *sync.Mutex) {
	err := s.infer(stream.Context(), f)
	out := frames.Get().(*frame)
	if err != nil {
		_, text := gateway.Classify(err)
		out.out = protowire.AppendTag(out.out[:0], 1, protowire.BytesType)
		out.out = protowire.AppendString(out.out, text)
	} else {
		out.out = protowire.AppendTag(out.out[:0], 2, protowire.BytesType)
		out.out = protowire.AppendBytes(out.out, f.out)
	}
	f.free()
	sending.Lock()
	defer sending.Unlock()
	if err := stream.SendMsg(out); err != nil {
		s.log.Debug("cannot send on a stream", "error", err)
	}
}
