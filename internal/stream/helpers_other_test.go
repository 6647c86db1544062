//go:build !unix

package stream

func setBuffers(uintptr, int) {}
