package dial

import (
	"errors"
	"strings"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// Error is a failed attempt on a backend: the error of each address that was
// tried, and the class of the attempt as a whole. The zero Error has no errors.
type Error struct {
	class netio.Class
	errs  []error
}

// Error returns the errors of all addresses, separated by semicolons.
func (e *Error) Error() string {
	texts := make([]string, len(e.errs))
	for i, err := range e.errs {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

// Unwrap returns the errors of all addresses.
func (e *Error) Unwrap() []error { return e.errs }

// Add appends the error of one more address.
//
// One address that fails by the backend's fault makes the whole attempt the
// backend's fault. Exhaustion outranks an address that this machine cannot
// reach.
func (e *Error) Add(err error) {
	class := netio.Classify(err)
	if len(e.errs) == 0 || class == netio.Remote || e.class == netio.Local {
		e.class = class
	}
	e.errs = append(e.errs, err)
}

// Class returns the class of an attempt's error, which may be or wrap an
// [Error].
func Class(err error) netio.Class {
	var failed *Error
	if errors.As(err, &failed) {
		return failed.class
	}
	return netio.Classify(err)
}
