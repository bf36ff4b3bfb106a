package gateway

import (
	"math"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace-ml/millrace/gateway/route"
	"github.com/millrace-ml/millrace/gateway/shadow"
)

var (
	defEndpoint = define("counter", "millrace_endpoint_requests_total",
		"Requests to endpoints by the route that they took, an arm or pinned, and what became "+
			"of them. Those that were refused before have an empty route.",
		"endpoint", "route", "outcome")
	defEndpointTime = define("histogram", "millrace_endpoint_request_duration_seconds",
		"Time from a request's header to its answer.", "endpoint", "route")
	defWeight = define("gauge", "millrace_endpoint_weight_ratio",
		"Share of the endpoint's traffic that an arm is to get.", "endpoint", "route")
	defFallback = define("counter", "millrace_endpoint_fallbacks_total",
		"Requests of an arm whose version could not serve: the stable one has.",
		"endpoint", "route")
	defEndpointFlight = define("gauge", "millrace_endpoint_requests_in_flight",
		"Requests to the endpoint that are not yet answered.", "endpoint")
	defEndpointLimit = define("gauge", "millrace_endpoint_concurrency_limit_requests",
		"Requests that may be in flight, as learned from the latency (limits.adaptive).",
		"endpoint")
	defUnseen = define("counter", "millrace_samples_unseen_total",
		"Requests that no tap and no shadow has seen: too many copies were under way.")
	defFeedback = define("counter", "millrace_feedback_total",
		"Rewards and labels by what became of them.", "result")
	defRewards = define("counter", "millrace_feedback_rewards_total",
		"Rewards that have come for a version's answers, those before a restart too.",
		"endpoint", "model", "version")
	defRewardSum = define("counter", "millrace_feedback_reward_sum_total",
		"Sum of these rewards: over their number it is the mean reward.",
		"endpoint", "model", "version")
	defPending = define("gauge", "millrace_feedback_pending_decisions",
		"Answered requests for which feedback may still come.")
	defEvicted = define("counter", "millrace_feedback_evicted_decisions_total",
		"Answered requests that were forgotten early, to make room for others.")
	defTap = define("counter", "millrace_tap_samples_total",
		"Samples by what became of them: written, dropped (the queue was full) or failed.",
		"tap", "result")
	defTapBytes = define("counter", "millrace_tap_bytes_total", "Bytes that were written.", "tap")
	defTapQueue = define("gauge", "millrace_tap_queue_samples", "Samples that wait.", "tap")

	defShadow = define("counter", "millrace_shadow_compared_total",
		"Answers of a shadow by how they compare: agreed, or why not (shape, datatype, "+
			"missing, value).", "endpoint", "shadow", "result")
	defShadowErrors = define("counter", "millrace_shadow_errors_total",
		"Runs of a shadow that failed, by outcome.", "endpoint", "shadow", "outcome")
	defShadowDrops = define("counter", "millrace_shadow_dropped_total",
		"Copies that a shadow did not run: its queue was full (queue, bytes), the server is "+
			"under load (load), its version cannot serve (not_ready) or takes other inputs "+
			"(incompatible).", "endpoint", "shadow", "reason")
	defShadowRows = define("counter", "millrace_shadow_rows_total",
		"Rows with scores whose best class was compared.", "endpoint", "shadow")
	defShadowSame = define("counter", "millrace_shadow_rows_same_class_total",
		"Rows whose best class was the same.", "endpoint", "shadow")
	defShadowTopK = define("counter", "millrace_shadow_rows_top_k_overlap_total",
		"Sum over the rows of the share of their best classes that both have.",
		"endpoint", "shadow")
	defShadowAbsolute = define("histogram", "millrace_shadow_error_absolute",
		"Greatest absolute difference of a request's numbers.", "endpoint", "shadow")
	defShadowRelative = define("histogram", "millrace_shadow_error_relative",
		"Greatest relative difference of a request's numbers.", "endpoint", "shadow")
	defShadowScore = define("histogram", "millrace_shadow_best_score",
		"Best score of each row, of the stable version and of the shadow.",
		"endpoint", "shadow", "of")
	defShadowTime = define("histogram", "millrace_shadow_compute_duration_seconds",
		"Time of the run, of the stable version and of the shadow, for the same requests.",
		"endpoint", "shadow", "of")
	defShadowSlower = define("gauge", "millrace_shadow_slower_seconds",
		"What the shadow took longer for the same requests, in the mean.", "endpoint", "shadow")

	defCache = define("counter", "millrace_cache_requests_total",
		"Requests for a model with a response cache: hit, miss, or shared with an equal one "+
			"that was under way.", "model", "result")
	defCacheBytes = define("gauge", "millrace_cache_bytes",
		"What the kept answers take, with their inputs.", "model")
	defCacheEntries = define("gauge", "millrace_cache_entries", "Answers that are kept.", "model")
	defCacheOut     = define("counter", "millrace_cache_removed_total",
		"Answers that were kept and are no more: for want of room (evicted), because of their "+
			"age (expired).", "model", "reason")
)

