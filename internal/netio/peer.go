package netio

// PeerState reports what a socket knows of its peer, without reading from it.
type PeerState struct {
	// Failed: the connection was reset or timed out, and the error is pending:
	// the next read that finds no bytes, or the next write, returns it.
	Failed bool
	// Closed: both directions are shut down. Without Failed, either both sides
	// have sent a FIN, or the pending error was returned by an earlier call.
	Closed bool
}

// Reset reports whether the connection is gone rather than merely half-closed.
func (s PeerState) Reset() bool { return s.Failed || s.Closed }
