//go:build !linux

package netio

// GrowDescriptorTable does nothing: how other systems grow the table of descriptors was
// not measured.
func GrowDescriptorTable() {}
