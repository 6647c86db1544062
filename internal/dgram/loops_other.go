//go:build !linux

package dgram

import "github.com/async-relay/caddy-relay/internal/netio"

// NewEngine returns the fastest [Engine] of this system.
func NewEngine(*netio.ProcessorBudget) Engine { return Goroutines{} }
