package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"github.com/millrace-ml/millrace/cmd/millrace/apiclient"
	"github.com/millrace-ml/millrace/control/api"
	"github.com/millrace-ml/millrace/control/store"
)

func newEdit() *cobra.Command {
	var f adminFlags
	var o apiclient.Options
	cmd := &cobra.Command{
		Use:   "edit KIND NAME",
		Short: "Change a source, model or endpoint in an editor (VISUAL or EDITOR)",
		Args:  ofKind(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, plural, err := f.of(args[0])
			if err != nil {
				return err
			}
			r, err := c.Resource(cmd.Context(), plural, args[1])
			if err != nil {
				return err
			}
			text, err := editable(r)
			if err != nil {
				return err
			}
			apply := func(next []byte) (api.Effects, error) {
				return c.Apply(cmd.Context(), next, o)
			}
			return edit(cmd.Context(), text, cmd.OutOrStdout(), apply)
		},
	}
	f.register(cmd)
	changeFlags(cmd, &o)
	return cmd
}

// editable is the part of a resource that people change. The revision makes sure that nobody
// else changes it meanwhile.
func editable(r store.Resource) ([]byte, error) {
	text, err := json.Marshal(map[string]any{"kind": r.Kind, "name": r.Name, "revision": r.Revision,
		"spec": r.Spec})
	if err == nil {
		text, err = api.YAML(text)
	}
	head := "# Change the spec, save and close. After an error the text is kept.\n"
	return append([]byte(head), text...), err
}

// edit lets a person change a text and applies it. When that fails the text stays in its file.
func edit(ctx context.Context, text []byte, out io.Writer,
	apply func([]byte) (api.Effects, error)) error {
	file, err := os.CreateTemp("", "millrace-edit-*.yaml")
	if err != nil {
		return fmt.Errorf("cannot make a file to edit: %w", err)
	}
	name := file.Name()
	_, err = file.Write(text)
	if closing := file.Close(); err == nil {
		err = closing
	}
	if err != nil {
		_ = os.Remove(name) // there is nothing of a person in it yet
		return fmt.Errorf("cannot write the file to edit: %w", err)
	}
	kept := func(err error) error {
		return fmt.Errorf("%w\nthe text is kept in %s: correct it, then `millrace apply -f %s`",
			err, name, name)
	}
	editor := cmp.Or(os.Getenv("VISUAL"), os.Getenv("EDITOR"), "vi")
	cmd := exec.CommandContext(ctx, "sh", "-c", editor+` "$1"`, "sh", name)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	failed := cmd.Run()
	if failed != nil {
		failed = fmt.Errorf("the editor %s failed: %w", editor, failed)
	}
	next, err := os.ReadFile(name)
	switch {
	case err != nil:
		return errors.Join(failed, fmt.Errorf("cannot read the edited file: %w", err))
	case bytes.Equal(next, text) && failed != nil:
		return errors.Join(failed, os.Remove(name))
	case bytes.Equal(next, text):
		_, err := fmt.Fprintln(out, "nothing is changed")
		return errors.Join(err, os.Remove(name))
	case failed != nil:
		return kept(failed)
	}
	effects, err := apply(next)
	if err != nil {
		return kept(err)
	}
	return errors.Join(printEffects(out, effects), os.Remove(name))
}
