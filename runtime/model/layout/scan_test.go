package layout

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// describe is what a scan has found: versions with the name of their model
// files, or why there is nothing.
func describe(f Folder) string {
	if f.Fault != nil {
		return "fault: " + f.Fault.Error()
	}
	var words []string
	for _, v := range f.Versions {
		rel, err := filepath.Rel(f.Dir, v.File)
		if v.Fault != nil {
			rel = v.Fault.Error()
		} else if err != nil {
			rel = err.Error()
		}
		words = append(words, v.Version+"="+rel)
	}
	return strings.Join(words, " ")
}

func TestScanFolder(t *testing.T) {
	// f makes the files of a folder, path:text each or link>target, and reads it.
	f := func(want string, files ...string) {
		t.Helper()
		root := t.TempDir()
		write(t, filepath.Join(root, "secret.onnx"), "secret")
		write(t, filepath.Join(root, "other", "model.onnx"), "other")
		for _, file := range files {
			if link, target, ok := strings.Cut(file, ">"); ok {
				write(t, filepath.Join(root, "m", link), "")
				if err := errors.Join(os.Remove(filepath.Join(root, "m", link)),
					os.Symlink(target, filepath.Join(root, "m", link))); err != nil {
					t.Fatal(err)
				}
				continue
			}
			path, text, _ := strings.Cut(file, ":")
			write(t, filepath.Join(root, "m", path), text)
		}
		got := describe(ScanFolder(root, "m"))
		if want == "" && got != "" || !strings.Contains(got, want) || strings.Contains(got, root) {
			t.Errorf("%v: got %s, want %s", files, got, want)
		}
	}
	f("1=model.onnx", "model.onnx:x")
	f("1=1/model.onnx 2=2/model.onnx v10=v10/model.onnx", "2/model.onnx:x", "v10/model.onnx:x",
		"1/model.onnx:x", "3/other.onnx:x", "warmup/model.onnx:x", ".git/model.onnx:x", "README:x")
	f("1=1/net.onnx", "1/net.onnx:x", `config.pbtxt:default_model_filename: "net.onnx"`)
	f("1=1/model.onnx/model.onnx", "1/model.onnx/model.onnx:x")
	f("", "config.pbtxt:max_batch_size: 8")
	f("fault: config.pbtxt: ", "1/model.onnx:x", "config.pbtxt:max_batch_size 8")
	f(`name is "other", the folder's is "m"`, "1/model.onnx:x", `config.pbtxt:name: "other"`)
	f("is larger than", "1/model.onnx:x", "config.pbtxt:"+strings.Repeat("#", maxConfig+1))

	f("1=net.onnx", "net.onnx:x", "MLmodel:flavors: {onnx: {data: net.onnx}}")
	f("2=2/net.onnx", "2/net.onnx:x", "2/MLmodel:flavors: {onnx: {data: net.onnx}}")
	f("1=1/model.onnx 2=layout: not a servable model: the MLflow model has the flavors sklearn",
		"1/model.onnx:x", "2/MLmodel:flavors: {sklearn: {}}")
	f("1=layout: not a servable model: MLmodel names", "MLmodel:flavors: {onnx: {data: ../x}}")

	f("1=1/model.onnx", "1/net.onnx:x", "1/model.onnx>net.onnx")
	f("2=2/model.onnx latest=latest/model.onnx", "2/model.onnx:x", "latest>2")
	f("a link that leads out of its folder", "1/model.onnx>../../secret.onnx")
	f("a link that leads out of its folder", "1>../other")
}

func TestScan(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "b", "1", "model.onnx"), "x")
	write(t, filepath.Join(root, "a", "model.onnx"), "x")
	write(t, filepath.Join(root, "notes", "README"), "x")
	write(t, filepath.Join(root, ".cache", "model.onnx"), "x")
	write(t, filepath.Join(root, "-x", "model.onnx"), "x")
	write(t, filepath.Join(root, "model.onnx"), "x")
	folders, err := Scan(root)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range folders {
		got = append(got, f.Name)
	}
	if want := "-x a b"; strings.Join(got, " ") != want {
		t.Errorf("found %v, want %s", got, want)
	}
	if folders[0].Fault == nil {
		t.Error("a name that would be a flag is taken")
	}
	if _, err := Scan(filepath.Join(root, "none")); err == nil {
		t.Error("a repository that is not there is no error")
	}
	find := func(name string, want bool) {
		t.Helper()
		if _, ok := Find(root, name, nil); ok != want {
			t.Errorf("the folder %q is found: %v", name, ok)
		}
	}
	find("a", true)
	find("notes", false)
	find("model.onnx", false)
	find("..", false)
	find("../"+filepath.Base(root)+"/a", false)
	find("", false)
}

