package artifact

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestCheckPath(t *testing.T) {
	long := strings.Repeat("a", maxElement)
	for _, path := range []string{"a", "a/b", "model.onnx", "...", "a/..b", ".hidden", "C:", "ü/日本",
		"a b", "~", "-rf", "%2e%2e", long, strings.Repeat("a/", maxDepth-1) + "a", "CON"} {
		if err := CheckPath(path); err != nil {
			t.Errorf("%q is refused: %v", path, err)
		}
	}
	for _, path := range []string{"", ".", "..", "/", "/a", "a/", "a//b", "./a", "a/.", "a/..",
		"../a", "a/../b", `a\b`, `..\a`, "a\x00b", "\x00", "a\nb", "a\x7fb", "a\u0085b", "\xff",
		"a\xc0\xaf", "a\xed\xa0\x80", long + "a", strings.Repeat("a/", maxDepth) + "a",
		strings.Repeat(long+"/", 4) + long} {
		if err := CheckPath(path); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q is allowed: %v", path, err)
		}
	}
}

func TestClash(t *testing.T) {
	f := func(clash bool, paths ...string) {
		t.Helper()
		for range 2 {
			var n names
			var err error
			for _, path := range paths {
				if err = n.check(path); err == nil {
					n.add(path)
				}
			}
			if clash != (err != nil) {
				t.Errorf("%q: %v", paths, err)
			}
			slices.Reverse(paths)
		}
	}
	f(false, "a", "b")
	f(false, "a/b", "a/c")
	f(false, "a.b", "a/b")
	f(true, "a", "a")
	f(true, "a", "A")
	f(true, "a/B", "A/b")
	f(true, "a", "a/b")
	f(true, "a", "A/b/c")
	f(true, "ß", "ẞ")
	f(true, "k", "\u212a") // the sign of kelvin
	f(true, "σ", "ς")
}

// alphabet is what random paths are made of: what makes trouble, mostly.
var alphabet = []string{"a", "B", "ü", "..", ".", "/", "/", "\\", "\x00", "\xff", "\n", " ", "~",
	"../../", strings.Repeat("x", 200), "//", "\u2028", "\u202e", "日"}

// checkHarmless checks what must hold of every path that is allowed.
func checkHarmless(t *testing.T, path string) {
	t.Helper()
	dir := filepath.Join("base", "store")
	joined := filepath.Join(dir, path)
	if !utf8.ValidString(path) || !filepath.IsLocal(path) || filepath.ToSlash(path) != path ||
		!strings.HasPrefix(joined, dir+string(os.PathSeparator)) ||
		strings.TrimPrefix(joined, dir+string(os.PathSeparator)) != path ||
		strings.ContainsAny(path, "\x00\\") || len(path) > maxPath {
		t.Errorf("%q is allowed", path)
	}
}

// TestPaths makes versions of random paths. What is allowed is harmless, and the
// files are found again in a folder made of them, under the same names.
func TestPaths(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	s := open(t, config(t))
	allowed := 0
	for range 40 {
		var made []string
		digest, err := s.Ingest(t.Context(), "random", func(w *Writer) error {
			for range 40 {
				var b strings.Builder
				for range 1 + rng.IntN(5) {
					b.WriteString(alphabet[rng.IntN(len(alphabet))])
				}
				path := b.String()
				if w.names.check(path) != nil {
					continue
				}
				checkHarmless(t, path)
				if err := w.File(path, -1, "", strings.NewReader("x")); err != nil {
					return err
				}
				made = append(made, path, "x")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		allowed += len(made) / 2
		dir := filepath.Join(t.TempDir(), "m")
		if err := s.Materialize(t.Context(), digest, dir); err != nil {
			t.Fatal(err)
		}
		checkSame(t, dir, made...)
	}
	if allowed < 100 {
		t.Errorf("%d paths were allowed; this tests nothing", allowed)
	}
}

func FuzzPath(f *testing.F) {
	for _, s := range alphabet {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if CheckPath(path) == nil {
			checkHarmless(t, path)
		}
	})
}

// FuzzManifest reads texts as manifests. What is read writes the same text.
func FuzzManifest(f *testing.F) {
	f.Add(string(Manifest{{"a", 1, sum(nil)}, {"b/<c>", 0, sum(nil)}}.Encode()))
	f.Add("[]\n")
	f.Add("null")
	f.Add(`[{"path":"a","size":1e3,"sha256":""}]`)
	f.Fuzz(func(t *testing.T, text string) {
		m, err := decode([]byte(text), sum([]byte(text)))
		if err == nil && string(m.Encode()) != text {
			t.Errorf("%q is read as %v", text, m)
		}
		for _, file := range m {
			checkHarmless(t, file.Path)
		}
	})
}

// TestManifest pins the text, which digests depend on.
func TestManifest(t *testing.T) {
	m := Manifest{{"a<b>", 3, strings.Repeat("0", 64)}, {"c/日", 0, strings.Repeat("f", 64)}}
	text := `[{"path":"a<b>","size":3,"sha256":"` + strings.Repeat("0", 64) + "\"}\n" +
		`,{"path":"c/日","size":0,"sha256":"` + strings.Repeat("f", 64) + "\"}\n]\n"
	if got := string(m.Encode()); got != text {
		t.Errorf("got %s", got)
	}
	if _, err := decode(Manifest{m[1], m[0]}.Encode(), Manifest{m[1], m[0]}.Digest()); err == nil {
		t.Error("a manifest that is not sorted is read")
	}
}
