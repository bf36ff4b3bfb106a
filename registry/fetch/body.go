package fetch

import (
	"context"
	"io"
	"net/http"
	"strings"
	"time"
)

// body is a Response's Body. When the connection breaks it asks for the rest, as
// long as the file is certain to be the same.
type body struct {
	call      *call
	answer    *answer
	at        int64  // bytes of the file that were read, the offset included
	size      int64  // of the file; -1 where that is not known
	validator string // names the file's content; empty when nothing does
	left      int    // how often the rest may be asked for
	err       error  // what ended the body
}

// Read reads on. Its errors are those of the package, and io.EOF only when the
// file is as long as it was to be.
func (b *body) Read(p []byte) (int, error) {
	if len(p) == 0 || b.err != nil {
		return 0, b.err
	}
	for {
		n, err := b.answer.Read(p)
		b.at += int64(n)
		if b.err = b.judge(err); b.err != nil || n > 0 {
			return n, b.err
		}
	}
}

// judge returns what ends the body, after a read with that error.
func (b *body) judge(err error) error {
	k, wanted := b.call, b.call.req.Size
	switch {
	case b.at > k.c.cfg.MaxBytes:
		return k.fail(ErrTooLarge, "it has more than %d bytes (max_bytes)", k.c.cfg.MaxBytes)
	case wanted > 0 && b.at > wanted:
		return k.fail(ErrSize, "it has more than %d bytes", wanted)
	case err == nil:
		return nil
	case err != io.EOF || b.at < b.size:
		return b.goOn(err)
	case b.at < wanted:
		return k.fail(ErrSize, "it has %d bytes, not %d", b.at, wanted)
	}
	return io.EOF
}

// goOn asks for the rest of the file after an error.
func (b *body) goOn(err error) error {
	k := b.call
	cut := k.failed(b.answer.ctx, ErrCut, err)
	cut.Detail = "it broke off after " + amount(b.at, max(b.size, k.req.Size))
	for n := 1; b.validator != "" && b.left > 0 && k.repeatable() && transient(cut); n++ {
		b.left--
		if !k.pause(n, cut.RetryAfter) {
			break
		}
		next, fault := k.attempt(b.at, b.validator)
		if fault != nil {
			cut = fault
			continue
		}
		if next.offset != b.at {
			next.close()
			return k.fail(ErrCut, "it broke off after %s and has changed since",
				amount(b.at, b.size))
		}
		b.answer.close()
		b.answer = next
		return nil
	}
	return cut
}

// Close ends the call.
func (b *body) Close() error {
	b.answer.close()
	b.call.cancel()
	if b.err == nil {
		b.err = context.Canceled
	}
	return nil
}

// validator returns what names the content of an answer for certain: a strong
// ETag, or a time of change that lay back a minute at least, so that a second
// change within its resolution cannot hide (RFC 9110 8.8.2.2 and 13.1.5).
func validator(h http.Header) string {
	if tag := h.Get("ETag"); strings.HasPrefix(tag, `"`) {
		return tag
	}
	changed := h.Get("Last-Modified")
	at, err := http.ParseTime(changed)
	sent, err2 := http.ParseTime(h.Get("Date"))
	if err != nil || err2 != nil || sent.Sub(at) < time.Minute {
		return ""
	}
	return changed
}
