package reference

import (
	"fmt"
	"time"
)

// Season says whether what is normal depends on the hour.
type Season string

// The seasons that a reference may have.
const (
	NoSeason   Season = ""
	HourOfDay  Season = "hour_of_day"
	HourOfWeek Season = "hour_of_week" // from Sunday on
)

// slots returns how many references there are.
func (s Season) slots() (int, error) {
	switch s {
	case NoSeason:
		return 1, nil
	case HourOfDay:
		return 24, nil
	case HourOfWeek:
		return 7 * 24, nil
	}
	return 0, fmt.Errorf("season %q is unknown: %s, %s or none", s, HourOfDay, HourOfWeek)
}

// Slot returns which of the references holds at a time, by UTC.
func (s Season) Slot(at time.Time) int {
	at = at.UTC()
	switch s {
	case HourOfDay:
		return at.Hour()
	case HourOfWeek:
		return int(at.Weekday())*24 + at.Hour()
	}
	return 0
}
