package echo

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func TestEcho(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	h, g := listen(t), listen(t)
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, h, g) }()

	for _, size := range []int{0, 1, 300, 2 << 20} {
		body := bytes.Repeat([]byte("x"), size)
		url := "http://" + h.Addr().String() + "/any"
		answer, err := http.Post(url, "text/x", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil || !bytes.Equal(got, body) || answer.Header.Get("Content-Type") != "text/x" {
			t.Fatalf("size %d: %d bytes, %v, %v", size, len(got), answer.Header, err)
		}
	}

	cc, err := grpc.NewClient("passthrough:///"+g.Addr().String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	for _, size := range []int{0, 1, 300, 2 << 20} {
		in := wrapperspb.Bytes(bytes.Repeat([]byte("y"), size))
		out := new(wrapperspb.BytesValue)
		if err := cc.Invoke(ctx, Method, in, out); err != nil || !bytes.Equal(in.Value, out.Value) {
			t.Fatalf("size %d: %d bytes back, %v", size, len(out.Value), err)
		}
	}

	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// TestListenerFails: the end of one listener ends both and is reported.
func TestListenerFails(t *testing.T) {
	h, g := listen(t), listen(t)
	_ = h.Close()
	if err := Serve(context.Background(), h, g); err == nil {
		t.Fatal("no error for a closed listener")
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}
