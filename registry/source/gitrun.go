package source

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/millrace-ml/millrace/registry/artifact"
)

// Bounds of the mirror and of git's answers.
const (
	maxPacks   = 500      // files of packs, after which the mirror is made anew
	maxOutput  = 64 << 20 // bytes of an answer that is not a file
	maxStderr  = 2 << 10  // bytes of git's words that an error repeats
	killDelay  = 5 * time.Second
	gitSilence = 60 // seconds without a byte after which git gives up
)

// mirrorPath is where the mirror of a repository lies. Other refs have other mirrors.
func mirrorPath(cfg GitConfig) string {
	sum := sha256.Sum256([]byte(cfg.URL + "\x00" + cfg.Ref))
	return filepath.Join(cfg.Dir, fmt.Sprintf("git-%x", sum[:8]))
}

// sync brings the mirror up to date, and forgets the listings if that has changed
// anything. The caller holds g.mu.
func (g *Git) sync(ctx context.Context) error {
	if err := g.prepare(ctx); err != nil {
		return err
	}
	ref, err := g.ref(ctx)
	if err != nil {
		return err
	}
	_, err = g.run(ctx, nil, "fetch", "--quiet", "--force", "--prune", "--no-tags",
		"--no-write-fetch-head", "--no-recurse-submodules", "--filter=blob:none", "origin",
		"+"+ref+":"+head, "+refs/tags/*:refs/tags/*")
	if err != nil {
		return err
	}
	refs, err := g.run(ctx, nil, "for-each-ref", "--format=%(objectname) %(refname)")
	if err != nil {
		return err
	}
	branch := path.Join(strings.Split(ref, "/")[2:]...)
	if refs != g.refs || branch != g.branch || g.listings == nil {
		g.refs, g.branch, g.listings = refs, branch, make(map[string]Listing)
	}
	return nil
}

// ref asks for the full name of the config's branch or tag, or of the default branch.
func (g *Git) ref(ctx context.Context) (string, error) {
	branch, tag := "refs/heads/"+g.cfg.Ref, "refs/tags/"+g.cfg.Ref
	args := []string{"ls-remote", "--symref", "origin", "HEAD"}
	if g.cfg.Ref != "" {
		args = append(args[:3], branch, tag)
	}
	out, err := g.run(ctx, nil, args...)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		about, name, _ := strings.Cut(strings.TrimSpace(line), "\t")
		ref, symbolic := strings.CutPrefix(about, "ref: ")
		switch {
		case name == "HEAD" && symbolic && strings.HasPrefix(ref, "refs/heads/"):
			return ref, nil
		case name == branch || name == tag:
			return name, nil
		}
	}
	return "", fmt.Errorf("%w: the repository has no branch or tag %q; set ref", ErrGone, g.cfg.Ref)
}

// tags returns the names of the mirror's tags. The caller holds g.mu.
func (g *Git) tags() []string {
	var tags []string
	for line := range strings.Lines(g.refs) {
		_, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		if tag, ok := strings.CutPrefix(name, "refs/tags/"); ok {
			tags = append(tags, tag)
		}
	}
	return tags
}

// prepare makes the mirror where there is none, or where too much has gathered in it.
func (g *Git) prepare(ctx context.Context) error {
	packs, err := os.ReadDir(filepath.Join(g.mirror, "objects", "pack"))
	if g.listings != nil && err == nil && len(packs) <= maxPacks {
		return nil
	}
	if len(packs) > maxPacks {
		if err := os.RemoveAll(g.mirror); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(g.mirror, 0o755); err != nil {
		return err
	}
	if err := removeLocks(g.mirror); err != nil {
		return err
	}
	if _, err := g.run(ctx, nil, "init", "--quiet", "--bare", "--template="); err != nil {
		return err
	}
	_, err = g.run(ctx, nil, "config", "remote.origin.url", g.cfg.URL)
	return err
}

// removeLocks removes what a git that was killed has left.
func removeLocks(dir string) error {
	return filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && strings.HasSuffix(name, ".lock") {
			err = os.Remove(name)
		}
		return err
	})
}

// process is a git command that writes a file.
type process struct {
	cmd    *exec.Cmd
	cancel context.CancelFunc
	out    *bufio.Reader
	words  *excerpt
}

