// Package millrace_test holds the checkout against the house rules: which
// package may import which, how long things may get, what has to be documented,
// and what must not be committed. Generated code is left out.
package millrace_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

const module = "github.com/millrace-ml/millrace/"

// The limits of sizes.
const (
	maxFunction   = 70 // lines
	maxFile       = 600
	maxColumns    = 100
	maxParameters = 4
	maxMethods    = 3 // of an interface
	tabColumns    = 4
)

// mayImport says which folders of ours a folder's packages may import beside
// those of the folder itself. The longest folder that matches holds.
var mayImport = map[string][]string{
	"cmd":            {""},
	"control":        {"gateway/route", "registry", "drift", "runtime/model", "runtime/tensor"},
	"control/proof":  {"gateway/wire", "runtime/batch", "runtime/model", "runtime/tensor"},
	"gateway":        {"runtime/batch", "runtime/model", "runtime/tensor"},
	"gateway/wire":   {"runtime/tensor"},
	"runtime":        {},
	"runtime/model":  {"runtime/batch", "runtime/ort", "runtime/tensor"},
	"runtime/batch":  {"runtime/tensor"},
	"runtime/ort":    {"runtime/tensor"},
	"registry":       {"runtime/tensor"},
	"drift":          {"runtime/tensor"},
	"bench":          {},
	"deploy":         {},
	"configs":        {},
	"examples":       {},
	"runtime/tensor": {},
}

// source is one file of Go code.
type source struct {
	path string
	text []byte
	fset *token.FileSet
	file *ast.File
}

func (s *source) isTest() bool { return strings.HasSuffix(s.path, "_test.go") }

// at names a place for people.
func (s *source) at(p token.Pos) string {
	return s.path + ":" + strconv.Itoa(s.fset.Position(p).Line)
}

// lines returns how many lines a node spans.
func (s *source) lines(n ast.Node) int {
	return s.fset.Position(n.End()).Line - s.fset.Position(n.Pos()).Line + 1
}

// checkedIn lists the files that are committed or about to be.
func checkedIn(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command("git", "ls-files", "-z", "--cached", "--others",
		"--exclude-standard").Output()
	if err != nil {
		t.Fatalf("cannot list the files of the checkout: %v", err)
	}
	files := strings.Split(strings.TrimRight(string(out), "\x00"), "\x00")
	files = slices.DeleteFunc(files, func(f string) bool {
		info, err := os.Stat(f)
		return err != nil || !info.Mode().IsRegular() // deleted, and not yet committed
	})
	if len(files) < 100 {
		t.Fatalf("the checkout has %d files only", len(files))
	}
	return files
}

// sources parses all Go code but the generated.
func sources(t *testing.T) []*source {
	t.Helper()
	var all []*source
	for _, name := range checkedIn(t) {
		if filepath.Ext(name) != ".go" {
			continue
		}
		s := &source{path: name, fset: token.NewFileSet()}
		var err error
		if s.text, err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
		mode := parser.ParseComments | parser.SkipObjectResolution
		if s.file, err = parser.ParseFile(s.fset, name, s.text, mode); err != nil {
			t.Fatal(err)
		}
		if !ast.IsGenerated(s.file) {
			all = append(all, s)
		}
	}
	return all
}

// within says whether a folder is dir or below it.
func within(folder, dir string) bool {
	return dir == "" || folder == dir || strings.HasPrefix(folder, dir+"/")
}

// TestImports holds the packages' imports against mayImport.
func TestImports(t *testing.T) {
	for _, s := range sources(t) {
		if s.isTest() {
			continue
		}
		folder := path.Dir(s.path)
		home, found := "", false
		for dir := range mayImport {
			if within(folder, dir) && len(dir) > len(home) {
				home, found = dir, true
			}
		}
		if !found {
			t.Errorf("%s: lint knows no rule for the folder %s", s.path, folder)
			continue
		}
		for _, spec := range s.file.Imports {
			name, _ := strconv.Unquote(spec.Path.Value)
			ours, ok := strings.CutPrefix(name, module)
			if !ok || within(ours, home) ||
				slices.ContainsFunc(mayImport[home],
					func(d string) bool { return within(ours, d) }) {
				continue
			}
			t.Errorf("%s: %s must not import %s", s.at(spec.Pos()), home, ours)
		}
	}
}

// TestSizes holds functions, files, lines and interfaces against their limits.
func TestSizes(t *testing.T) {
	for _, s := range sources(t) {
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if got := s.lines(n); got > maxFunction {
					t.Errorf("%s: %s has %d lines, %d at most", s.at(n.Pos()), n.Name.Name, got,
						maxFunction)
				}
			case *ast.FuncType:
				if got := n.Params.NumFields(); got > maxParameters {
					t.Errorf("%s: %d parameters, %d at most", s.at(n.Pos()), got, maxParameters)
				}
			case *ast.InterfaceType:
				if got := n.Methods.NumFields(); got > maxMethods {
					t.Errorf("%s: an interface of %d methods, %d at most", s.at(n.Pos()), got,
						maxMethods)
				}
			}
			return true
		})
	}
	for _, name := range checkedIn(t) {
		if slices.Contains([]string{".go", ".sh"}, filepath.Ext(name)) {
			checkLines(t, name)
		}
	}
}

