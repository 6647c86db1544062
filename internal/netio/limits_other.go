//go:build !unix

package netio

// descriptorLimit: this system has no such limit.
func descriptorLimit() int { return 0 }
