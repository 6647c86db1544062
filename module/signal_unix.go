//go:build unix

package module

import (
	"os"
	"os/signal"
	"syscall"
)

// upgradeOnSignal makes SIGUSR2 begin an upgrade, if this process runs a config.
// Caddy logs that it does not implement the signal.
func upgradeOnSignal() {
	if !runsConfig(os.Args[1:]) {
		return
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR2)
	go func() { // ends with the process
		for range signals {
			_, _ = upgrades.run() // logs its error
		}
	}()
}
