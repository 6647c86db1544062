package netio

// receivedError is an error that a packet of another machine reports, after this
// machine had sent one: a router has no route, or a firewall on the way forbids the connection.
type receivedError struct{ error }

// Unwrap returns the error itself.
func (e *receivedError) Unwrap() error { return e.error }

// Received returns err, the error of a connection that began without one, so that
// its class is not [Local]: the numbers of an ICMP error are also those of a
// connect(2) that sends nothing.
func Received(err error) error {
	if Classify(err) == Local {
		return &receivedError{err}
	}
	return err
}
