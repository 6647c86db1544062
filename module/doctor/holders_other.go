//go:build !linux

package doctor

// Only Linux tells in files which process holds a port.

func holdersOf(string, uint16) []holder { return nil }

func unitOf(int) string { return "" }

func openFilesOf(int) uint64 { return 0 }
