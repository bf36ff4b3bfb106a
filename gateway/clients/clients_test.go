// Package clients_test drives the server with clients as people install them.
package clients_test

import (
	"context"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/gateway"
	"github.com/millrace-ml/millrace/gateway/clients/venv"
	millgrpc "github.com/millrace-ml/millrace/gateway/grpc"
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

// serve serves the sample models, all loaded, and returns where.
func serve(t *testing.T) (httpAddress, grpcAddress string) {
	t.Helper()
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
		Runtime: rt, Repositories: []string{"../../configs/models"}, Mode: model.ModeExplicit,
		Startup: []string{"*"}, Trial: model.DefaultTrialConfig(),
		Defaults: model.DefaultDefaults(), Logger: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	core := gateway.New(gateway.DefaultConfig(), models, log)
	front, err := gateway.NewHTTP(core, gateway.DefaultHTTPConfig(), log)
	if err != nil {
		t.Fatal(err)
	}
	rpc, err := millgrpc.New(core, millgrpc.DefaultConfig(), log)
	if err != nil {
		t.Fatal(err)
	}
	var addresses []string
	for _, serve := range []func(net.Listener) error{front.Serve, rpc.Serve} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addresses = append(addresses, ln.Addr().String())
		go func() {
			if err := serve(ln); err != nil {
				t.Error(err)
			}
		}()
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := front.Shutdown(ctx); err != nil {
			t.Errorf("HTTP: %v", err)
		}
		if err := rpc.Shutdown(ctx); err != nil {
			t.Errorf("gRPC: %v", err)
		}
		if err := models.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return addresses[0], addresses[1]
}

// TestTritonclient runs test_tritonclient.py against a real server.
func TestTritonclient(t *testing.T) {
	interpreter := venv.Python(t, "requirements.txt")
	httpAddress, grpcAddress := serve(t)
	venv.Run(t, interpreter, "test_tritonclient.py", httpAddress, grpcAddress)
}
