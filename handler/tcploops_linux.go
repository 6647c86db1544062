package handler

import (
	"runtime"
	"sync/atomic"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// loops are the event loops of TCP relays.
type loops struct {
	tcp     []*tcpLoop // set once
	nextTCP atomic.Uint32
}

// NewLoops returns the event loops for [Options.TCP], or nil where they are
// switched off.
func NewLoops() any {
	if netio.Disabled("engine") {
		return nil
	}
	return newLoops(runtime.GOMAXPROCS(0))
}

func newLoops(n int) *loops {
	e := &loops{tcp: make([]*tcpLoop, n)}
	pipes := newPipes()
	for i := range n {
		e.tcp[i] = &tcpLoop{pipes: pipes}
	}
	return e
}
