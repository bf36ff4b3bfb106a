// Package clients_test drives the server with clients as people install them.
package clients_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/gateway"
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

// python returns the interpreter of a virtual environment with the clients,
// made once for each version of requirements.txt.
func python(t *testing.T) string {
	t.Helper()
	wanted, err := os.ReadFile("requirements.txt")
	if err != nil {
		t.Fatal(err)
	}
	cache := os.Getenv("MILLRACE_CACHE")
	if cache == "" {
		cache = filepath.Join("..", "..", ".cache")
	}
	venv, err := filepath.Abs(filepath.Join(cache,
		fmt.Sprintf("clients-%x", sha256.Sum256(wanted))[:20]))
	if err != nil {
		t.Fatal(err)
	}
	interpreter := filepath.Join(venv, "bin", "python")
	done := filepath.Join(venv, "done")
	if _, err := os.Stat(done); err == nil {
		return interpreter
	}
	for _, command := range [][]string{
		{"python3", "-m", "venv", "--clear", venv},
		{interpreter, "-m", "pip", "install", "-q", "-r", "requirements.txt"},
	} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("cannot install the clients: %v: %v\n%s", command, err, out)
		}
	}
	if err := os.WriteFile(done, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return interpreter
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
	rpc := millgrpc.New(core, millgrpc.DefaultConfig(), log)
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
	if testing.Short() {
		t.Skip("installs Python packages; make test runs it")
	}
	interpreter := python(t)
	httpAddress, grpcAddress := serve(t)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, interpreter, "test_tritonclient.py", httpAddress,
		grpcAddress).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
