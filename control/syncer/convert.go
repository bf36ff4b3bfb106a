package syncer

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace-ml/millrace/registry/artifact"
	"github.com/millrace-ml/millrace/registry/mlflow"
	"github.com/millrace-ml/millrace/registry/source"
)

// ErrConvert is wrapped when a model could not be converted.
var ErrConvert = errors.New("syncer: cannot convert the model")

// ConverterConfig says how models of other kinds become ONNX.
type ConverterConfig struct {
	// Program and arguments. Two follow: the folder with the model's files, which it must
	// not change, and one for the result, model.onnx.
	Command []string
	Timeout time.Duration // for one model
	Memory  int64         // bytes of data that each of its processes may have
	Dir     string        // folder for files in between, the Converter's own
}

// DefaultConverterConfig has all but the command and the folder.
func DefaultConverterConfig() ConverterConfig {
	return ConverterConfig{Timeout: 5 * time.Minute, Memory: 4 << 30}
}

// Validate lists all faults.
func (c ConverterConfig) Validate() error {
	var faults []error
	if len(c.Command) == 0 || c.Command[0] == "" {
		faults = append(faults, errors.New("command: empty, must be a program and its arguments"))
	}
	if c.Timeout <= 0 {
		faults = append(faults, fmt.Errorf("timeout: %v, must be more than 0", c.Timeout))
	}
	if c.Memory <= 0 {
		faults = append(faults, fmt.Errorf("memory: %d bytes, must be more than 0", c.Memory))
	}
	if c.Dir == "" {
		faults = append(faults, errors.New("dir: empty, must be a folder"))
	}
	return errors.Join(faults...)
}

// Raw is a source that also hands out versions that are not ONNX.
type Raw interface {
	source.Source
	// PullAny is Pull for versions of any kind.
	PullAny(ctx context.Context, model, version string) (digest string, err error)
}

// Converter is a source whose versions are ONNX: what is not is converted by a program.
// The program runs the code that such models bring, and is bounded in time and memory
// but not in what it may read: only sources that are trusted may have a Converter. It
// gets nothing of this process's environment that could be a secret.
//
// The result is a version of its own in the store, and is kept by what it was made of:
// the same files are not converted again by the same command.
type Converter struct {
	Raw
	cfg   ConverterConfig
	store *artifact.Store
}

// NewConverter returns a Converter, with an empty folder for the files in between.
func NewConverter(cfg ConverterConfig, src Raw, store *artifact.Store) (*Converter, error) {
	err := cfg.Validate()
	if err == nil {
		err = os.RemoveAll(cfg.Dir)
	}
	if err == nil {
		err = os.MkdirAll(cfg.Dir, 0o755)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use a converter: %w", err)
	}
	return &Converter{src, cfg, store}, nil
}

// Pull brings a version's files into the store, converted where they are not ONNX.
func (c *Converter) Pull(ctx context.Context, model, version string) (string, error) {
	digest, err := c.Raw.Pull(ctx, model, version)
	if !errors.Is(err, source.ErrNotONNX) {
		return digest, err
	}
	if digest, err = c.PullAny(ctx, model, version); err != nil {
		return "", err
	}
	pin := convertedPrefix + c.key(digest) + "/"
	for _, v := range c.store.List() {
		for _, who := range v.Pins {
			if strings.HasPrefix(who, pin) {
				return v.Digest, nil
			}
		}
	}
	if digest, err = c.convert(ctx, digest, pin); err != nil {
		return "", fmt.Errorf("%w %s version %s: %w", ErrConvert, model, version, err)
	}
	return digest, nil
}

// key names a conversion: what of, and by which command.
func (c *Converter) key(digest string) string {
	text, _ := json.Marshal(append([]string{digest}, c.cfg.Command...)) // of texts alone
	return fmt.Sprintf("%x", sha256.Sum256(text))
}

