// Package grpc serves the Open Inference Protocol over gRPC, with Triton's
// extensions, on a gateway.Core.
//
// ModelInfer and ModelStreamInfer never become generated messages: the codec
// hands the bytes of a frame over, package wire reads tensors out of them and
// writes the answer's bytes. Everything else is generated messages.
//
// A [Server] may be used concurrently. Code under pb is generated.
package grpc

import (
	"context"
	"log/slog"
	"net"
	"sync"

	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // of messages that clients compress
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/millrace-ml/millrace/gateway"
	"github.com/millrace-ml/millrace/gateway/grpc/pb"
)

// Config bounds what the gRPC front takes in.
type Config struct {
	HTTP            gateway.HTTPConfig // of its connections
	MaxMessageBytes int                // of one request or answer
	MaxStreams      uint32             // open at once on one connection
	StreamInFlight  int                // requests of one ModelStreamInfer under way
}

// DefaultConfig returns the values for a server about which nothing is known.
func DefaultConfig() Config {
	return Config{HTTP: gateway.DefaultHTTPConfig(), MaxMessageBytes: 64 << 20, MaxStreams: 4096,
		StreamInFlight: 128}
}

// Server is the gRPC front.
type Server struct {
	core   *gateway.Core
	cfg    Config
	log    *slog.Logger
	front  *gateway.GRPC
	server *grpc.Server
	health *health.Server

	draining chan struct{} // closed when streams have to end
	once     sync.Once     // closes it
}

// New returns a front on core; Serve starts it.
func New(core *gateway.Core, cfg Config, log *slog.Logger) (*Server, error) {
	s := &Server{
		core: core, cfg: cfg, log: log, health: health.NewServer(), draining: make(chan struct{}),
	}
	s.server = grpc.NewServer(
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(cfg.MaxMessageBytes),
		grpc.MaxSendMsgSize(cfg.MaxMessageBytes),
		grpc.UnaryInterceptor(s.recoverUnary),
		grpc.StreamInterceptor(s.serveStream),
	)
	desc := pb.GRPCInferenceService_ServiceDesc
	desc.Methods = append([]grpc.MethodDesc(nil), desc.Methods...)
	for i := range desc.Methods {
		if desc.Methods[i].MethodName == "ModelInfer" {
			desc.Methods[i].Handler = modelInfer
		}
	}
	desc.Streams = []grpc.StreamDesc{{
		StreamName: "ModelStreamInfer", Handler: modelStreamInfer, ServerStreams: true,
		ClientStreams: true,
	}}
	s.server.RegisterService(&desc, &service{Server: s})
	grpc_health_v1.RegisterHealthServer(s.server, s.health)
	s.health.SetServingStatus(desc.ServiceName, grpc_health_v1.HealthCheckResponse_SERVING)
	reflection.Register(s.server)
	front := gateway.GRPCConfig{HTTPConfig: cfg.HTTP, MaxMessageBytes: cfg.MaxMessageBytes,
		MaxStreams: int(cfg.MaxStreams)}
	var err error
	s.front, err = gateway.NewGRPC(core, front, s.server, log)
	return s, err
}

// Serve answers requests on ln until Shutdown; after it ln is only closed.
func (s *Server) Serve(ln net.Listener) error { return s.front.Serve(ln) }

// Shutdown says that the server is not healthy, answers what is under way, and
// ends what is left when ctx is done.
func (s *Server) Shutdown(ctx context.Context) error {
	s.health.Shutdown()
	s.once.Do(func() { close(s.draining) })
	err := s.front.Shutdown(ctx)
	s.server.Stop()
	return err
}

// failure makes an error of the gateway one of gRPC.
func (s *Server) failure(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	o, text := gateway.Classify(err)
	if o.HTTP == 500 {
		s.log.Error("request failed", "error", err)
	}
	return status.Error(o.GRPC, text)
}

// catch is deferred: it makes an error of a panic, which would end the process.
func (s *Server) catch(err *error, where string) {
	if fault := recover(); fault != nil {
		s.log.Error("handler panicked", "panic", fault, "in", where)
		*err = gateway.ErrPanic
	}
}

func (s *Server) recoverUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo,
	h grpc.UnaryHandler) (any, error) {
	var answer any
	err := func() (err error) {
		defer s.catch(&err, info.FullMethod)
		answer, err = h(ctx, req)
		return err
	}()
	return answer, s.failure(err)
}
