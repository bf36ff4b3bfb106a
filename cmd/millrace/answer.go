package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/millrace-ml/millrace/cmd/millrace/client"
	"github.com/millrace-ml/millrace/cmd/millrace/values"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// Bounds of what a table shows; --json shows everything.
const (
	maxRows  = 50
	maxCells = 12 // values of one output in one row
)

// writeTable shows the outputs, one line a row of the batch.
func writeTable(w io.Writer, a *client.Answer) error {
	rows := int64(1)
	for _, o := range a.Outputs {
		if len(o.Shape) > 0 {
			rows = max(rows, o.Shape[0])
		}
	}
	t := table(w)
	header := []string{"ROW"}
	columns := make([][]string, len(a.Outputs))
	for i := range a.Outputs {
		o := &a.Outputs[i]
		header = append(header, fmt.Sprintf("%s %s%s", values.Printable(o.Name), o.Datatype,
			tensor.FormatShape(o.Shape)))
		columns[i] = cells(o, rows, min(rows, maxRows))
	}
	fmt.Fprintln(t, strings.Join(header, "\t"))
	for r := range min(rows, maxRows) {
		line := []string{fmt.Sprint(r)}
		for _, c := range columns {
			line = append(line, c[r])
		}
		fmt.Fprintln(t, strings.Join(line, "\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if rows > maxRows {
		if _, err := fmt.Fprintf(w, "and %d more rows; --json shows all\n",
			rows-maxRows); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "model %s, version %s\n", values.Printable(a.Model),
		values.Printable(a.Version))
	return err
}

// cells returns the text of an output for the first rows that are shown. An
// output that has not as many rows as the answer stands in the first.
func cells(o *tensor.Tensor, rows, shown int64) []string {
	texts := values.Texts(o)
	out := make([]string, shown)
	if len(o.Shape) == 0 || o.Shape[0] != rows {
		out[0] = cell(o, texts)
		return out
	}
	width := int64(len(texts)) / rows
	for r := range out {
		out[r] = cell(o, texts[int64(r)*width:int64(r+1)*width])
	}
	return out
}

func cell(o *tensor.Tensor, texts []string) string {
	words := make([]string, 0, maxCells+1)
	for i, text := range texts {
		if i == maxCells {
			words = append(words, fmt.Sprintf("... %d more", len(texts)-i))
			break
		}
		text = values.Printable(text)
		if i < len(o.ClassNames) {
			text = values.Printable(o.ClassNames[i]) + "=" + text
		}
		words = append(words, text)
	}
	return strings.Join(words, " ")
}

// writeJSON writes the answer as the protocol has it.
func writeJSON(w io.Writer, a *client.Answer) error {
	var b strings.Builder
	quote := func(s string) string { return values.JSON(tensor.Bytes, s) }
	fmt.Fprintf(&b, `{"model_name":%s,"model_version":%s,"outputs":[`, quote(a.Model),
		quote(a.Version))
	for i := range a.Outputs {
		o := &a.Outputs[i]
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"name":%s,"datatype":%q,"shape":%s,"data":[`, quote(o.Name),
			o.Datatype.String(),
			tensor.FormatShape(o.Shape))
		for j, text := range values.Texts(o) {
			if j > 0 {
				b.WriteByte(',')
			}
			b.WriteString(values.JSON(o.Datatype, text))
		}
		b.WriteString("]")
		if len(o.ClassNames) > 0 {
			b.WriteString(`,"class_names":[`)
			for j, name := range o.ClassNames {
				if j > 0 {
					b.WriteByte(',')
				}
				b.WriteString(quote(name))
			}
			b.WriteString("]")
		}
		b.WriteString("}")
	}
	b.WriteString("]}\n")
	_, err := io.WriteString(w, b.String())
	return err
}
