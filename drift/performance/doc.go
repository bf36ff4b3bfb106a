// Package performance tells whether a model has become worse.
//
//   - [Harm] needs labels, however late: it gathers evidence that the mean loss has
//     risen above that of a reference, with the same promise about false alarms as
//     package detect. Losses are from 0 to 1, such as 1 for a wrong class, or 1 less a
//     reward.
//   - [Estimator] needs none: it says how many answers are right, from how sure the
//     model is of them (confidence-based performance estimation). It is a gauge and no
//     alarm: its limits are those of [Estimate].
//
// [Losses], [Scores] and [Labelled] are sums, so that those of replicas are added up. All
// takes a few hundred bytes. Nothing here reads a clock, and nothing is safe for
// concurrent use.
package performance
