// Package bench sends load to a server over the network and measures how it
// answers. It knows nothing of the server but its protocol.
//
// Run takes a Config and gives a Result. With a rate the load is sent on
// schedule (open loop): each latency counts from the instant at which the
// request was due, so a server that stalls cannot hide its stall by slowing
// the client down. Without one each client sends its next request when the
// last is answered (closed loop), which measures what a server can do at most.
//
// HTTP requests are sent by an engine of this package: one OS thread, one
// epoll set, prepared bytes, no allocation per request. gRPC requests go
// through grpc-go. Either way the generator watches itself: a Result says in
// LimitedBy when the figures are those of the generator and not of the server.
//
// Run may be called by several goroutines at once; they share nothing.
// The package does not follow redirects, speak TLS or keep cookies.
package bench
