package api

import (
	"io"
	"net/http"
	"time"

	"github.com/millrace-ml/millrace/control"
)

// idleTimeout is how long a client may send nothing in an upload.
const idleTimeout = time.Minute

// pushBegin begins an upload, or says how far it is.
func (a *API) pushBegin(w http.ResponseWriter, r *http.Request) {
	t := told{Model: r.PathValue("name")}
	_, err := small(w, r, &t.Manifest)
	var u *upload
	if err == nil {
		u, err = a.uploads.begin(t)
	}
	var all Upload
	if err == nil {
		all, err = u.received()
	}
	if err != nil {
		a.fail(w, err)
		return
	}
	answer(w, http.StatusOK, all)
}

// pushFile receives bytes of a file.
func (a *API) pushFile(w http.ResponseWriter, r *http.Request) {
	_, err := mediaType(r, typeBytes)
	var offset uint64
	if err == nil {
		offset, err = number(r, "offset")
	}
	if err != nil {
		a.fail(w, err)
		return
	}
	u, release, err := a.uploads.acquire(r.PathValue("name"), r.PathValue("id"))
	if err != nil {
		a.fail(w, err)
		return
	}
	defer release()
	at, err := u.write(r.PathValue("path"), int64(offset), func(rest int64) io.Reader {
		return &patient{http.MaxBytesReader(w, r.Body, rest), http.NewResponseController(w)}
	})
	if err != nil {
		a.fail(w, err)
		return
	}
	answer(w, http.StatusOK, Received{r.PathValue("path"), at})
}

// patient reads as long as something comes: a large file takes longer than the server's bound
// for requests.
type patient struct {
	r       io.Reader
	control *http.ResponseController
}

func (p *patient) Read(b []byte) (int, error) {
	if err := p.control.SetReadDeadline(time.Now().Add(idleTimeout)); err != nil {
		return 0, err
	}
	return p.r.Read(b)
}

// pushCommit makes a version of an upload that is whole.
func (a *API) pushCommit(w http.ResponseWriter, r *http.Request) {
	_, err := small(w, r, nil)
	if err == nil {
		err = unbounded(w)
	}
	if err != nil {
		a.fail(w, err)
		return
	}
	u, release, err := a.uploads.acquire(r.PathValue("name"), r.PathValue("id"))
	if err != nil {
		a.fail(w, err)
		return
	}
	defer release()
	if err := u.verify(); err != nil {
		a.fail(w, err)
		return
	}
	version, err := a.deps.Uploads.Push(r.Context(), control.Push{Model: u.told.Model,
		Version: u.told.Version, Aliases: u.told.Aliases, Files: u.files(), By: author(r)})
	if err != nil {
		a.fail(w, otherwise(err, http.StatusUnprocessableEntity))
		return
	}
	a.uploads.remove(u)
	answer(w, http.StatusCreated, Pushed{version})
}
