package artifact

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// File is one file of a version.
type File struct {
	Path   string `json:"path"` // relative, with slashes
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// Manifest is the files of a version, sorted by path. A version has at least one.
type Manifest []File

// Bytes returns the sum of the files' sizes.
func (m Manifest) Bytes() int64 {
	var n int64
	for _, f := range m {
		n += f.Size
	}
	return n
}

// Encode returns the manifest's text: a JSON list with one line a file. The same
// files always make the same text.
func (m Manifest) Encode() []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	for i, f := range m {
		b.WriteString(map[bool]string{true: "[", false: ","}[i == 0])
		e.Encode(f) // neither a Buffer nor such a struct can fail; ends the line
	}
	b.WriteString("]\n")
	return b.Bytes()
}

// Digest returns the version's digest: the SHA-256 of the manifest's text.
func (m Manifest) Digest() string { return sum(m.Encode()) }

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

// find returns the place of a path.
func (m Manifest) find(path string) (int, bool) {
	return slices.BinarySearchFunc(m, path,
		func(f File, path string) int { return strings.Compare(f.Path, path) })
}

// decode reads the text of the manifest with that digest. A text that has the
// digest but is no manifest of ours is refused too.
func decode(text []byte, digest string) (Manifest, error) {
	if got := sum(text); got != digest {
		return nil, fmt.Errorf("%w: the manifest's digest is %s", ErrDamaged, got)
	}
	var m Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, fmt.Errorf("%w: the manifest cannot be parsed: %w", ErrDamaged, err)
	}
	if !bytes.Equal(m.Encode(), text) {
		return nil, fmt.Errorf("%w: the manifest is not written as the store writes it", ErrDamaged)
	}
	var names names
	for i, f := range m {
		if err := names.check(f.Path); err != nil {
			return nil, err
		}
		names.add(f.Path)
		if !ValidDigest(f.SHA256) || f.Size < 0 || i > 0 && m[i-1].Path >= f.Path {
			return nil, fmt.Errorf("%w: line %d of the manifest cannot be", ErrDamaged, i+1)
		}
	}
	return m, nil
}

// ValidDigest says whether a text is a SHA-256 sum as the store writes it: 64
// hexadecimal digits in lower case.
func ValidDigest(digest string) bool {
	return len(digest) == 2*sha256.Size &&
		strings.Trim(digest, "0123456789abcdef") == ""
}

// Bounds of paths. An element of 240 bytes leaves room for what other programs
// append to names.
const (
	maxPath    = 1024 // bytes
	maxElement = 240  // bytes
	maxDepth   = 16   // elements
)

// CheckPath returns an error that wraps ErrInvalid unless the path can be one of
// a version's files: relative, with slashes, in valid UTF-8, without backslashes
// and control characters, of bounded depth and length, and not through "." or "..".
func CheckPath(path string) error {
	fault := ""
	switch elements := strings.Split(path, "/"); {
	case len(path) > maxPath:
		fault = fmt.Sprintf("is longer than %d bytes", maxPath)
	case !utf8.ValidString(path):
		fault = "is not valid UTF-8"
	case strings.ContainsRune(path, '\\'):
		fault = "has a backslash"
	case strings.ContainsFunc(path, unicode.IsControl):
		fault = "has a control character"
	case strings.HasPrefix(path, "/"):
		fault = "is absolute"
	case path == "." || !fs.ValidPath(path):
		fault = `has an element that is empty, "." or ".."`
	case len(elements) > maxDepth:
		fault = fmt.Sprintf("has more than %d elements", maxDepth)
	case slices.ContainsFunc(elements, func(e string) bool { return len(e) > maxElement }):
		fault = fmt.Sprintf("has an element longer than %d bytes", maxElement)
	}
	if fault != "" {
		return fmt.Errorf("%w: the path %.256q %s", ErrInvalid, path, fault)
	}
	return nil
}

// names are the paths of one version, by their folded form: what is one file
// where case does not count must not be two here.
type names struct {
	files, folders map[string]string // folded: as written
}

// check says why a path cannot stand beside the others.
func (n *names) check(path string) error {
	if err := CheckPath(path); err != nil {
		return err
	}
	folded := fold(path)
	other, clash := n.files[folded]
	if !clash {
		other, clash = n.folders[folded]
	}
	for _, parent := range parents(folded) {
		if !clash {
			other, clash = n.files[parent]
		}
	}
	if clash {
		return fmt.Errorf("%w: the path %.256q clashes with %.256q", ErrInvalid, path, other)
	}
	return nil
}

// add takes a path in that check has allowed.
func (n *names) add(path string) {
	if n.files == nil {
		n.files, n.folders = make(map[string]string), make(map[string]string)
	}
	folded := fold(path)
	n.files[folded] = path
	for _, parent := range parents(folded) {
		n.folders[parent] = path
	}
}

// parents returns the folders that a path leads through.
func parents(path string) []string {
	var all []string
	for i, c := range path {
		if c == '/' {
			all = append(all, path[:i])
		}
	}
	return all
}

// fold returns a text that is the same for all that differ in case only: each
// rune becomes the least of those that it folds to.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, s)
}