func checkLines(t *testing.T, name string) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if regexp.MustCompile(`(?m)^(//|#) Code generated .* DO NOT EDIT`).Match(text) {
		return
	}
	n := 0
	for line := range bytes.Lines(text) {
		n++
		tabs := bytes.Count(line, []byte("\t"))
		columns := utf8.RuneCount(bytes.TrimRight(line, "\n")) + tabs*(tabColumns-1)
		if columns > maxColumns {
			t.Errorf("%s:%d: %d columns, %d at most", name, n, columns, maxColumns)
		}
	}
	if n > maxFile {
		t.Errorf("%s has %d lines, %d at most", name, n, maxFile)
	}
}

// TestPackages wants a comment on each package and no package for odds and ends.
func TestPackages(t *testing.T) {
	documented := make(map[string]bool)
	for _, s := range sources(t) {
		if s.isTest() {
			continue
		}
		dir := path.Dir(s.path)
		documented[dir] = documented[dir] || s.file.Doc != nil
		switch name := s.file.Name.Name; name {
		case "util", "utils", "common", "helper", "helpers", "manager", "misc":
			t.Errorf("%s: %s says nothing about what the package is for", s.path, name)
		}
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s: no file has a package comment", dir)
		}
	}
}

// TestComments wants a sentence on each exported name.
func TestComments(t *testing.T) {
	for _, s := range sources(t) {
		if s.isTest() {
			continue
		}
		for _, decl := range s.file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && exportedReceiver(d) {
					wantSentence(t, s, d.Name, d.Doc)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					checkSpec(t, s, d, spec)
				}
			}
		}
	}
}

// checkSpec looks at one type, or one line of constants or variables, for which
// a comment on their group or behind them will do.
func checkSpec(t *testing.T, s *source, d *ast.GenDecl, spec ast.Spec) {
	t.Helper()
	switch spec := spec.(type) {
	case *ast.TypeSpec:
		if spec.Name.IsExported() {
			wantSentence(t, s, spec.Name, either(spec.Doc, d.Doc))
		}
	case *ast.ValueSpec:
		for _, name := range spec.Names {
			if name.IsExported() && either(spec.Doc, either(spec.Comment, d.Doc)).Text() == "" {
				t.Errorf("%s: %s has no comment", s.at(name.Pos()), name.Name)
			}
		}
	}
}

func either(a, b *ast.CommentGroup) *ast.CommentGroup {
	if a != nil {
		return a
	}
	return b
}

// exportedReceiver says whether a function is none's method or an exported type's.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	found := false
	ast.Inspect(d.Recv.List[0].Type, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok {
			found = id.IsExported()
			return false
		}
		return true
	})
	return found
}

// wellKnown are the methods whose meaning is that of their interface.
var wellKnown = []string{"Error", "String", "Unwrap", "Len", "Less", "Swap", "Is"}

func wantSentence(t *testing.T, s *source, name *ast.Ident, doc *ast.CommentGroup) {
	t.Helper()
	text := strings.TrimSpace(doc.Text())
	switch {
	case slices.Contains(wellKnown, name.Name) && text == "":
	case text == "":
		t.Errorf("%s: %s has no comment", s.at(name.Pos()), name.Name)
	case !regexp.MustCompile(`\b` + name.Name + `\b`).MatchString(text):
		t.Errorf("%s: the comment does not name %s", s.at(name.Pos()), name.Name)
	case !strings.Contains(text, "."):
		t.Errorf("%s: the comment of %s is not a sentence", s.at(name.Pos()), name.Name)
	}
}

// TestBannedCalls finds what ends the process from within a library, and tests
// that wait for the real clock.
func TestBannedCalls(t *testing.T) {
	for _, s := range sources(t) {
		banned := []string{"os.Exit", "log.Fatal", "log.Fatalf", "fmt.Print", "fmt.Println",
			"fmt.Printf"}
		switch {
		case s.isTest():
			banned = []string{"time.Sleep"}
			// The load generator's subject is the real clock.
			if within(s.path, "bench") || bytes.Contains(s.text, []byte(`"testing/synctest"`)) {
				continue
			}
		case s.file.Name.Name == "main":
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && slices.Contains(banned, x.Name+"."+sel.Sel.Name) {
				t.Errorf("%s: %s.%s has no place here", s.at(n.Pos()), x.Name, sel.Sel.Name)
			}
			return true
		})
	}
}

// unwanted is what no committed file may hold: unfinished business, paths of
// someone's machine, and hosts that a package client has to be set up for.
// The words are taken apart here so that this file passes.
var unwanted = []*regexp.Regexp{
	regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`),
	regexp.MustCompile(`/(ho` + `me|Us` + `ers)/[A-Za-z]|/ro` + `ot/|/wo` + `rk/`),
	regexp.MustCompile(`py` + `pi\.org|pythonho` + `sted\.org|proxy\.gol` + `ang\.org|` +
		`sum\.gol` + `ang\.org|registry\.np` + `mjs\.org|deb\.deb` + `ian\.org`),
}

// TestNothingUnwanted looks through everything that is committed, models too.
func TestNothingUnwanted(t *testing.T) {
	for _, name := range checkedIn(t) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, re := range unwanted {
			if at := re.FindIndex(text); at != nil {
				line := 1 + bytes.Count(text[:at[0]], []byte("\n"))
				t.Errorf("%s:%d: holds %q", name, line, text[at[0]:at[1]])
			}
		}
	}
}
