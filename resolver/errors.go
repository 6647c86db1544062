package resolver

import (
	"errors"
	"net"
	"strings"
)

// errClosed is why a closed Cache does not look up.
var errClosed = errors.New("the DNS cache is closed")

// noAddresses is the error for an answer without error and without addresses.
func noAddresses(name string) error {
	return &net.DNSError{Err: "no addresses in the answer", Name: name, IsNotFound: true}
}

// lookupError is "lookup NAME: reason". It differs from fmt.Errorf in that the name is not said
// again by each DNSError within.
type lookupError struct {
	text  string
	cause error
}

func newLookupError(name string, cause error) error {
	return &lookupError{text: "lookup " + name + ": " + reason(cause), cause: cause}
}

func (e *lookupError) Error() string { return e.text }
func (e *lookupError) Unwrap() error { return e.cause }

// reason is the text of err without "lookup NAME on SERVER: ".
func reason(err error) string {
	switch err := err.(type) {
	case *net.DNSError:
		if err.Server != "" {
			return err.Err + " (from " + err.Server + ")"
		}
		return err.Err
	case interface{ Unwrap() []error }: // several servers, each with its own reason
		var reasons []string
		for _, e := range err.Unwrap() {
			reasons = append(reasons, reason(e))
		}
		return strings.Join(reasons, "; ")
	}
	return err.Error()
}