// collectEndpoints gives the samples of endpoints and of those who look at them.
func (m *Metrics) collectEndpoints(s sink) {
	r := m.core.routing.Load()
	for _, spec := range r.table.Endpoints() {
		e := r.endpoints[spec.Name]
		s.put(defEndpointFlight, float64(e.inFlight.Load()), e.Name)
		if e.adaptive != nil {
			s.put(defEndpointLimit, float64(e.adaptive.Limit()), e.Name)
		}
		for i := range e.Arms {
			s.put(defWeight, float64(e.Arms[i].Weight)/route.FullWeight, e.Name, e.Arms[i].Name)
		}
		m.collectRoutes(s, e)
	}
	s.put(defUnseen, float64(m.unsampled.Load()))
	m.collectFeedback(s)
	m.core.routingMu.Lock()
	mirrors := make([]*shadow.Mirror, 0, len(m.core.mirrors))
	for _, k := range m.core.mirrors {
		mirrors = append(mirrors, k.Mirror)
	}
	taps := slices.Clone(m.core.taps)
	m.core.routingMu.Unlock()
	for i := range taps {
		t, k := &taps[i], taps[i].Sink.Stats()
		s.put(defTap, float64(k.Written), t.Name, "written")
		s.put(defTap, float64(k.Dropped), t.Name, "dropped")
		s.put(defTap, float64(k.Failed), t.Name, "failed")
		s.put(defTapBytes, float64(k.Bytes), t.Name)
		s.put(defTapQueue, float64(k.Queued), t.Name)
	}
	for _, k := range mirrors {
		s.shadow(k.Report().Snapshot())
	}
	m.collectCaches(s)
}

func (m *Metrics) collectRoutes(s sink, e *endpoint) {
	for _, k := range append([]*routeState{e.pinned, e.unrouted}, e.arms...) {
		for l := range k.outcomes {
			if n := k.outcomes[l].Load(); n > 0 {
				s.put(defEndpoint, float64(n), e.Name, k.name, m.labels[l])
			}
		}
		if n := k.fallbacks.Load(); n > 0 {
			s.put(defFallback, float64(n), e.Name, k.name)
		}
		if h := k.request.collect(defEndpointTime.desc, m.started, e.Name, k.name); h != nil {
			s.ch <- h
		}
	}
}

func (m *Metrics) collectFeedback(s sink) {
	ledger := m.core.ledger.Load()
	if ledger == nil {
		return
	}
	k := ledger.Stats()
	for _, r := range [...]struct {
		result string
		n      uint64
	}{
		{"accepted", k.Accepted}, {"duplicate", k.Duplicate}, {"late", k.Late},
		{"unknown", k.Unknown}, {"invalid", k.Invalid}, {"failed", k.Failed},
	} {
		s.put(defFeedback, float64(r.n), r.result)
	}
	for _, replica := range ledger.Counts() {
		for i := range replica.Series {
			v := &replica.Series[i]
			n, reward := v.Sum()
			s.put(defRewards, float64(n), v.Endpoint, v.Model, v.Version)
			s.put(defRewardSum, reward, v.Endpoint, v.Model, v.Version)
		}
	}
	s.put(defPending, float64(k.Pending))
	s.put(defEvicted, float64(k.Evicted))
}

