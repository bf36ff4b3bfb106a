package evidence_test

import (
	"fmt"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/control/evidence"
)

// A canary with 3 % errors beside a stable version with 1 %, after steps of 1 and
// 5 % of the traffic.
func Example() {
	errors := evidence.Tally{
		{Rho: 0.01, Canary: 3, Stable: 99},
		{Rho: 0.05, Canary: 28, Stable: 175},
	}
	canary, stable := evidence.Rate{Bad: 31, Good: 989}, evidence.Rate{Bad: 274, Good: 27_106}
	rule := evidence.Rule{Alpha: 0.05, Beta: 0.05, MinRequests: 500, MinTime: 2 * time.Minute,
		MaxDwell: time.Hour}
	d := rule.Decide(evidence.Look{Requests: 920, Elapsed: 125 * time.Second,
		Guards: []evidence.Guard{{
			Name:  "errors",
			Facts: evidence.Arms(canary, stable),
			Harm:  errors.Harm(),
			// Within 1.5 times the stable version's errors, or below 2 % in any case.
			Sound:     evidence.Average(errors.Sound(0.5), canary.Sound(0.02)),
			Tolerable: evidence.Average(errors.Sound(1), canary.Sound(0.04)),
		}}})
	low, high := errors.Risk(0.05)
	fmt.Println(d.Verdict)
	fmt.Println(strings.ReplaceAll(d.Reason, "; ", "\n"))
	fmt.Printf("%.1f to %.1f times the errors\n", low, high)
	// Output:
	// roll back
	// errors: canary 31 of 1020 (3.04 %), stable 274 of 27380 (1 %)
	// a sound version shows this at most once in 61916 rollouts, the limit is once in 20
	// 1.7 to 5.1 times the errors
}
