package stream

// Side is one of the two peers of a relay.
type Side uint8

const (
	ClientSide Side = iota
	BackendSide
)

func (s Side) other() Side { return 1 - s }

func (s Side) closed() Reason {
	if s == ClientSide {
		return ClientClosed
	}
	return BackendClosed
}

func (s Side) reset() Reason {
	if s == ClientSide {
		return ClientReset
	}
	return BackendReset
}