// shadow gives the samples of one shadow.
func (s sink) shadow(k shadow.Snapshot) {
	s.put(defShadow, float64(k.Agreed), k.Endpoint, k.Shadow, "agreed")
	for why, n := range k.Disagreed {
		s.put(defShadow, float64(n), k.Endpoint, k.Shadow, why)
	}
	for class, n := range k.Errors {
		s.put(defShadowErrors, float64(n), k.Endpoint, k.Shadow, class)
	}
	for why, n := range k.Dropped {
		s.put(defShadowDrops, float64(n), k.Endpoint, k.Shadow, why)
	}
	s.put(defShadowRows, float64(k.ArgmaxRows), k.Endpoint, k.Shadow)
	s.put(defShadowSame, float64(k.ArgmaxAgree), k.Endpoint, k.Shadow)
	s.put(defShadowTopK, k.TopKOverlap, k.Endpoint, k.Shadow)
	s.put(defShadowSlower, k.DifferenceSeconds, k.Endpoint, k.Shadow)
	s.buckets(defShadowAbsolute, errorBuckets, k.AbsoluteError, k.Endpoint, k.Shadow)
	s.buckets(defShadowRelative, errorBuckets, k.RelativeError, k.Endpoint, k.Shadow)
	s.buckets(defShadowScore, scoreBuckets, k.StableScores, k.Endpoint, k.Shadow, "stable")
	s.buckets(defShadowScore, scoreBuckets, k.ShadowScores, k.Endpoint, k.Shadow, "shadow")
	s.buckets(defShadowTime, secondBuckets, k.StableSeconds, k.Endpoint, k.Shadow, "stable")
	s.buckets(defShadowTime, secondBuckets, k.ShadowSeconds, k.Endpoint, k.Shadow, "shadow")
}

// Upper bounds of the buckets of shadows' histograms. Shadows count finer.
var (
	errorBuckets  = powers(-40, 16, 4)
	secondBuckets = powers(-16, 4, 1)
	scoreBuckets  = []float64{0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1, 16, 256}
)

// powers returns 2^from to 2^to.
func powers(from, to, step int) []float64 {
	var bounds []float64
	for e := from; e <= to; e += step {
		bounds = append(bounds, math.Exp2(float64(e)))
	}
	return bounds
}

// buckets gives a histogram whose sum is not known: it is taken from the upper
// bounds of the finer buckets.
func (s sink) buckets(d *definition, bounds []float64, list []shadow.Bucket, labels ...string) {
	var n uint64
	var sum float64
	counts := make(map[float64]uint64)
	for _, bound := range bounds {
		counts[bound] = 0
	}
	for _, b := range list {
		n += b.Count
		sum += min(b.To, max(b.Above, bounds[len(bounds)-1])) * float64(b.Count)
		for _, bound := range bounds {
			if b.To <= bound*(1+1e-9) {
				counts[bound] += b.Count
			}
		}
	}
	s.ch <- prometheus.MustNewConstHistogram(d.desc, n, sum, counts, labels...)
}

// collectCaches gives the samples of the response caches.
func (m *Metrics) collectCaches(s sink) {
	all := m.core.caches.byModel.Load()
	if all == nil {
		return
	}
	for model, kept := range *all {
		k := kept.Stats()
		s.put(defCache, float64(k.Hits), model, "hit")
		s.put(defCache, float64(k.Misses), model, "miss")
		s.put(defCache, float64(k.Shared), model, "shared")
		s.put(defCacheBytes, float64(k.Bytes), model)
		s.put(defCacheEntries, float64(k.Entries), model)
		s.put(defCacheOut, float64(k.Evictions), model, "evicted")
		s.put(defCacheOut, float64(k.Expired), model, "expired")
	}
}
