package compare

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// Machine names what the figures were measured on.
type Machine struct {
	CPU         string `json:"cpu"`
	Cores       int    `json:"cores"`
	MemoryMB    int64  `json:"memory_mb"`
	Kernel      string `json:"kernel"`
	Go          string `json:"go"`
	ONNXRuntime string `json:"onnxruntime"`
}

// Report is all that a run has measured.
type Report struct {
	Machine Machine       `json:"machine"`
	Short   bool          `json:"short"`
	Began   time.Time     `json:"began"`
	Took    time.Duration `json:"took_ns"`
	Figures []Figure      `json:"figures"`
}

// machine asks the system; what cannot be read stays empty.
func machine(ctx context.Context, onnxruntime string) Machine {
	m := Machine{Cores: runtime.NumCPU(), Go: runtime.Version(), ONNXRuntime: onnxruntime}
	m.CPU = procValue("/proc/cpuinfo", "model name")
	_, _ = fmt.Sscanf(procValue("/proc/meminfo", "MemTotal"), "%d kB", &m.MemoryMB)
	m.MemoryMB /= 1000
	if out, err := exec.CommandContext(ctx, "uname", "-sr").Output(); err == nil {
		m.Kernel = strings.TrimSpace(string(out))
	}
	return m
}

// procValue returns the value of the first line "key : value" of a file.
func procValue(file, key string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// OK says whether all figures meet their bars.
func (r *Report) OK() bool {
	for i := range r.Figures {
		if !r.Figures[i].OK() {
			return false
		}
	}
	return true
}

func (m *Machine) String() string {
	return fmt.Sprintf("%s, %d cores, %.0f GB, %s, %s, ONNX Runtime %s", m.CPU, m.Cores,
		float64(m.MemoryMB)/1000, m.Kernel, m.Go, m.ONNXRuntime)
}

// cells are the columns of a figure: name, measured, bar, ok, detail.
func (f *Figure) cells() [5]string {
	unit := ""
	if f.Unit != "" {
		unit = " " + f.Unit
	}
	sign := "<="
	if f.AtLeast {
		sign = ">="
	}
	if f.Error != "" {
		return [5]string{f.Name, "-", "", "NO", f.Error}
	}
	verdict := "yes"
	if !f.OK() {
		verdict = "NO"
	}
	return [5]string{f.Name, fmt.Sprintf("%.3g%s", f.Value, unit),
		fmt.Sprintf("%s %.4g%s", sign, f.Bar, unit), verdict, f.Detail}
}

// Print writes the figures as a table for the terminal.
func (r *Report) Print(w io.Writer) error {
	fmt.Fprintf(w, "%s\n\n", &r.Machine)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "figure\tmeasured\tbar\tok\t")
	for i := range r.Figures {
		c := r.Figures[i].cells()
		fmt.Fprintln(t, strings.Join(c[:], "\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\nmeasured in %v\n", r.Took.Round(time.Second))
	return err
}

// WriteJSON writes the report into a file.
func (r *Report) WriteJSON(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = os.WriteFile(path, append(text, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("cannot write the report: %w", err)
	}
	return nil
}

// The lines of a document between which the table stands.
const (
	markBegin = "<!-- make bench writes from here -->\n"
	markEnd   = "<!-- to here -->\n"
)

// Renew replaces the table in a document.
func (r *Report) Renew(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("cannot renew the table: %w", err)
	}
	before, rest, ok := bytes.Cut(text, []byte(markBegin))
	_, after, ok2 := bytes.Cut(rest, []byte(markEnd))
	if !ok || !ok2 {
		return fmt.Errorf("cannot renew the table: %s lacks the lines %q and %q", path,
			strings.TrimSpace(markBegin), strings.TrimSpace(markEnd))
	}
	var b bytes.Buffer
	b.Write(before)
	b.WriteString(markBegin)
	fmt.Fprintf(&b, "Measured on %s: %s.\n\n", r.Began.UTC().Format(time.DateOnly), &r.Machine)
	b.WriteString("| figure | measured | bar | ok | |\n|---|---|---|---|---|\n")
	for i := range r.Figures {
		c := r.Figures[i].cells()
		for k := range c {
			c[k] = strings.NewReplacer("|", `\|`, "\n", " ").Replace(c[k])
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(c[:], " | "))
	}
	b.WriteString(markEnd)
	b.Write(after)
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("cannot renew the table: %w", err)
	}
	return nil
}
