package resolver

import (
	"errors"
	"net"
	"net/netip"
	"strings"
)

// errClosed is the error of lookups of a closed Cache without a cached answer.
var errClosed = errors.New("the DNS cache is closed")

// noAddresses returns the error for an answer without error and without usable addresses.
func noAddresses(name string, unusable []netip.Addr) error {
	if len(unusable) > 0 {
		var texts []string
		for _, addr := range unusable {
			texts = append(texts, addr.String())
		}
		return &net.DNSError{Err: "the answer has only addresses that no backend can have: " + strings.Join(texts, ", "), Name: name, IsNotFound: true}
	}
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
