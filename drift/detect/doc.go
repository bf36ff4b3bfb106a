// Package detect tells from counts in bins whether a stream has left its
// reference, with a promise about false alarms that holds however long one looks.
//
// A [Detector] watches one stream: a feature, the score or the class of a
// prediction, or a projection of many features. At each tick it is handed how many
// values fell in each bin since the last, added up over all replicas, and bets
// against "they are distributed as in the reference". Bet k pays
//
//	L = product over the tick's values of p_k(bin) / q(bin)
//
// where q is the reference and p_k what the bet expects instead; while the
// reference holds, L is 1 on average. The Shiryaev-Roberts statistic of these
// (the e-detector of Shin, Ramdas and Rinaldo, arXiv 2203.03532),
//
//	M_t = (1 + M_{t-1}) L_t,
//
// sums up what bets that began at any tick so far would own. M_t - t is a
// supermartingale, so that an alarm at M >= A comes after A ticks at the earliest,
// on average, without drift. The same is true of a mean of such M with fixed
// weights: over the bets of a stream, and over the streams of an endpoint
// ([Average]), whatever their dependence. [Name] tells which streams it was.
//
// What is assumed: values are independent, or as dependent as the reference's rows are
// known to be, and while nothing is wrong distributed as these were. As they are finite,
// q is not known exactly; bets are discounted by what they would win from a reference
// that was off by as much as one in twenty are. And what differs by less than a
// tolerance is no drift: among many values any difference is one otherwise. A stream that
// depends on the hour needs a reference for each hour: see [Stream].
//
// Nothing here reads a clock, and nothing is shared: a Detector belongs to one
// goroutine at a time.
package detect
