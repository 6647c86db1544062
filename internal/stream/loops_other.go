//go:build !linux

package stream

import "github.com/async-relay/caddy-relay/internal/netio"

// NewEngine returns nil: event loops exist on Linux only. Relays use goroutines.
func NewEngine(*netio.ProcessorBudget) Engine { return nil }