// excerpt keeps the first bytes of what is written to it.
type excerpt struct{ bytes.Buffer }

// Write keeps what there is room for.
func (e *excerpt) Write(p []byte) (int, error) {
	_, _ = e.Buffer.Write(p[:min(len(p), maxStderr-e.Len())])
	return len(p), nil
}

// run returns what git writes, which has to succeed.
func (g *Git) run(ctx context.Context, in io.Reader, args ...string) (string, error) {
	p, err := g.start(ctx, in, args...)
	if err != nil {
		return "", err
	}
	out, err := io.ReadAll(io.LimitReader(p, maxOutput+1))
	if err == nil && len(out) > maxOutput {
		err = fmt.Errorf("%w: git %s says more than %d bytes", artifact.ErrTooLarge, args[0],
			maxOutput)
	}
	return string(out), errors.Join(err, p.Close())
}

// start starts git in the mirror.
func (g *Git) start(ctx context.Context, in io.Reader, args ...string) (*process, error) {
	env, err := g.environment()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Timeout)
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir, cmd.Env, cmd.Stdin, cmd.WaitDelay = g.mirror, env, in, killDelay
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it has children
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	p := &process{cmd: cmd, cancel: cancel, words: &excerpt{}}
	cmd.Stderr = p.words
	out, err := cmd.StdoutPipe()
	if err == nil {
		p.out = bufio.NewReader(out)
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		if errors.Is(err, exec.ErrNotFound) {
			err = fmt.Errorf("%w: %w", ErrNoGit, err)
		}
		return nil, err
	}
	return p, nil
}

// Read reads what git writes.
func (p *process) Read(b []byte) (int, error) { return p.out.Read(b) }

// Close ends git, and says what went wrong, if what git writes was read to its end.
func (p *process) Close() error {
	_, err := p.out.Peek(1)
	unread := err == nil
	if unread {
		p.cancel()
	}
	err = p.cmd.Wait()
	p.cancel()
	if err == nil || unread {
		return nil
	}
	return fmt.Errorf("git %s: %w: %s", p.cmd.Args[1], err,
		strings.Join(strings.Fields(p.words.String()), " "))
}

// environment is git's: nothing that asks a person, runs a hook or a helper, or follows
// a redirect with the token; and no settings but these.
func (g *Git) environment() ([]string, error) {
	settings := [][2]string{
		{"core.hooksPath", os.DevNull}, {"core.fsmonitor", "false"}, {"gc.auto", "0"},
		{"maintenance.auto", "false"}, {"fetch.recurseSubmodules", "false"},
		{"credential.helper", ""}, {"http.followRedirects", "false"},
		{"http.lowSpeedLimit", "1"}, {"http.lowSpeedTime", strconv.Itoa(gitSilence)},
	}
	if g.cfg.CAFile != "" {
		settings = append(settings, [2]string{"http.sslCAInfo", g.cfg.CAFile})
	}
	token, err := secret(g.cfg.TokenFile, g.cfg.TokenEnv)
	if err != nil {
		return nil, err
	}
	if token != "" {
		both := base64.StdEncoding.EncodeToString([]byte(g.cfg.Username + ":" + token))
		settings = append(settings, [2]string{"http." + g.cfg.URL + ".extraHeader",
			"Authorization: Basic " + both})
	}
	env := slices.DeleteFunc(os.Environ(), func(s string) bool {
		return strings.HasPrefix(s, "GIT_") || strings.HasPrefix(s, "LC_") ||
			strings.HasPrefix(s, "SSH_ASKPASS")
	})
	env = append(env, "LC_ALL=C", "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=true",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_DIR="+g.mirror,
		"GIT_LITERAL_PATHSPECS=1", "GIT_NO_REPLACE_OBJECTS=1",
		"GIT_ALLOW_PROTOCOL="+g.cfg.protocols(), "GIT_SSH_COMMAND=ssh -o BatchMode=yes",
		"GIT_CONFIG_COUNT="+strconv.Itoa(len(settings)))
	for i, s := range settings {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, s[0]),
			fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, s[1]))
	}
	return env, nil
}
