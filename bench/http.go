package bench

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// runHTTP starts the workers and waits for them.
func runHTTP(ctx context.Context, c *Config) ([]share, time.Time, error) {
	family, to, err := resolve(ctx, c.Address)
	if err != nil {
		return nil, time.Time{}, err
	}
	prepared := make([][]byte, len(c.Requests))
	for i := range c.Requests {
		prepared[i] = encode(&c.Requests[i], c.Address)
	}
	workers := make([]*worker, c.Workers)
	defer func() {
		for _, w := range workers {
			if w != nil {
				w.close()
			}
		}
	}()
	for i := range workers {
		clients := (c.Concurrency + c.Workers - 1 - i) / c.Workers
		workers[i], err = newWorker(c, prepared, clients)
		if err == nil {
			err = workers[i].connect(ctx, family, to)
		}
		if err != nil {
			return nil, time.Time{}, fmt.Errorf("cannot connect to %s: %w", c.Address, err)
		}
	}
	stop := context.AfterFunc(ctx, func() {
		for _, w := range workers {
			w.stop()
		}
	})
	defer stop()

	start := time.Now()
	shares := make([]share, c.Workers)
	var wg sync.WaitGroup
	for i, w := range workers {
		w.plan = newPlan(c, start, i, c.Workers)
		wg.Go(func() { shares[i] = w.run() })
	}
	wg.Wait()
	return shares, start, nil
}

// encode writes a request as the bytes that are sent.
func encode(r *Request, address string) []byte {
	var b bytes.Buffer
	method := r.Method
	if method == "" {
		method = "POST"
	}
	host := address
	if strings.HasPrefix(address, unixPrefix) {
		host = "localhost"
	}
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\n", method, r.Path)
	lines := map[string]string{"host": host}
	if len(r.Body) > 0 || method == "POST" || method == "PUT" || method == "PATCH" {
		lines["content-length"] = strconv.Itoa(len(r.Body))
	}
	for k, v := range r.Header {
		lines[strings.ToLower(k)] = v
	}
	for _, k := range slices.Sorted(maps.Keys(lines)) {
		fmt.Fprintf(&b, "%s: %s\r\n", k, lines[k])
	}
	b.WriteString("\r\n")
	b.Write(r.Body)
	return b.Bytes()
}
