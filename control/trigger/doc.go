// Package trigger starts pipelines elsewhere when something happens, and follows them
// to their end.
//
//   - [Event] is what happens: an alarm, a push, a call by a person.
//   - [Spec] says how often a trigger may start its pipeline, and how patiently.
//   - [Decide] makes a [Run] of an event: one that is to start, or one that is
//     suppressed and says why.
//   - [Run.Turn] says what is to be done now, [Act] does it at a [Pipeline], and
//     [Run.Next] takes what came of it. [Run.Cancel] and [Run.Retry] are for people.
//
// Only Act does anything; all else are functions of their arguments, which read no
// clock and store nothing. Who runs them stores the Run that Turn returns before it
// acts, and the one that Next returns after it:
//
//	run, action := run.Turn(now)
//	store(run)
//	run = run.Next(trigger.Act(ctx, pipeline, run, action), now)
//	store(run)
//
// It may be killed between any two of these lines. A run has a name that is the same
// however often it is started, and Turn sees that a call was broken off: then it
// depends on the [Guarantee] that the pipeline's kind gives whether the call is made
// again, the run is looked for before, or it is given up as Lost. A Run has one
// goroutine at a time that calls Turn and Act; what a person says meanwhile goes into
// the Run that Next is called on.
//
// How a run ends:
//
//	Succeeded   the pipeline says so
//	Failed      the pipeline says so, it could not be started, or it took too long
//	Lost        nobody knows: it may have started, or it is not known there any more
//	Cancelled   a person has ended it
//	Suppressed  it was never to start
//
// A call of Start that is cancelled has perhaps started something: let it end by itself
// when millrace ends, where there is time.
//
// Package pipeline has the kinds of pipelines, package incoming reads the webhooks
// that events come by.
package trigger
