//go:build !unix

package module

// upgradeOnSignal does nothing: there is no SIGUSR2.
func upgradeOnSignal() {}
