package grpc_test

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/millrace-ml/millrace/gateway/grpc/pb"
)

// sum is a request for the model simple, whose answer is 2n and 0.
func sum(id string, n int32) *pb.ModelInferRequest {
	input := func(name string) *pb.ModelInferRequest_InferInputTensor {
		values := make([]int32, 16)
		for i := range values {
			values[i] = n
		}
		return &pb.ModelInferRequest_InferInputTensor{
			Name: name, Datatype: "INT32", Shape: []int64{1, 16},
			Contents: &pb.InferTensorContents{IntContents: values},
		}
	}
	return &pb.ModelInferRequest{
		ModelName: "simple", Id: id,
		Inputs: []*pb.ModelInferRequest_InferInputTensor{input("INPUT0"), input("INPUT1")},
	}
}

// wantSum holds an answer against the request that sum made.
func wantSum(t *testing.T, got *pb.ModelInferResponse, n int32) {
	t.Helper()
	if len(got.GetRawOutputContents()) != 2 || len(got.RawOutputContents[0]) != 64 {
		t.Fatalf("the answer to %d is %v", n, got)
	}
	for i := 0; i < 64; i += 4 {
		b := got.RawOutputContents[0][i:]
		if v := int32(b[0]) | int32(b[1])<<8 | int32(b[2])<<16 | int32(b[3])<<24; v != 2*n {
			t.Fatalf("the answer to %d has %d in it", n, v)
		}
	}
}

// TestStream keeps hundreds of requests in flight on one stream, every tenth of
// them wrong, and holds that each gets its own answer.
func TestStream(t *testing.T) {
	s := serve(t, func(c *settings) { c.grpc.StreamInFlight = 16 })
	stream, err := s.client.ModelStreamInfer(during(t))
	if err != nil {
		t.Fatal(err)
	}
	const n = 800
	go func() {
		for i := range n {
			r := sum(strconv.Itoa(i), int32(i))
			if i%10 == 3 {
				r.Inputs = r.Inputs[:1]
			}
			if stream.Send(r) != nil {
				return // the receiving side tells
			}
		}
		_ = stream.CloseSend()
	}()
	seen := make(map[int]bool)
	for range n {
		got, err := stream.Recv()
		if err != nil {
			t.Fatalf("after %d answers: %v", len(seen), err)
		}
		i, err := strconv.Atoi(got.GetInferResponse().GetId())
		if err != nil || seen[i] {
			t.Fatalf("after %d answers comes %v", len(seen), got)
		}
		seen[i] = true
		if !got.InferResponse.Parameters["triton_final_response"].GetBoolParam() {
			t.Errorf("the answer to %d is not the final one", i)
		}
		if i%10 == 3 {
			if !strings.Contains(got.ErrorMessage, "expected 2 inputs") {
				t.Errorf("the answer to %d, which is wrong, is %v", i, got)
			}
			continue
		}
		wantSum(t, got.InferResponse, int32(i))
	}
	if got, err := stream.Recv(); err != io.EOF {
		t.Errorf("after the last answer comes %v, %v", got, err)
	}
}

// TestStreamOfOneReader sends more than may be in flight and reads nothing: the
// server must stop to read, and go on when the client reads.
func TestStreamOfOneReader(t *testing.T) {
	s := serve(t, func(c *settings) { c.grpc.StreamInFlight = 4 })
	stream, err := s.client.ModelStreamInfer(during(t))
	if err != nil {
		t.Fatal(err)
	}
	const n = 4000 // of some 300 bytes: more than the windows of both directions hold
	sent := make(chan error, 1)
	go func() {
		for i := range n {
			if err := stream.Send(sum("", int32(i))); err != nil {
				sent <- err
				return
			}
			if n := s.core.InFlight(); n > 4 {
				sent <- fmt.Errorf("%d requests of one stream are in flight", n)
				return
			}
		}
		sent <- stream.CloseSend()
	}()
	for i := range n {
		if got, err := stream.Recv(); err != nil || got.ErrorMessage != "" {
			t.Fatalf("after %d answers: %v, %v", i, got, err)
		}
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// TestShutdownEndsStreams shuts down under open streams of all kinds: what has
// been received is answered, idle clients hold nothing up.
func TestShutdownEndsStreams(t *testing.T) {
	s := serve(t, nil)
	ctx := during(t)
	idle, err := s.client.ModelStreamInfer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	health := grpc_health_v1.NewHealthClient(s.conn)
	watch, err := health.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := watch.Recv(); err != nil || got.Status != 1 {
		t.Fatalf("the health of a server that serves is %v, %v", got, err)
	}
	for i := range 3 {
		if err := idle.Send(sum(strconv.Itoa(i), int32(i))); err != nil {
			t.Fatal(err)
		}
		if got, err := idle.Recv(); err != nil || got.ErrorMessage != "" {
			t.Fatalf("%v, %v", got, err)
		}
	}
	end, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := s.front.Shutdown(end); err != nil {
		t.Errorf("open streams hold the end up: %v", err)
	}
	if got, err := idle.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("an idle stream ends with %v, %v", got, err)
	}
	for {
		got, err := watch.Recv()
		if err == nil && got.Status == grpc_health_v1.HealthCheckResponse_NOT_SERVING {
			continue
		}
		if status.Code(err) != codes.Unavailable {
			t.Errorf("a watch of the health ends with %v, %v", got, err)
		}
		return
	}
}

// TestStreamOfALeavingClient cancels a stream with requests in flight.
func TestStreamOfALeavingClient(t *testing.T) {
	s := serve(t, nil)
	for range 20 {
		ctx, cancel := context.WithCancel(during(t))
		stream, err := s.client.ModelStreamInfer(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 50 {
			if err := stream.Send(sum("", int32(i))); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
	}
	if got, err := s.client.ModelInfer(during(t), sum("", 5)); err != nil {
		t.Errorf("after clients have left: %v, %v", got, err)
	} // serve holds that nothing is left in flight
}
