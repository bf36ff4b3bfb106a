package evidence

import (
	"fmt"
	"math"
)

// fractions are the bets that Mean mixes with equal weights, as shares of the
// highest that cannot lose everything. They take the place of formula D's one bet
// that follows the variance, because fixed ones add up over replicas. Half of the
// highest is the limit there, too.
var fractions = [...]float64{1. / 2, 1. / 4, 1. / 8, 1. / 16, 1. / 32, 1. / 64}

// bets are the logarithms of what each fraction has made of 1.
type bets [len(fractions)]float64

// Mean compares the means of a metric between 0 and 1 from feedback, where more is
// better, by betting on it. Its zero value has margins of 0; set them first.
//
// Request t went to the canary with propensity rho and brought reward x. With b,
// the mean of all rewards before, the weighted difference
//
//	z = (x-b)/rho for the canary, -(x-b)/(1-rho) for the stable version
//
// has the expectation mean(canary) - mean(stable) whatever b is, which only takes
// away variance. A bet is lost on average, so that its capital is an e-process:
//
//	Harm:  K = prod(1 - f z/high),          unless the canary's mean is lower
//	Sound: K = prod(1 + f (z+margin)/-low), unless it is less than margin lower
//
// Where low and high are the bounds of z, and E is the mean of K over f in {1/2,
// 1/4, ... 1/64}. (Capital process of confseq's betting.)
//
// As each reward counts with its own propensity, ramps, bandits and means that
// drift are allowed; what is tested holds at each instant, not on average. What is
// assumed: whether a reward comes does not depend on the arm but through its
// value, and the order does not tell the arm. When one arm answers slower, neither
// is so for the latest requests: hand in rewards in the order of the requests, when
// the time for feedback is over, those that did not come with the value that none
// is worth. Rewards of one user who sticks to an arm are one reward, their mean.
type Mean struct {
	Margin     float64 `json:"margin"`      // by which Sound's canary may be worse, at least 0
	WideMargin float64 `json:"wide_margin"` // and by which Tolerable's may
	Canary     Sum     `json:"canary"`
	Stable     Sum     `json:"stable"`

	HarmBets  bets `json:"harm"`
	SoundBets bets `json:"sound"`
	WideBets  bets `json:"wide"`
}

// Sum is the number of rewards of an arm, and their sum.
type Sum struct {
	N      uint64  `json:"n"`
	Reward float64 `json:"reward"`
}

// String shows the mean to people, as in "0.312 over 4021".
func (s Sum) String() string {
	if s.N == 0 {
		return "none"
	}
	return fmt.Sprintf("%s over %d", figures(s.Reward/float64(s.N)), s.N)
}

// Observe counts one reward and says whether it did: it must be between 0 and 1,
// and the propensity between them.
func (m *Mean) Observe(canary bool, rho, reward float64) bool {
	if !(rho > 0 && rho < 1) || !(reward >= 0 && reward <= 1) {
		return false
	}
	n := float64(m.Canary.N) + float64(m.Stable.N)
	b := (0.5 + m.Canary.Reward + m.Stable.Reward) / (1 + n) // as if one of 1/2 had been before
	high := max((1-b)/rho, b/(1-rho))
	depth := max(b/rho, (1-b)/(1-rho))
	arm, z := &m.Stable, -(reward-b)/(1-rho)
	if canary {
		arm, z = &m.Canary, (reward-b)/rho
	}
	m.HarmBets.bet(-z / high)
	m.SoundBets.bet((z + m.Margin) / depth)
	m.WideBets.bet((z + m.WideMargin) / depth)
	arm.N++
	arm.Reward += reward
	return true
}

// bet makes each capital 1 + f x times as much; x is at least -1.
func (c *bets) bet(x float64) {
	for i, f := range fractions {
		c[i] += math.Log1p(f * x)
	}
}

// Merge adds what another replica has counted, with the same margins.
func (m *Mean) Merge(other Mean) {
	m.Canary.N += other.Canary.N
	m.Canary.Reward += other.Canary.Reward
	m.Stable.N += other.Stable.N
	m.Stable.Reward += other.Stable.Reward
	for i := range fractions {
		m.HarmBets[i] += other.HarmBets[i]
		m.SoundBets[i] += other.SoundBets[i]
		m.WideBets[i] += other.WideBets[i]
	}
}

// Harm returns the log e-value against the canary's mean being at least the stable
// version's.
func (m *Mean) Harm() float64 { return Average(m.HarmBets[:]...) }

// Sound returns the log e-value against the canary's mean being lower by Margin or
// more.
func (m *Mean) Sound() float64 { return Average(m.SoundBets[:]...) }

// Tolerable returns the log e-value against the canary's mean being lower by
// WideMargin or more.
func (m *Mean) Tolerable() float64 { return Average(m.WideBets[:]...) }
