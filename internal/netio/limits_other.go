//go:build !unix

package netio

// descriptorLimit returns 0: this system has no such limit.
func descriptorLimit() int { return 0 }

// HasDescriptor returns true: this system has no limit of descriptors.
func HasDescriptor() bool { return true }
