package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/cmd/millrace/values"
	"github.com/millrace-ml/millrace/drift/reference"
)

func newReference() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reference",
		Short: "Make and show what monitors compare live data with",
	}
	cmd.AddCommand(newReferenceBuild(), newReferenceShow())
	return cmd
}

// referenceFlags say what of the data counts.
type referenceFlags struct {
	options  reference.Options
	season   string
	captured capturedFlags
	to       string
}

func newReferenceBuild() *cobra.Command {
	var f referenceFlags
	cmd := &cobra.Command{
		Use:   "build FILE|DIR...",
		Short: "Make a small profile of training data or of samples, without any of its rows",
		Long: "build counts how the values of each column are distributed, for monitors to\n" +
			"compare live data with. It takes one of\n\n" +
			"  data.csv, data.parquet   a table with a column for each feature\n" +
			"  DIR, *.jsonl, *.parquet  samples that a tap has written (taps.files)\n" +
			"  input_example.json       MLflow's, which rarely has rows enough\n\n" +
			"Columns of a table must be called as the model's inputs and outputs are: a tensor\n" +
			"with several numbers a row has a column for each, x.0, x.1, unless its signature\n" +
			"names them. Columns that the model does not have, such as the label, are ignored\n" +
			"by --ignore.",
		Example: "  millrace reference build train.parquet --ignore label -o " +
			"drift_reference.json\n" +
			"  millrace reference build train.csv --categorical zip --time at " +
			"--season hour_of_day\n" +
			"  millrace reference build samples --endpoint fraud --models models --model fraud",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.options.Season = reference.Season(f.season)
			if o := &f.options; o.Truth.Label != "" && len(o.Outputs) > 0 {
				o.Truth.Output = o.Outputs[0]
			}
			p, err := f.build(cmd.Context(), args)
			if err != nil {
				return fmt.Errorf("cannot make a reference: %w", err)
			}
			if f.to == "-" {
				return p.Write(cmd.OutOrStdout())
			}
			if err := replaceFile(f.to, func(file *os.File) error {
				return errors.Join(p.Write(file), file.Chmod(0o644)) // there is no secret in it
			}); err != nil {
				return err
			}
			if err := showProfile(cmd.OutOrStdout(), p); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "written to %s\n", f.to)
			return err
		},
	}
	flags, o := cmd.Flags(), &f.options
	flags.StringVarP(&f.to, "out", "o", "drift_reference.json",
		"file for the profile, - for standard output")
	flags.StringSliceVar(&o.Categorical, "categorical", nil,
		"columns of numbers that are names, such as codes")
	flags.StringSliceVar(&o.Outputs, "output", nil, "columns of what the model answers")
	flags.StringSliceVar(&o.Ignored, "ignore", nil, "columns that are no features")
	flags.StringVar(&o.Truth.Label, "label", "",
		"column with what the first --output should have been, for how often it is wrong")
	flags.Float64Var(&o.Truth.Scale, "scale", 0,
		"of numbers, the error that is as wrong as can be, as performance.scale of the monitor")
	flags.StringVar(&o.TimeColumn, "time", "", "column with the time of a row, for --season")
	flags.StringVar(&f.season, "season", "",
		"hour_of_day or hour_of_week, where what is normal depends on it")
	flags.StringVar(&o.Segment, "segment", "",
		"column whose most frequent values are also monitored one by one")
	f.captured.register(flags)
	_ = cmd.MarkFlagFilename("out", "json")
	_ = cmd.MarkFlagDirname("models")
	return cmd
}

func newReferenceShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show PROFILE",
		Short: "Show what a profile knows of each feature",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer file.Close()
			p, err := reference.Read(file)
			if err != nil {
				return fmt.Errorf("cannot show %s: %w", args[0], err)
			}
			return showProfile(cmd.OutOrStdout(), p)
		},
	}
}

// showProfile prints a line for each feature, and what a reference is not good for.
func showProfile(w io.Writer, p *reference.Profile) error {
	season := ""
	if p.Season != reference.NoSeason {
		season = ", by " + string(p.Season)
	}
	fmt.Fprintf(w, "%d rows%s\n\n", p.Rows, season)
	t := table(w)
	fmt.Fprintln(t, "FEATURE\tKIND\tROWS\tBINS\tMISSING\tVALUES")
	for i := range p.Features {
		f := &p.Features[i]
		counts, l := f.Total(), f.Layout()
		rows := uint64(0)
		for _, n := range counts {
			rows += n
		}
		kind, missing := "categorical", counts[l.Regular()+1]
		what := clipped(strings.Join(f.Categories, ", "))
		if l.IsNumeric() {
			kind, missing = "numeric", counts[l.Regular()]
			median, _ := l.Quantile(counts, 0.5)
			what = fmt.Sprintf("%.6g to %.6g, median %.6g", f.Edges[0],
				f.Edges[len(f.Edges)-1], median)
		}
		if f.Output {
			kind += " output"
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%.2g %%\t%s\n", values.Printable(f.Name), kind, rows,
			l.Regular(), 100*float64(missing)/float64(rows), what)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if p.Joint != nil {
		fmt.Fprintf(w, "\nand how %d numeric inputs go together, on %d directions\n",
			len(p.Joint.Features), len(p.Joint.Directions))
	}
	if p.Segments != nil {
		showSegments(w, p.Segments)
	}
	if l := p.Losses; l != nil {
		fmt.Fprintf(w, "\nand how wrong %s is: a mean loss of %.4g, of %d rows with a label\n",
			values.Printable(l.Output), l.Sum/float64(l.Rows), l.Rows)
	}
	for _, note := range p.Notes {
		fmt.Fprintf(w, "note: %s\n", values.Printable(note))
	}
	return nil
}

// showSegments tells which rows have a reference of their own.
func showSegments(w io.Writer, s *reference.Segments) {
	var list []string
	for i := range s.List {
		one := &s.List[i]
		name := one.Value
		if i == len(s.List)-1 {
			name = "all others"
		}
		if one.Profile() != nil {
			list = append(list, fmt.Sprintf("%s (%d rows)", values.Printable(name), one.Rows))
		}
	}
	fmt.Fprintf(w, "\nand alone by %s: %s\n", values.Printable(s.Column),
		strings.Join(list, ", "))
}

// clipped shortens a list for a column.
func clipped(list string) string {
	const most = 40
	if runes := []rune(list); len(runes) > most {
		list = string(runes[:most-3]) + "..."
	}
	return values.Printable(list)
}
