package netio

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// The table of descriptors has room for all that the process may open, and no
// descriptor stays open.
func TestGrowDescriptorTable(t *testing.T) {
	if descriptorLimit() <= 256 {
		t.Skip("the limit of descriptors is as low as the kernel's first table")
	}
	before := openDescriptors(t)
	GrowDescriptorTable()
	if got, want := tableSize(t), min(descriptorLimit(), maxTableSize); got < want {
		t.Errorf("the table has room for %d descriptors, want %d", got, want)
	}
	if got := openDescriptors(t); got != before {
		t.Errorf("%d descriptors are open, were %d", got, before)
	}
}

// tableSize returns the size of this process's table of descriptors.
func tableSize(t *testing.T) int {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "FDSize:")
	line, _, _ := strings.Cut(rest, "\n")
	size, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return size
}

func openDescriptors(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
