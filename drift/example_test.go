package drift_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/drift"
	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/drift/sketch"
)

// A model was trained on people around 40 from two countries. Then younger ones come.
func Example() {
	r := rand.New(rand.NewPCG(1, 1))
	var csv strings.Builder
	csv.WriteString("age,country\n")
	for range 10_000 {
		fmt.Fprintf(&csv, "%.1f,%s\n", 40+10*r.NormFloat64(), []string{"at", "de"}[r.IntN(2)])
	}
	profile, err := reference.FromCSV(strings.NewReader(csv.String()), reference.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	window, err := drift.NewWindow(profile, []string{"age", "country"})
	if err != nil {
		fmt.Println(err)
		return
	}
	monitor, err := drift.NewMonitor(profile, drift.Config{FalseAlarmEvery: 1000})
	if err != nil {
		fmt.Println(err)
		return
	}
	now := time.Date(2026, 11, 25, 9, 0, 0, 0, time.UTC)
	for report := (drift.Report{}); !report.Alarm; now = now.Add(time.Minute) {
		window.Reset()
		for range 10 {
			age := 35 + 10*r.NormFloat64()
			row := []sketch.Value{sketch.Number(age), sketch.Text([]byte("de"))}
			if r.IntN(2) == 0 {
				row[1] = sketch.Text([]byte("at"))
			}
			if err := window.Add(row); err != nil {
				fmt.Println(err)
				return
			}
		}
		if report, err = monitor.Tick(window, now); err != nil {
			fmt.Println(err)
			return
		}
		if report.Alarm {
			fmt.Printf("alarm after %d ticks of 10 rows\n", report.Ticks)
			for _, s := range report.Streams {
				fmt.Printf("%s: drifted %v\n", s.Name, s.Named)
			}
		}
	}
	// Output:
	// alarm after 11 ticks of 10 rows
	// age: drifted true
	// country: drifted false
}
