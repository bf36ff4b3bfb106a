package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"

	"github.com/millrace-ml/millrace/gateway/h2"
)

// GRPCConfig bounds what the gRPC front takes in before it knows anything.
type GRPCConfig struct {
	HTTPConfig
	MaxMessageBytes int // of one request
	MaxStreams      int // open at once on one connection
}

// GRPC serves gRPC on a Core: ModelInfer in the lane, as HTTP serves plain requests, and all other
// calls by a handler. It may be used concurrently.
type GRPC struct {
	core  *Core
	cfg   GRPCConfig
	h2    h2.Config
	lane  *lane
	other http.Handler
	rpcs  sync.WaitGroup
}

// NewGRPC returns a front on core; Serve starts it, Shutdown ends it.
func NewGRPC(core *Core, cfg GRPCConfig, other http.Handler, log *slog.Logger) (*GRPC, error) {
	g := &GRPC{core: core, cfg: cfg, other: other, h2: h2.Config{
		Streams: cfg.MaxStreams, HeaderBytes: cfg.HeaderBytes, FrameBytes: 1 << 20, Window: 1 << 20,
	}}
	l, err := newLane(core, cfg.HTTPConfig, log)
	if err != nil {
		return nil, err
	}
	l.grpc, g.lane = g, l
	return g, nil
}

// Serve answers requests on ln until Shutdown; after it ln is only closed.
func (g *GRPC) Serve(ln net.Listener) error {
	if err := g.lane.serve(ln); err != nil {
		return fmt.Errorf("cannot serve gRPC on %s: %w", ln.Addr(), err)
	}
	return nil
}

// Shutdown stops listening, answers what is under way, and closes what is left
// open when ctx is done. Only the first call does.
func (g *GRPC) Shutdown(ctx context.Context) error {
	if !g.lane.refuse() {
		return nil
	}
	err := g.lane.shutdown(ctx)
	if err == nil {
		g.rpcs.Wait()
	}
	return err
}
