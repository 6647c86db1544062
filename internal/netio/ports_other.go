//go:build !linux

package netio

func ephemeralPorts() int { return ianaEphemeralPorts }
