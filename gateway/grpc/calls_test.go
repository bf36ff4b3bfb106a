package grpc_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/millrace-ml/millrace/gateway/grpc/pb"
	"github.com/millrace-ml/millrace/runtime/model"
)

// wantCode holds that a call ends with a code and a text in which all of words stand.
func wantCode(t *testing.T, err error, code codes.Code, words string) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("got %v, want %v", err, code)
	}
	for _, word := range strings.Split(words, "|") {
		if !strings.Contains(status.Convert(err).Message(), word) {
			t.Errorf("got %v, want %q in it", err, word)
		}
	}
}

// info is one setting of the log.
func info(name string, on bool) map[string]*pb.LogSettingsRequest_SettingValue {
	return map[string]*pb.LogSettingsRequest_SettingValue{name: {
		ParameterChoice: &pb.LogSettingsRequest_SettingValue_BoolParam{BoolParam: on}}}
}

// TestInformation makes every call that only reads.
func TestInformation(t *testing.T) {
	s := serve(t, func(c *settings) { c.core.Name, c.core.Version = "triton", "1.2.3" })
	ctx := during(t)
	live, err := s.client.ServerLive(ctx, &pb.ServerLiveRequest{})
	if err != nil || !live.Live {
		t.Errorf("live: %v, %v", live, err)
	}
	ready, err := s.client.ServerReady(ctx, &pb.ServerReadyRequest{})
	if err != nil || !ready.Ready {
		t.Errorf("ready: %v, %v", ready, err)
	}
	server, err := s.client.ServerMetadata(ctx, &pb.ServerMetadataRequest{})
	if err != nil || server.Name != "triton" || server.Version != "1.2.3" ||
		len(server.Extensions) == 0 {
		t.Errorf("server: %v, %v", server, err)
	}
	for name, want := range map[string]bool{"simple": true, "nothing": false} {
		r, err := s.client.ModelReady(ctx, &pb.ModelReadyRequest{Name: name})
		if err != nil || r.Ready != want {
			t.Errorf("%s is ready: %v, %v", name, r, err)
		}
	}
	m, err := s.client.ModelMetadata(ctx, &pb.ModelMetadataRequest{Name: "simple", Version: "1"})
	if err != nil || m.Platform != "onnxruntime_onnx" || len(m.Inputs) != 2 ||
		m.Inputs[0].Shape[0] != -1 || m.Inputs[0].Datatype != "INT32" || m.Versions[0] != "1" {
		t.Errorf("metadata: %v, %v", m, err)
	}
	c, err := s.client.ModelConfig(ctx, &pb.ModelConfigRequest{Name: "simple"})
	if err != nil || c.Config.MaxBatchSize != 8 || len(c.Config.Input) != 2 {
		t.Errorf("config: %v, %v", c, err)
	}
	if _, err := s.client.ModelInfer(ctx, sum("", 1)); err != nil {
		t.Error(err)
	}
	stats, err := s.client.ModelStatistics(ctx, &pb.ModelStatisticsRequest{Name: "simple"})
	if err != nil || len(stats.ModelStats) != 1 || stats.ModelStats[0].InferenceCount != 1 ||
		stats.ModelStats[0].InferenceStats.Success.Count != 1 {
		t.Errorf("statistics: %v, %v", stats, err)
	}
	all, err := s.client.ModelStatistics(ctx, &pb.ModelStatisticsRequest{})
	if err != nil || len(all.ModelStats) < 9 {
		t.Errorf("statistics of all: %v, %v", all, err)
	}
	index, err := s.client.RepositoryIndex(ctx, &pb.RepositoryIndexRequest{Ready: true})
	if err != nil || len(index.Models) < 9 || index.Models[0].State != "READY" {
		t.Errorf("index: %v, %v", index, err)
	}
	log, err := s.client.LogSettings(ctx, &pb.LogSettingsRequest{Settings: info("log_info", false)})
	if err != nil || log.Settings["log_info"].GetBoolParam() ||
		!log.Settings["log_error"].GetBoolParam() {
		t.Errorf("log: %v, %v", log, err)
	}
	s.core.Drain()
	ready, err = s.client.ServerReady(ctx, &pb.ServerReadyRequest{})
	if err != nil || ready.Ready {
		t.Errorf("a server that drains is ready: %v, %v", ready, err)
	}
}

