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
	if err := s.decode(x, body); err != nil {
		return err
	}
	if err := s.core.Infer(x); err != nil {
		return err
	}
	return s.encode(x, f)
}

// decode makes tensors of the message.
func (s *Server) decode(x *gateway.Exchange, body []byte) (err error) {
	defer s.catch(&err, "decode")
	return wire.DecodeProto(&x.Request, x.Version.Signature(), body)
}

// encode makes a message of the answer.
func (s *Server) encode(x *gateway.Exchange, f *frame) (err error) {
	defer s.catch(&err, "encode")
	f.out, err = wire.AppendProto(f.out[:0], &x.Request, &x.Answer)
	return err
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
