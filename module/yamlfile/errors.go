package yamlfile

import "fmt"

// RejectedError is the error of a config that the adapter accepts and Caddy does not,
// for example because an address is in use. The previous config stays active.
type RejectedError struct {
	File string
	Err  error
}

// Error returns the reason.
func (e *RejectedError) Error() string { return fmt.Sprintf("%s: %v", e.File, e.Err) }

// Unwrap returns the error of Caddy.
func (e *RejectedError) Unwrap() error { return e.Err }

// ConflictError is the error of an edit that was not applied because of what the files
// or the running config have become. The previous config stays active.
type ConflictError struct {
	Stale  bool // the edit was made from other settings than the current ones
	Reason string
}

// Error returns the reason.
func (e *ConflictError) Error() string { return e.Reason }

func conflictf(format string, args ...any) error {
	return &ConflictError{Reason: fmt.Sprintf(format, args...)}
}
