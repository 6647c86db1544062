//go:build !linux

// Command bench measures the relay beside its peers. It needs Linux, whose
// accounting of other processes it reads.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: the benchmark needs Linux")
	os.Exit(1)
}