// convert takes a version through the command into the store. The result is pinned with
// the library's name behind pin.
func (c *Converter) convert(ctx context.Context, digest, pin string) (result string, err error) {
	dir, err := os.MkdirTemp(c.cfg.Dir, "")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	if err := c.store.Materialize(ctx, digest, in); err != nil {
		return "", err
	}
	if err := os.Mkdir(out, 0o755); err != nil {
		return "", err
	}
	if err := c.run(ctx, dir); err != nil {
		return "", err
	}
	result, err = c.store.Ingest(ctx, "what was converted", func(w *artifact.Writer) error {
		return ingestFolder(w, out)
	})
	if err == nil {
		err = c.store.Pin(result, pin+library(in))
	}
	return result, err
}

// tailSize is how much of what the program has said at last stands in the reason.
const tailSize = 4 << 10

// run runs the command, and ends all that it has started.
func (c *Converter) run(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	args := append(append([]string{}, c.cfg.Command[1:]...), filepath.Join(dir, "in"),
		filepath.Join(dir, "out"))
	cmd := exec.CommandContext(ctx, c.cfg.Command[0], args...)
	said := &tail{hide: dir}
	cmd.Stdout, cmd.Stderr = said, said
	cmd.Dir, cmd.Env = dir, environment(dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	group := func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Cancel, cmd.WaitDelay = group, time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	// Before it can have started others: they inherit the limit.
	limit := unix.Rlimit{Cur: uint64(c.cfg.Memory), Max: uint64(c.cfg.Memory)}
	err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_DATA, &limit, nil)
	if errors.Is(err, unix.ESRCH) {
		err = nil // it has ended already
	}
	if err != nil {
		err = fmt.Errorf("cannot bound the memory of %s: %w", c.cfg.Command[0], err)
		cancel()
	}
	ended := cmd.Wait()
	_ = group() // fails where nothing is left
	switch {
	case err != nil:
		return err
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("%s took longer than %v and was stopped%s", c.cfg.Command[0],
			c.cfg.Timeout, said)
	case ended != nil:
		return fmt.Errorf("%s: %w%s", c.cfg.Command[0], ended, said)
	}
	return nil
}

// environment is what a program needs to find its libraries, and no secrets.
func environment(dir string) []string {
	env := []string{"TMPDIR=" + dir}
	for _, name := range []string{"PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH",
		"VIRTUAL_ENV"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// made is the file that a conversion has to make. Others beside it are taken, too:
// large models have their weights there.
const made = "model.onnx"

// ingestFolder takes the files of a folder.
func ingestFolder(w *artifact.Writer, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if info, err := root.Lstat(made); err != nil || !info.Mode().IsRegular() {
		return errors.New("the program has made no " + made)
	}
	return fs.WalkDir(root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if !e.Type().IsRegular() {
			return fmt.Errorf("the program has made %q, which is no plain file", path)
		}
		f, err := root.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(w.File(path, -1, "", f), f.Close())
	})
}

// library says what MLflow calls the library of a model; it is empty where MLflow did
// not log it.
func library(dir string) string {
	text, err := os.ReadFile(filepath.Join(dir, "MLmodel"))
	if err != nil {
		return ""
	}
	flavors, err := mlflow.ParseFlavors(text)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%.100s", strings.ReplaceAll(flavors.Library(), "/", "_"))
}

// tail keeps the end of what a program says.
type tail struct {
	text []byte
	hide string // a path that is nobody's business
}

func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	if n > tailSize {
		p = p[n-tailSize:]
	}
	t.text = append(t.text[max(0, len(t.text)+len(p)-tailSize):], p...)
	return n, nil
}

func (t *tail) String() string {
	text := strings.TrimSpace(string(bytes.ToValidUTF8(t.text, []byte("?"))))
	text = strings.NewReplacer(t.hide+"/", "", t.hide, "").Replace(text)
	return strings.TrimSuffix("; it said: "+cmp.Or(text, "nothing"), "; it said: nothing")
}
