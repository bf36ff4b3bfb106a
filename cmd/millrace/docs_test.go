package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/runtime/model/layout"
)

// example is a fenced block of the documentation.
type example struct{ page, kind, text string }

var block = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")

// examples returns the fenced blocks of all pages.
func examples(t *testing.T) []example {
	t.Helper()
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	var all []example
	for _, page := range append(pages, "../../README.md", "../../configs/models/README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range block.FindAllStringSubmatch(string(text), -1) {
			all = append(all, example{filepath.Base(page), m[1], m[2]})
		}
	}
	return all
}

// commandLine finds a call of millrace at the start of a line, with the lines
// that continue it.
var commandLine = regexp.MustCompile(`(?m)^(?:\$ )?(?:bin/|dist/)?millrace(?:-linux-amd64)?` +
	`((?: (?:\\\n|'[^']*'|[^#|>&\n'])*)?)`)

// Every command line of the documentation is one that the program takes.
func TestDocumentedCommands(t *testing.T) {
	found := 0
	for _, e := range examples(t) {
		for _, m := range commandLine.FindAllStringSubmatch(e.text, -1) {
			found++
			if err := takes(words(m[1])); err != nil {
				t.Errorf("%s: millrace%s: %v", e.page, m[1], err)
			}
		}
	}
	if found < 20 {
		t.Errorf("the documentation has %d command lines only", found)
	}
}

// takes says whether the program takes a command line, without running it.
func takes(args []string) error {
	root := newRoot()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	cmd, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	if err := cmd.ParseFlags(rest); err != nil && err != pflag.ErrHelp {
		return err
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}

// words splits a command line as a shell does that knows only single quotes.
func words(line string) []string {
	var all []string
	quoted := false
	for i, part := range strings.Split(strings.ReplaceAll(line, "\\\n", " "), "'") {
		if quoted = i%2 == 1; quoted {
			all = append(all, part)
			continue
		}
		all = append(all, strings.Fields(part)...)
	}
	return all
}

var (
	settings = regexp.MustCompile(
		`(?m)\A(?:#.*\n|\n)*(?:server|runtime|repository|models|triggers):`)
	fileMarker = regexp.MustCompile(`(?m)^ *\.\.\.$`)
)

// Every example of settings and of a model's configuration is a right one.
func TestDocumentedSettings(t *testing.T) {
	yaml, pbtxt := 0, 0
	for _, e := range examples(t) {
		switch {
		case e.kind == "yaml" && settings.MatchString(e.text):
			yaml++
			text := fileMarker.ReplaceAllString(e.text, "")
			if _, err := config.Parse(e.page, []byte(text)); err != nil {
				t.Errorf("%s: %v\n%s", e.page, err, e.text)
			}
		case e.kind == "pbtxt":
			pbtxt++
			if _, _, err := layout.ParseConfig([]byte(e.text)); err != nil {
				t.Errorf("%s: %v\n%s", e.page, err, e.text)
			}
		}
	}
	if yaml < 3 || pbtxt < 3 {
		t.Errorf("the documentation has %d examples of settings and %d of configurations only",
			yaml, pbtxt)
	}
}