// TestRefusedCalls makes calls for what is not there or not to be had.
func TestRefusedCalls(t *testing.T) {
	s := serve(t, nil)
	ctx, c := during(t), s.client
	_, err := c.ModelMetadata(ctx, &pb.ModelMetadataRequest{Name: "nothing"})
	wantCode(t, err, codes.NotFound, "unknown model: 'nothing'")
	_, err = c.ModelConfig(ctx, &pb.ModelConfigRequest{Name: "simple", Version: "9"})
	wantCode(t, err, codes.NotFound, "unknown model: 'simple'|9")
	_, err = c.ModelStatistics(ctx, &pb.ModelStatisticsRequest{Name: "nothing"})
	wantCode(t, err, codes.NotFound, "unknown model: 'nothing'")
	_, err = c.ModelInfer(ctx, &pb.ModelInferRequest{ModelName: "nothing"})
	wantCode(t, err, codes.NotFound, "unknown model: 'nothing'")
	_, err = c.ModelInfer(ctx, &pb.ModelInferRequest{})
	wantCode(t, err, codes.NotFound, "unknown model: ''")
	_, err = c.RepositoryModelLoad(ctx, &pb.RepositoryModelLoadRequest{ModelName: "simple"})
	wantCode(t, err, codes.Unavailable, "explicit")
	_, err = c.RepositoryModelUnload(ctx, &pb.RepositoryModelUnloadRequest{ModelName: "simple"})
	wantCode(t, err, codes.Unavailable, "explicit")
	_, err = c.LogSettings(ctx, &pb.LogSettingsRequest{Settings: info("x", true)})
	wantCode(t, err, codes.InvalidArgument, "x")
	_, err = c.SystemSharedMemoryStatus(ctx, &pb.SystemSharedMemoryStatusRequest{})
	wantCode(t, err, codes.Unimplemented, "shared memory")
	_, err = c.SystemSharedMemoryRegister(ctx, &pb.SystemSharedMemoryRegisterRequest{})
	wantCode(t, err, codes.Unimplemented, "shared memory")
	_, err = c.SystemSharedMemoryUnregister(ctx, &pb.SystemSharedMemoryUnregisterRequest{})
	wantCode(t, err, codes.Unimplemented, "shared memory")
	_, err = c.CudaSharedMemoryStatus(ctx, &pb.CudaSharedMemoryStatusRequest{})
	wantCode(t, err, codes.Unimplemented, "shared memory")
	_, err = c.CudaSharedMemoryRegister(ctx, &pb.CudaSharedMemoryRegisterRequest{})
	wantCode(t, err, codes.Unimplemented, "shared memory")
	_, err = c.CudaSharedMemoryUnregister(ctx, &pb.CudaSharedMemoryUnregisterRequest{})
	wantCode(t, err, codes.Unimplemented, "shared memory")
	_, err = c.TraceSetting(ctx, &pb.TraceSettingRequest{})
	wantCode(t, err, codes.Unimplemented, "trace")
	err = s.conn.Invoke(ctx, "/inference.GRPCInferenceService/Nothing", &pb.ServerLiveRequest{},
		&pb.ServerLiveResponse{})
	wantCode(t, err, codes.Unimplemented, "Nothing")
}

