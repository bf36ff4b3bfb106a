package fetch

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/registry/artifact"
)

// TestIntoStore fetches a file into a store, whose connection breaks so often that
// the first ingest fails. The second goes on where that has stopped, even if the
// server then wants to send all of it.
func TestIntoStore(t *testing.T) {
	large := strings.Repeat(content, 50_000)
	h := sha256.Sum256([]byte(large))
	digest := hex.EncodeToString(h[:])
	f := func(plain bool, sent int) {
		t.Helper()
		cfg := artifact.DefaultConfig()
		cfg.Dir = t.TempDir()
		store, err := artifact.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		var cuts, served int
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if plain {
				r.Header.Del("Range")
			}
			left := 1 << 30
			if cuts > 0 {
				cuts, left = cuts-1, 200_000
			}
			c := &cutter{ResponseWriter: w, left: left}
			defer func() { served += left - c.left }()
			http.ServeContent(c, r, "", time.Time{}, strings.NewReader(large))
		})
		c := client(t, quick(s.URL))
		ingest := func() error {
			_, err := store.Ingest(t.Context(), "test", func(w *artifact.Writer) error {
				resp, err := c.Do(t.Context(), Request{URL: s.URL, Size: int64(len(large)),
					Offset: w.Partial(digest)})
				if err != nil {
					return err
				}
				defer resp.Body.Close()
				if resp.Offset > 0 {
					return w.Rest("f", resp.Size, digest, resp.Body)
				}
				return w.File("f", resp.Size, digest, resp.Body)
			})
			return err
		}
		cuts = 1
		want(t, ingest(), ErrCut, "200000 of 1800000 bytes")
		if err := ingest(); err != nil {
			t.Error(err)
		}
		s.Close() // waits for the handlers
		if served != sent {
			t.Errorf("%d bytes were sent, want %d", served, sent)
		}
		list := store.List()
		if len(list) != 1 || store.Verify(t.Context(), list[0].Digest) != nil {
			t.Errorf("the store has %+v", list)
		}
	}
	f(false, len(large))
	f(true, len(large)+200_000)
}
