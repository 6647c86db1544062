package resolver

import (
	"errors"
	"net"
	"strings"
)

// errClosed is the error of lookups of a closed Cache without a cached answer.
var errClosed = errors.New("the DNS cache is closed")

// noAddresses returns the error for an answer without error and without addresses.
func noAddresses(name string) error {
	return &net.DNSError{Err: "no addresses in the answer", Name: name, IsNotFound: true}
}

// lookupError is an error with the text "lookup NAME: reason". Unlike with fmt.Errorf, the name is not
// repeated by each wrapped DNSError.
type lookupError struct {
	text  string
	cause error
}

func newLookupError(name string, cause error) error {
	return &lookupError{text: "lookup " + name + ": " + reason(cause), cause: cause}
}

func (e *lookupError) Error() string { return e.text }
func (e *lookupError) Unwrap() error { return e.cause }

// reason returns the text of err without "lookup NAME on SERVER: ".
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
