//go:build !linux

// Command bench measures the relay next to its peers. It works on Linux only,
// because it reads what Linux reports about other processes.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: the benchmark needs Linux")
	os.Exit(1)
}
