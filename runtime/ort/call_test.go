package ort_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/runtime/ort"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// TestTerminate stops a run that would take minutes, and wants the workspace
// to work again, however late the request to stop came.
func TestTerminate(t *testing.T) {
	for _, d := range expected {
		terminate(t, d)
	}
}

func terminate(t *testing.T, expected time.Duration) {
	m := load(t, "loop")
	long := m.inputs("INT64[] 1000000000", "FP32[1] 0")
	done := make(chan error)
	go func() {
		_, err := m.call.Run(long, expected)
		done <- err
	}()
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	deadline := time.After(30 * time.Second)
	for ended := false; !ended; {
		select {
		case err := <-done:
			ended = true
			var e *ort.Error
			if !errors.As(err, &e) || !strings.Contains(e.Message, "terminate") {
				t.Errorf("a run that was stopped ended with %v", err)
			}
		case <-again.C: // the first may come before the run begins
			m.call.Terminate()
		case <-deadline:
			t.Fatal("the run goes on")
		}
	}
	for range 2 {
		m.call.Terminate() // nothing is under way
		if got, want := m.run("INT64[] 3", "FP32[1] 1"), "y=FP32[1] 8"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// TestConcurrentCalls runs one session from many goroutines, with workspaces
// that are made beside the runs.
func TestConcurrentCalls(t *testing.T) {
	m := load(t, "add")
	var wait sync.WaitGroup
	for g := range 8 {
		wait.Go(func() {
			mine := &model{t: t, session: m.session}
			defer mine.mem.Free()
			for i := range 50 {
				call, err := m.session.NewCall()
				if err != nil {
					t.Error(err)
					return
				}
				mine.call = call
				a := 100*g + i
				got := mine.run(fmt.Sprintf("FP32[1,2] %d 1", a), "FP32[1,2] 1 1")
				want := fmt.Sprintf("sum=FP32[1,2] %d 2; difference=FP32[1,2] %d 0", a+1, a-1)
				if got != want {
					t.Errorf("got %s, want %s", got, want)
				}
				call.Close()
			}
		})
	}
	wait.Wait()
}

// TestRunAllocs wants no Go memory for a run, whatever it gives.
func TestRunAllocs(t *testing.T) {
	f := func(name string, inputs ...string) {
		t.Helper()
		m := load(t, name)
		in := m.inputs(inputs...)
		for _, d := range expected {
			if n := testing.AllocsPerRun(100, func() {
				if _, err := m.call.Run(in, d); err != nil {
					t.Fatal(err)
				}
			}); n != 0 {
				t.Errorf("a run of %s, expected to take %v, allocates %v times", name, d, n)
			}
		}
	}
	f("relu", "FP32[2,4] 1 2 3 4 5 6 7 8")
	f("add", "FP32[1,2] 1 2", "FP32[1,2] 3 4")
	f("scalar", "FP32[] 1")
	f("strings", `BYTES[1,2] "a" "b"`)
	f("zipmap_string", "FP32[2,3] 1 2 3 4 5 6")
	f("sequence", "FP32[2,2] 1 2 3 4", "INT64[2] 1 1")
}

// BenchmarkRun measures what a run costs beside the model's own work.
func BenchmarkRun(b *testing.B) {
	m := load(b, "relu")
	in := m.inputs("FP32[1,4] 1 2 3 4")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		call := m.newCall()
		defer call.Close()
		for pb.Next() {
			if _, err := call.Run(in, 0); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// TestOutputsStay wants outputs to stay as they are while other workspaces run.
func TestOutputsStay(t *testing.T) {
	m := load(t, "relu")
	first, err := m.call.Run(m.inputs("FP32[1,4] 1 2 3 4"), 0)
	if err != nil {
		t.Fatal(err)
	}
	other := m.newCall()
	defer other.Close()
	var second []tensor.Tensor
	for range 10 {
		if second, err = other.Run(m.inputs("FP32[1,4] 5 6 7 8"), 0); err != nil {
			t.Fatal(err)
		}
	}
	got := show(first) + " " + show(second)
	if want := "y=FP32[1,4] 1 2 3 4 y=FP32[1,4] 5 6 7 8"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
