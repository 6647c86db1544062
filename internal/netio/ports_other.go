//go:build !linux

package netio

func ephemeralPorts() int { return ianaEphemeralPorts }

// Sysctl reports false: only Linux has the parameters that the relay depends on.
func Sysctl(string) (text string, ok bool) { return "", false }

// Privileged reports whether a port needs the rights of root, as on most systems.
func Privileged(port int) bool { return port < privilegedPorts }