// TestMarks: what changes a folder changes its fingerprint or stamp; what
// changes the content of a version changes its digest.
func TestMarks(t *testing.T) {
	root := t.TempDir()
	at := func(path string) string { return filepath.Join(root, "m", path) }
	write(t, at("1/model.onnx"), "x")
	write(t, at("labels.txt"), "a\n")
	write(t, at("warmup/x"), "1")
	write(t, at("config.pbtxt"),
		`output [ { name: "y" label_filename: "labels.txt" } ] model_warmup [ { name: "w" } ]`)
	marks := func() (string, string) {
		f := ScanFolder(root, "m")
		if f.Fault != nil {
			t.Fatal(f.Fault)
		}
		digest, err := Digest(f.Versions[0].Dir)
		if err != nil {
			t.Fatal(err)
		}
		return f.Versions[0].Fingerprint + f.Stamp, digest
	}
	f := func(what string, newMark, newDigest bool, change func() error) {
		t.Helper()
		mark, digest := marks()
		if err := change(); err != nil {
			t.Fatal(err)
		}
		mark2, digest2 := marks()
		if mark != mark2 != newMark || digest != digest2 != newDigest {
			t.Errorf("%s: the mark changes: %v, want %v; the digest changes: %v, want %v", what,
				mark != mark2, newMark, digest != digest2, newDigest)
		}
	}
	later := time.Now().Add(time.Hour)
	touch := func(path string) func() error {
		return func() error {
			later = later.Add(time.Hour)
			return os.Chtimes(at(path), later, later)
		}
	}
	rewrite := func(path, text string) func() error {
		return func() error { return os.WriteFile(at(path), []byte(text), 0o644) }
	}
	f("nothing", false, false, func() error { return nil })
	f("a file beside", false, false, rewrite("README", "x"))
	f("another time of the model", true, false, touch("1/model.onnx"))
	f("another model", true, true, rewrite("1/model.onnx", "yy"))
	f("weights beside it", true, true, rewrite("1/weights", "w"))
	f("a link", true, true, func() error { return os.Symlink("weights", at("1/link")) })
	f("another target", true, true, func() error {
		return errors.Join(os.Remove(at("1/link")), os.Symlink("model.onnx", at("1/link")))
	})
	f("labels", true, false, touch("labels.txt"))
	f("warm-up", true, false, rewrite("warmup/x", "22"))
	f("configuration", true, false, rewrite("config.pbtxt", "max_batch_size: 8"))
	f("labels that are not used", false, false, touch("labels.txt"))
}

// external is an ONNX model with weights in another file.
func external(location string) []byte {
	field := func(text []byte, n protowire.Number, value []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(text, n, protowire.BytesType), value)
	}
	entry := field(field(nil, entryKey, []byte("location")), entryValue, []byte(location))
	return field(nil, modelGraph, field(nil, graphInitializer, field(nil, tensorExternal, entry)))
}

func TestCheckModel(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "m", "1")
	write(t, filepath.Join(dir, "weights"), "w")
	write(t, filepath.Join(dir, "sub", "weights"), "w")
	write(t, filepath.Join(root, "secret"), "s")
	if err := os.Symlink("../../secret", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	f := func(model []byte, fault string) {
		t.Helper()
		write(t, filepath.Join(dir, "model.onnx"), string(model))
		err := CheckModel(VersionDir{Dir: dir, File: filepath.Join(dir, "model.onnx")})
		if (err == nil) != (fault == "") || err != nil && (!strings.Contains(err.Error(), fault) ||
			strings.Contains(err.Error(), root)) {
			t.Errorf("%q: the error is %v, want one with %q", model, err, fault)
		}
	}
	f(external("weights"), "")
	f(external("sub/weights"), "")
	f(external("sub"), `"sub" is not a file`)
	f(external("none"), "is missing")
	f(external("../../secret"), "outside the version's folder")
	f(external("/etc/passwd"), "outside the version's folder")
	f(external("link"), "outside the version's folder")
	f(external(""), "outside the version's folder")
	f(nil, "it is empty")
	f([]byte("<html>"), "is not a complete ONNX model")
	whole := external("weights")
	f(whole[:len(whole)-1], "is not a complete ONNX model")
	f([]byte{8, 9}, "it has no graph")
	deep := []byte{}
	for range maxNesting + 1 {
		for _, n := range []protowire.Number{attributeGraph, nodeAttribute, graphNode} {
			deep = protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), deep)
		}
	}
	f(protowire.AppendBytes(protowire.AppendTag(nil, modelGraph, protowire.BytesType), deep),
		fmt.Sprintf("nested deeper than %d", maxNesting))
}

func FuzzCheckModel(f *testing.F) {
	f.Add(external("weights"))
	f.Add(external("../weights"))
	f.Add([]byte{0x3a, 0})
	f.Add([]byte("\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, model []byte) {
		write(t, filepath.Join(dir, "model.onnx"), string(model))
		err := CheckModel(VersionDir{Dir: dir, File: filepath.Join(dir, "model.onnx")})
		if err != nil && strings.Contains(err.Error(), dir) {
			t.Errorf("the error tells a path: %v", err)
		}
	})
}

// TestLinkedVersion: a version folder that is a link is what it leads to.
func TestLinkedVersion(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "m", "1", "model.onnx"), "x")
	write(t, filepath.Join(root, "m", "2", "model.onnx"), "yy")
	for link, target := range map[string]string{"first": "1", "last": "2"} {
		if err := os.Symlink(target, filepath.Join(root, "m", link)); err != nil {
			t.Fatal(err)
		}
	}
	digests := make(map[string]string)
	for _, v := range ScanFolder(root, "m").Versions {
		digest, err := Digest(v.Dir)
		if err != nil {
			t.Fatal(err)
		}
		digests[v.Version] = digest + v.Fingerprint
	}
	if digests["first"] != digests["1"] || digests["last"] != digests["2"] ||
		digests["first"] == digests["last"] || len(digests) != 4 {
		t.Errorf("the digests are %v", digests)
	}
}