// TestRepository loads and unloads.
func TestRepository(t *testing.T) {
	s := serve(t, func(c *settings) { c.mode = model.ModeExplicit })
	ctx := during(t)
	load := func(name string) error {
		_, err := s.client.RepositoryModelLoad(ctx, &pb.RepositoryModelLoadRequest{ModelName: name})
		return err
	}
	wantCode(t, load("nothing"), codes.NotFound, "failed to load 'nothing'")
	wantCode(t, load("iris"), codes.OK, "")
	_, err := s.client.RepositoryModelUnload(ctx,
		&pb.RepositoryModelUnloadRequest{ModelName: "simple"})
	wantCode(t, err, codes.OK, "")
	_, err = s.client.ModelInfer(ctx, sum("", 1))
	wantCode(t, err, codes.Unavailable, "not ready|simple|unloaded")
	wantCode(t, load("simple"), codes.OK, "")
	_, err = s.client.ModelInfer(ctx, sum("", 1))
	wantCode(t, err, codes.OK, "")
}

// TestHealthAndReflection asks with the services that tools use.
func TestHealthAndReflection(t *testing.T) {
	s := serve(t, nil)
	ctx := during(t)
	health := grpc_health_v1.NewHealthClient(s.conn)
	for _, service := range []string{"", "inference.GRPCInferenceService"} {
		r, err := health.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
		if err != nil || r.Status != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("%q is %v, %v", service, r, err)
		}
	}
	_, err := health.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "simple"})
	wantCode(t, err, codes.NotFound, "")
	stream, err := grpc_reflection_v1.NewServerReflectionClient(s.conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	list := &grpc_reflection_v1.ServerReflectionRequest_ListServices{}
	file := &grpc_reflection_v1.ServerReflectionRequest_FileContainingSymbol{
		FileContainingSymbol: "inference.GRPCInferenceService"}
	for _, ask := range []*grpc_reflection_v1.ServerReflectionRequest{
		{MessageRequest: list}, {MessageRequest: file},
	} {
		if err := stream.Send(ask); err != nil {
			t.Fatal(err)
		}
		got, err := stream.Recv()
		if err != nil || !strings.Contains(got.String(), "GRPCInferenceService") {
			t.Errorf("reflection answers %v, %v", got, err)
		}
	}
}

// TestDeadlines sends calls whose time is over and calls that are given up.
func TestDeadlines(t *testing.T) {
	s := serve(t, func(c *settings) {
		c.core.MaxBodyBytes, c.grpc.MaxMessageBytes = 1<<20, 2<<20
	})
	r := sum("", 1)
	r.Parameters = map[string]*pb.InferParameter{"timeout": {
		ParameterChoice: &pb.InferParameter_Int64Param{Int64Param: 1}}}
	late := 0
	for range 50 { // a microsecond may be enough now and then
		if _, err := s.client.ModelInfer(during(t), r); err != nil {
			wantCode(t, err, codes.DeadlineExceeded, "Request timeout expired")
			late++
		}
	}
	if late == 0 {
		t.Error("no request of 50 was too late after a microsecond")
	}
	over, cancel := context.WithTimeout(during(t), time.Nanosecond)
	defer cancel()
	_, err := s.client.ModelInfer(over, sum("", 1))
	wantCode(t, err, codes.DeadlineExceeded, "")
	left, cancel := context.WithCancel(during(t))
	cancel()
	_, err = s.client.ModelInfer(left, sum("", 1))
	wantCode(t, err, codes.Canceled, "")

	large := sum("", 1)
	large.Inputs[0].Name = strings.Repeat("n", 3<<20)
	_, err = s.client.ModelInfer(during(t), large)
	wantCode(t, err, codes.ResourceExhausted, "larger than max|2097152")
	large.Inputs[0].Name = strings.Repeat("n", 3<<19)
	_, err = s.client.ModelInfer(during(t), large)
	wantCode(t, err, codes.ResourceExhausted, "too large")
	_, err = s.client.ModelInfer(during(t), sum("", 1))
	wantCode(t, err, codes.OK, "")
}
