package handler

import (
	"testing"

	"github.com/async-relay/caddy-relay/internal/dgram"
)

// overEngines runs a test over each UDP engine.
func overEngines(t *testing.T, test func(*testing.T, dgram.Engine)) {
	t.Run("goroutines", func(t *testing.T) { test(t, dgram.Goroutines{}) })
	t.Run("loops", func(t *testing.T) { test(t, dgram.NewEngine()) }) // goroutines again on systems without event loops
}

// withUDP returns an edit of the options that sets the UDP engine.
func withUDP(e dgram.Engine) func(*Options) { return func(o *Options) { o.UDP = e } }
