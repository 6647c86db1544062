package page

import (
	"net/http"
	"runtime/debug"
	"time"
)

// writeTimeout bounds the write of one event. A watcher that takes longer loses its
// stream.
const writeTimeout = 10 * time.Second

// hello is the first event: what is about the watcher and not about the services.
type hello struct {
	Operator string `json:"operator"`
	ReadOnly bool   `json:"read_only"`
	Version  string `json:"version,omitempty"` // of the relay
}

// serveEvents serves the stream of events of one watcher, until the watcher leaves
// or the config ends. The browser connects again half a second later, to the next
// config.
func (p *Handler) serveEvents(w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodHead {
		return nil
	}
	watcher, err := p.hub.watch()
	if err != nil {
		return statusErrorf(http.StatusServiceUnavailable, "%w", err)
	}
	defer p.hub.leave(watcher)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx in front must not wait for more
	out := http.NewResponseController(w)
	write := func(frame []byte) bool {
		_ = out.SetWriteDeadline(time.Now().Add(writeTimeout))
		_, err := w.Write(frame)
		return err == nil && out.Flush() == nil
	}
	defer func() { _ = out.SetWriteDeadline(time.Time{}) }()
	frame := append([]byte("retry: 500\n"), encode("hello", hello{Operator: operator(r), ReadOnly: p.ReadOnly, Version: version()})...)
	for write(frame) {
		var open bool
		select {
		case <-p.ended:
			return nil
		case <-r.Context().Done():
			return nil
		case frame, open = <-watcher.frames:
			if !open {
				return nil
			}
		}
	}
	return nil
}

// version returns the version of the relay in this program, or "" in a build from
// a checkout.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, module := range append(info.Deps, &info.Main) {
		if module.Path == modulePath && module.Version != "(devel)" {
			return module.Version
		}
	}
	return ""
}

const modulePath = "github.com/async-relay/caddy-relay"
