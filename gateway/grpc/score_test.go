package grpc_test

import (
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/millrace-ml/millrace/gateway/grpc/pb"
	"github.com/millrace-ml/millrace/gateway/route"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// An answer that is scored has the score in its parameters, also in a stream, and that of a unary
// call in its metadata; others have none.
func TestScores(t *testing.T) {
	s := serve(t, nil)
	s.core.SetScorers(map[string]*route.Scorer{"e": {Model: "simple", Version: "1",
		Score: func(inputs, _ []tensor.Tensor) (float64, bool, bool) {
			x := inputs[0].Data[0]
			return float64(x) / 3, x >= 10, x != 99
		}}})
	table, err := route.New([]route.Spec{{Name: "e",
		Arms: []route.ArmSpec{{Name: "stable", Model: "simple", Version: "1"}}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.core.SetTable(table)
	ctx := during(t)
	stream, err := s.client.ModelStreamInfer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	f := func(name string, n int32, score, outlier string) {
		t.Helper()
		r := sum("", n)
		r.ModelName = name
		var md metadata.MD
		got, err := s.client.ModelInfer(ctx, r, grpc.Header(&md))
		if err != nil {
			t.Fatal(err)
		}
		wantSum(t, got, n)
		first := func(name string) string { return append(md.Get(name), "")[0] }
		if first("x-millrace-outlier-score") != score || first("x-millrace-outlier") != outlier {
			t.Errorf("%s, %d: the metadata are %v, want %q %q", name, n, md, score, outlier)
		}
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
		streamed, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		delete(streamed.InferResponse.GetParameters(), "triton_final_response")
		for _, p := range []map[string]*pb.InferParameter{got.Parameters,
			streamed.InferResponse.GetParameters()} {
			x, truth := p["outlier_score"].GetDoubleParam(), p["outlier"].GetBoolParam()
			if scored := score != ""; scored != (len(p) == 2) ||
				scored && (x != float64(n)/3 || truth != (outlier == "true")) {
				t.Errorf("%s, %d: the parameters are %v, want %q %q", name, n, p, score, outlier)
			}
		}
	}
	f("e", 1, "0.3333", "false")
	f("e", 30, "10.0000", "true")
	f("e", 99, "", "")
	f("simple", 30, "", "")
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
}
