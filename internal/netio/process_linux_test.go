package netio

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"testing"
)

// The exit of a process that is not a child is noticed, and a program that cannot be
// started is an error.
func TestSibling(t *testing.T) {
	if os.Getpid() == 1 {
		t.Skip("the PID is 1")
	}
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	cmd := exec.Command("cat") // ends with its input
	cmd.Stdin = in
	if err := StartSibling(cmd); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- AwaitExit(cmd.Process) }()
	select {
	case err := <-ended:
		if errors.Is(err, os.ErrNoHandle) {
			t.Skip("the kernel has no handles of processes")
		}
		t.Fatalf("ended before its input: %v", err)
	default:
	}
	_ = out.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := StartSibling(exec.Command(t.TempDir() + "/missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v of a missing program", err)
	}
}
