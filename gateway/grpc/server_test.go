package grpc_test

import (
	"context"
	"log/slog"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/millrace-ml/millrace/gateway"
	millgrpc "github.com/millrace-ml/millrace/gateway/grpc"
	"github.com/millrace-ml/millrace/gateway/grpc/pb"
	"github.com/millrace-ml/millrace/runtime/model"
	"github.com/millrace-ml/millrace/runtime/ort"
)

// TestMain lets the test binary be the child that tries models.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "trial" {
		os.Exit(model.TrialMain(os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

// server is a front on a real listener, with a client of it.
type server struct {
	core   *gateway.Core
	front  *millgrpc.Server
	conn   *grpc.ClientConn
	client pb.GRPCInferenceServiceClient
}

// settings are what a test may change before the server starts.
type settings struct {
	core gateway.Config
	grpc millgrpc.Config
	mode model.Mode
	dir  string // model repository
}

// serve serves the sample models until the test ends.
func serve(t *testing.T, set func(*settings)) *server {
	t.Helper()
	cfg := settings{gateway.DefaultConfig(), millgrpc.DefaultConfig(), model.ModeNone,
		"../../configs/models"}
	if set != nil {
		set(&cfg)
	}
	found, err := ort.FindLibrary("")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	rt, err := ort.Open(ort.Config{Library: found.Path, Logger: log, Level: slog.LevelError})
	if err != nil {
		t.Fatal(err)
	}
	models, err := model.Open(context.Background(), model.Options{
		Runtime: rt, Repositories: []string{cfg.dir}, Mode: cfg.mode,
		Startup: []string{"simple", "simple_string", "mlp", "digits", "digits_fp16"},
		Trial:   model.DefaultTrialConfig(), Defaults: model.DefaultDefaults(), Logger: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &server{core: gateway.New(cfg.core, models, log)}
	if s.front, err = millgrpc.New(s.core, cfg.grpc, log); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.front.Serve(ln) }()
	s.conn, err = grpc.NewClient("passthrough:///"+ln.Addr().String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(256<<20)))
	if err != nil {
		t.Fatal(err)
	}
	s.client = pb.NewGRPCInferenceServiceClient(s.conn)
	t.Cleanup(func() {
		_ = s.conn.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.front.Shutdown(ctx); err != nil {
			t.Errorf("cannot shut down: %v", err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
		// An answer leaves before its request is counted out.
		for end := time.Now().Add(5 * time.Second); s.core.InFlight() != 0; runtime.Gosched() {
			if time.Now().After(end) {
				t.Errorf("%d requests are still in flight", s.core.InFlight())
				break
			}
		}
		if err := models.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return s
}

// during returns a context for calls that must not hang.
func during(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}
