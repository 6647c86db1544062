package handler

import "github.com/async-relay/caddy-relay/internal/stream"

type reason = stream.Reason

// The reasons why relays and sessions end.
const (
	clientClosed  = stream.ClientClosed
	backendClosed = stream.BackendClosed
	clientReset   = stream.ClientReset
	backendReset  = stream.BackendReset
	idleTimeout   = stream.IdleTimeout
	refusedClient = stream.Refused
	panicked      = stream.Panicked
	removed       = stream.Removed
	shutdown      = stream.Shutdown
	serviceClosed = stream.ServiceClosed
)
