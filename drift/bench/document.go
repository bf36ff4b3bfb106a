package main

import (
	"bytes"
	"fmt"
	"os"
)

// markEnd is the line behind each table of the document.
const markEnd = "<!-- to here -->\n"

// renew replaces the sections of a document, each of which stands between two lines.
func renew(path string, sections map[string]string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("cannot renew the tables: %w", err)
	}
	for name, section := range sections {
		begin := fmt.Appendf(nil, "<!-- make bench-drift writes from here: %s -->\n", name)
		head, rest, found := bytes.Cut(text, begin)
		_, tail, ended := bytes.Cut(rest, []byte(markEnd))
		if !found || !ended {
			return fmt.Errorf("cannot renew the table %q: %s lacks the lines %q and %q", name, path,
				begin, markEnd)
		}
		text = bytes.Join([][]byte{head, begin, []byte(section), []byte(markEnd), tail}, nil)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return fmt.Errorf("cannot renew the tables: %w", err)
	}
	return nil
}
