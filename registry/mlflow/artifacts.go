package mlflow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
)

// File is a file of a model or a run.
type File struct {
	Path string // below the root, with slashes
	Size int64  // bytes; -1 where MLflow does not tell, as of an empty file
}

// Bounds of a listing.
const (
	maxFiles = 100_000
	maxDepth = 64
)

// proxied returns the path of artifacts that the server hands out itself.
func (c *Client) proxied(root string) (string, error) {
	rest, ok := strings.CutPrefix(root, "mlflow-artifacts:")
	if !ok {
		return "", fmt.Errorf("%w: they lie at %s", ErrDirect, root)
	}
	if authority, ok := strings.CutPrefix(rest, "//"); ok {
		host, below, _ := strings.Cut(authority, "/")
		if host != "" && host != c.host {
			return "", fmt.Errorf("%w: they lie at another server, %s", ErrDirect, root)
		}
		rest = below
	}
	if slices.Contains(strings.Split(rest, "/"), "..") {
		return "", fmt.Errorf("%w: %s", ErrURI, root)
	}
	return strings.Trim(path.Clean("/"+rest), "/"), nil
}

// local says whether a path of slashes stays below its root.
func local(name string) bool {
	return name != "" && name[0] != '/' && path.Clean(name) == name && name != "." &&
		name != ".." && !strings.HasPrefix(name, "../") && !strings.ContainsAny(name, "\\\x00")
}

// List lists all files below a root that Resolve has returned, by their paths. Its
// error is ErrNotFound when there are none.
func (c *Client) List(ctx context.Context, root string) ([]File, error) {
	base, err := c.proxied(root)
	if err != nil {
		return nil, err
	}
	files, err := c.list(ctx, base)
	if err != nil {
		return nil, fmt.Errorf("cannot list %s: %w", root, err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%w: there are no files at %s", ErrNotFound, root)
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return files, nil
}

// list lists folder after folder: one call lists one only.
func (c *Client) list(ctx context.Context, base string) ([]File, error) {
	var files []File
	folders := []string{""}
	for seen := 0; len(folders) > 0; {
		dir := folders[len(folders)-1]
		folders = folders[:len(folders)-1]
		var out struct {
			Files []struct {
				Path  string `json:"path"`
				IsDir bool   `json:"is_dir"`
				Size  *int64 `json:"file_size"`
			} `json:"files"`
		}
		query := url.Values{"path": {path.Join(base, dir)}}
		if err := c.call(ctx, "GET mlflow-artifacts/artifacts", query, &out); err != nil {
			return nil, err
		}
		if seen += len(out.Files); seen > maxFiles {
			return nil, fmt.Errorf("%w: there are more than %d files", ErrLimit, maxFiles)
		}
		for _, f := range out.Files {
			name := path.Join(dir, f.Path)
			switch {
			case !local(f.Path) || strings.Contains(f.Path, "/"):
				return nil, fmt.Errorf("%w: a file has the name %q", ErrForeign, f.Path)
			case f.IsDir && strings.Count(name, "/") >= maxDepth:
				return nil, fmt.Errorf("%w: there are more than %d folders in one another",
					ErrLimit, maxDepth)
			case f.IsDir:
				folders = append(folders, name)
			case f.Size == nil:
				files = append(files, File{name, -1})
			default:
				files = append(files, File{name, *f.Size})
			}
		}
	}
	return files, nil
}

// address returns where the content of a file is read and written, and the name of
// the call that does so.
func (c *Client) address(method, root, name string) (at, op string, err error) {
	base, err := c.proxied(root)
	if err != nil {
		return "", "", err
	}
	if !local(name) {
		return "", "", fmt.Errorf("%w: a file cannot have the name %q", ErrURI, name)
	}
	parts := strings.Split(path.Join(base, name), "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	at = "mlflow-artifacts/artifacts/" + strings.Join(parts, "/")
	return c.base + "/api/2.0/" + at, method + " " + at, nil
}

// Open opens a file below a root, from an offset on. The reader, which the caller
// closes, returns ErrTruncated if the file ends before f.Size, and ErrSize if it goes
// on after it. Of a server that knows no ranges, as in MLflow 2, what lies before the
// offset is read and thrown away.
func (c *Client) Open(
	ctx context.Context, root string, f File, offset int64,
) (io.ReadCloser, error) {
	if offset < 0 || f.Size >= 0 && offset > f.Size {
		return nil, fmt.Errorf("mlflow: %s has %d bytes and cannot be read from %d on", f.Path,
			f.Size, offset)
	}
	at, op, err := c.address(http.MethodGet, root, f.Path)
	if err != nil {
		return nil, err
	}
	if offset > 0 && offset == f.Size {
		return http.NoBody, nil // a server answers 416
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot %s: %w", op, err)
	}
	req.Header.Set("Accept-Encoding", "identity") // sizes and ranges are those of the file
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := c.send(req, op)
	if err != nil {
		return nil, err
	}
	body := &sized{ReadCloser: resp.Body, name: f.Path, left: f.Size, known: f.Size >= 0}
	if err := body.seek(resp, offset); err != nil {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("cannot %s from byte %d on: %w", op, offset, err)
	}
	return body, nil
}

// sized is a file's content, which is held against its size.
type sized struct {
	io.ReadCloser
	name  string
	left  int64 // bytes that have to come, if known
	known bool
}

// seek makes the next byte that of the offset, whatever part the server sends.
func (s *sized) seek(resp *http.Response, offset int64) error {
	switch {
	case resp.StatusCode == http.StatusPartialContent:
		want := fmt.Sprintf("bytes %d-", offset)
		if got := resp.Header.Get("Content-Range"); !strings.HasPrefix(got, want) {
			return fmt.Errorf("%w: it sends the range %q", ErrForeign, got)
		}
		s.left -= offset
		return nil
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%w: HTTP %d", ErrForeign, resp.StatusCode)
	}
	_, err := io.CopyN(io.Discard, s, offset)
	if err == io.EOF {
		err = ErrTruncated
	}
	return err
}

// Read reads on, and holds the end against the size.
func (s *sized) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return n, fmt.Errorf("%w: %s: %w", ErrTruncated, s.name, err)
	}
	if !s.known {
		return n, err
	}
	if int64(n) > s.left {
		n = int(s.left)
		s.left = 0
		return n, fmt.Errorf("%w: %s is longer than listed", ErrSize, s.name)
	}
	if s.left -= int64(n); err == io.EOF && s.left > 0 {
		return n, fmt.Errorf("%w: %s lacks %d bytes", ErrTruncated, s.name, s.left)
	}
	return n, err
}

// Upload writes a file below a root, for instance a run's ArtifactURI. One that is
// there is replaced. Only a bytes.Reader, bytes.Buffer or strings.Reader can be sent
// again by a Doer that repeats requests.
func (c *Client) Upload(ctx context.Context, root string, f File, body io.Reader) error {
	at, op, err := c.address(http.MethodPut, root, f.Path)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, at, body)
	if err != nil {
		return fmt.Errorf("cannot %s: %w", op, err)
	}
	req.ContentLength = f.Size
	req.Header.Set("Content-Type", "application/octet-stream")
	resp, err := c.send(req, op)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	return decode(resp, op, nil)
}
