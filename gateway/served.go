package gateway

import "strconv"

// Names of the headers of an answer, and of the gRPC metadata with the same.
const (
	headerVersion   = "x-millrace-version" // that answered; in a request: that has to answer
	headerRoute     = "x-millrace-route"   // the arm, or pinned
	headerCache     = "x-millrace-cache"   // hit, miss or shared
	headerScore     = "x-millrace-outlier-score"
	headerOutlier   = "x-millrace-outlier" // true or false
	headerRequestID = "x-request-id"
	headerSetCookie = "Set-Cookie"
)

// Headers calls f with what the answer's header says of how it came about. The
// values may stand in a header, and are valid until Finish.
func (x *Exchange) Headers(f func(name string, value []byte)) {
	f(headerVersion, x.began.header)
	if x.endpoint != nil {
		f(headerRoute, x.route.header)
		id := x.Request.ID
		if len(id) == 0 {
			f(headerRequestID, x.id) // which has been looked at
		} else if len(id) <= maxHeaderID && printable(id) {
			f(headerRequestID, id)
		}
		if len(x.cookie) > 0 {
			f(headerSetCookie, x.cookie)
		}
	}
	if x.flight.state != cacheNone {
		f(headerCache, cacheStates[x.flight.state])
	}
	if x.Answer.Scored {
		x.score = strconv.AppendFloat(x.score[:0], x.Answer.Score, 'f', scoreDigits, 64)
		f(headerScore, x.score)
		f(headerOutlier, truth(x.Answer.Outlier))
	}
}

// scoreDigits is how many decimals of a score a header has.
const scoreDigits = 4

func truth(is bool) []byte {
	if is {
		return textTrue
	}
	return textFalse
}

var textTrue, textFalse = []byte("true"), []byte("false")

// Routed says whether an endpoint has answered.
func (x *Exchange) Routed() bool { return x.endpoint != nil }

// headerText returns a name as it may stand in a header: what may not is
// percent-encoded.
func headerText(name string) []byte {
	const digits = "0123456789ABCDEF"
	out := make([]byte, 0, len(name))
	for i := range len(name) {
		if b := name[i]; b > ' ' && b < 0x7f && b != '%' {
			out = append(out, b)
		} else {
			out = append(out, '%', digits[b>>4], digits[b&15])
		}
	}
	return out
}
