package bench

import (
	"context"
	"time"
)

// Run sends the load and returns what it measured. It starts when all clients
// are connected. When ctx ends it stops at once and returns what it has so far
// together with the context's error.
func Run(ctx context.Context, c Config) (Result, error) {
	if err := c.Validate(); err != nil {
		return Result{}, err
	}
	send := runHTTP
	if c.Protocol == GRPC {
		send = runGRPC
	}
	shares, start, err := send(ctx, &c)
	if err != nil {
		return Result{}, err
	}
	var window time.Duration
	if err = ctx.Err(); err != nil {
		window = time.Since(start)
	} else if c.Count == 0 {
		window = c.Warmup + c.Duration
	}
	return newResult(&c, shares, int64(window)), err
}
