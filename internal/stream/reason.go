package stream

// Reason is why a relay ended, as logs show it.
type Reason string

// The reasons of both TCP relays and UDP sessions.
const (
	ClientClosed     Reason = "client_closed"  // both sides finished, the client first
	BackendClosed    Reason = "backend_closed" // both sides finished, the backend first
	ClientReset      Reason = "client_reset"   // the client's connection was reset, or timed out
	BackendReset     Reason = "backend_reset"  // the backend's connection was reset, or timed out
	IdleTimeout      Reason = "idle_timeout"
	NoFirstByte      Reason = "first_byte_timeout" // the backend sent no byte in time, and the client could not be sent to another one
	RefusedNoBackend Reason = "refused_no_backend" // no backend accepted the client
	RefusedLimit     Reason = "refused_limit"      // a limit of the service was reached
	RefusedDenied    Reason = "refused_denied"     // the address of the client is not served
	Panicked         Reason = "panic"              // a bug
	Exhausted        Reason = "exhausted"          // this machine has no free descriptor or memory
	Removed          Reason = "reload"             // the service left the config and its grace period expired
	Shutdown         Reason = "shutdown"           // the process exits and the drain has timed out
	ServiceClosed    Reason = "closed"             // the service was closed
)
