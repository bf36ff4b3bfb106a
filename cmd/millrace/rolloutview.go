package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace-ml/millrace/cmd/millrace/apiclient"
	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/rollout"
	"github.com/millrace-ml/millrace/control/store"
)

// view shows a rollout as it goes on: on a terminal one block that is drawn anew, elsewhere a
// line for each thing that is new.
type view struct {
	out   io.Writer
	live  bool // out is a terminal
	drawn int  // lines of the block on the terminal
	said  string
}

func newView(out io.Writer) *view { return &view{out: out, live: onTerminal(out)} }

// wideTerminal is how many columns there are where nobody can be asked.
const wideTerminal = 100

// columnsOf is how wide the terminal is.
func columnsOf(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
		if err == nil && size.Col > 0 {
			return int(size.Col)
		}
	}
	return wideTerminal
}

// follow shows an endpoint's rollout until one ends that is under way now or begins later.
func (v *view) follow(ctx context.Context, c *apiclient.Client, endpoint string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	list, err := c.Rollouts(ctx, endpoint, 1)
	if err != nil {
		return err
	}
	var last *control.RolloutStatus
	if n := len(list.Items); n > 0 {
		status, err := decode[control.RolloutStatus](list.Items[n-1].Status)
		if err != nil {
			return fmt.Errorf("cannot read the rollout: %w", err)
		}
		last = &status
	}
	if last == nil || last.State.Phase == rollout.Done {
		_, err := fmt.Fprintf(v.out, "waiting for a rollout of %s to begin\n", endpoint)
		if err != nil {
			return err
		}
		last = nil
	}
	changes, ended := make(chan *control.RolloutStatus), make(chan error, 1)
	go func() {
		ended <- c.Watch(ctx, list.Revision, control.KindRollout, func(e store.Event) error {
			status, err := rolloutIn(e, endpoint)
			if err != nil || status == nil {
				return err
			}
			select {
			case changes <- status:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	return v.loop(last, changes, ended)
}

// errMissed is returned when a watch has missed changes.
var errMissed = errors.New("the server does not keep the changes since; follow it again")

// loop draws what comes, and once a second, for times go on.
func (v *view) loop(last *control.RolloutStatus, changes <-chan *control.RolloutStatus,
	ended <-chan error) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if last != nil {
			if err := v.draw(last); err != nil {
				return err
			}
			if s := &last.State; s.Phase == rollout.Done {
				if s.Verdict != rollout.Successful {
					return exitStatus(1)
				}
				return nil
			}
		}
		select {
		case last = <-changes:
		case <-tick.C:
		case err := <-ended:
			if errors.Is(err, apiclient.ErrGone) {
				return errMissed
			}
			return err
		}
	}
}

// rolloutIn returns the status in a change, if it is one of the endpoint's rollouts.
func rolloutIn(e store.Event, endpoint string) (*control.RolloutStatus, error) {
	i := strings.LastIndexByte(e.Name, '/')
	if e.Resource == nil || i < 0 || e.Name[:i] != endpoint {
		return nil, nil
	}
	status, err := decode[control.RolloutStatus](e.Resource.Status)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", e.Key, err)
	}
	return &status, nil
}

// draw shows the rollout.
func (v *view) draw(r *control.RolloutStatus) error {
	if !v.live {
		text := r.State.Sentence()
		if text == v.said {
			return nil
		}
		v.said = text
		_, err := fmt.Fprintln(v.out, text)
		return err
	}
	block := rolloutBlock(r, columnsOf(v.out), time.Now())
	up := ""
	if v.drawn > 0 {
		up = fmt.Sprintf("\x1b[%dA\r\x1b[J", v.drawn)
	}
	v.drawn = strings.Count(block, "\n")
	_, err := io.WriteString(v.out, up+block)
	return err
}

// rolloutBlock is all that matters of a rollout, in lines of so many columns at most.
func rolloutBlock(r *control.RolloutStatus, columns int, now time.Time) string {
	s := &r.State
	var b strings.Builder
	fmt.Fprintf(&b, "rollout   %s: version %s beside %s\n", s.ID, s.Canary.Version,
		s.Stable.Version)
	fmt.Fprintf(&b, "stage     %s\n", stageText(s, now))
	fmt.Fprintf(&b, "weight    %s %v %%\n", bar(s.Weight()/100), s.Weight())
	canary, stable := s.Seen.Counts.Arms()
	fmt.Fprintf(&b, "requests  canary %d (%d errors), stable %d (%d errors)\n", canary.Requests,
		canary.Errors, stable.Requests, stable.Errors)
	if c := s.Seen.Shadow; c.Compared+c.Failed > 0 {
		fmt.Fprintf(&b, "copies    %d compared, %d answered otherwise, %d failed\n", c.Compared,
			c.Disagreed, c.Failed)
	}
	if r.Held != "" {
		fmt.Fprintf(&b, "held      %s\n", r.Held)
	}
	guards(&b, s)
	b.WriteString("\n" + s.Sentence() + "\n")
	var out strings.Builder
	for line := range strings.Lines(b.String()) {
		out.WriteString(wrap(strings.TrimSuffix(line, "\n"), columns))
	}
	return out.String()
}

func stageText(s *rollout.State, now time.Time) string {
	text := string(s.Phase)
	switch {
	case s.Phase == rollout.Done:
		return fmt.Sprintf("%s, %s", s.Verdict, moment(s.Ended))
	case s.Phase == rollout.Step:
		text = fmt.Sprintf("step %d of %d", s.Step+1, len(s.Spec.Steps))
	}
	if s.Paused {
		text += ", paused"
	}
	return fmt.Sprintf("%s, since %s", text, age(now.Sub(s.StepBegan)))
}

// nonFiniteWeight is that of the guard that each rollout has beside those of its spec.
const nonFiniteWeight = 0.25

// guards writes what the last look found of each guard, against what is needed.
func guards(w io.Writer, s *rollout.State) {
	if len(s.Evidence) == 0 {
		return
	}
	sum := nonFiniteWeight
	for _, g := range s.Spec.Guards {
		sum += g.Weight
	}
	level := 1 - s.Spec.Confidence
	t := table(w)
	fmt.Fprintln(t, "\nGUARD\tCANARY\tSTABLE\tHARM\tSOUND")
	for i, m := range s.Evidence[len(s.Evidence)-1].Guards {
		name, weight, sound := "non_finite", nonFiniteWeight, "-"
		if i < len(s.Spec.Guards) {
			name, weight = s.Spec.Guards[i].Name(), s.Spec.Guards[i].Weight
			sound = against(m.Sound, -math.Log(level))
		}
		fmt.Fprintf(t, "%s\t%.4g\t%.4g\t%s\t%s\n", name, m.Canary, m.Stable,
			against(m.Harm, math.Log(sum/(weight*level))), sound)
	}
	_ = t.Flush() // into memory
}

// against shows a log e-value beside the one that decides, both as factors.
func against(logE, limit float64) string {
	return fmt.Sprintf("%s %s of %.3g", bar(logE/limit), factor(logE), math.Exp(limit))
}

func factor(logE float64) string {
	if logE > math.Log(1e6) {
		return "> 1e6"
	}
	return fmt.Sprintf("%.3g", math.Exp(logE))
}

// bar shows a share.
func bar(share float64) string {
	const width = 12
	full := int(math.Round(width * min(max(share, 0), 1)))
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", width-full) + "]"
}

// wrap breaks a line at spaces so that it fits.
func wrap(line string, columns int) string {
	var b strings.Builder
	for {
		runes := []rune(line)
		if len(runes) <= columns {
			return b.String() + line + "\n"
		}
		at := strings.LastIndexByte(string(runes[:columns]), ' ')
		head := string(runes[:columns])
		if at > 0 {
			head = head[:at]
		}
		b.WriteString(head + "\n")
		line = strings.TrimPrefix(line[len(head):], " ")
	}
}
