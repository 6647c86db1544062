package relaytest

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// childVariable is set in the environment of a test's child process.
const childVariable = "RELAY_TEST_CHILD"

// InChild runs the calling test in a child process, for tests that change
// something of the whole process, such as its descriptor limit. It returns true
// in the child, which then runs the test's body. In the parent it returns false
// after the child has passed, and fails the test if the child failed. It skips
// the test if the child skipped it. env is added to the child's environment, as
// "NAME=value".
func InChild(t *testing.T, env ...string) bool {
	t.Helper()
	return InChildCommand(t, func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, env...) })
}

// InChildCommand is [InChild] with a function that changes the command of the
// child process before it is started.
func InChildCommand(t *testing.T, change func(*exec.Cmd)) bool {
	t.Helper()
	if os.Getenv(childVariable) == t.Name() {
		return true
	}
	self, err := os.Executable()
	Check(t, err)
	cmd := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), childVariable+"="+t.Name())
	change(cmd)
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, syscall.ENOEXEC):
		t.Skip("an emulator runs this program, which therefore cannot start itself")
	case err != nil:
		t.Fatalf("child process: %v\n%s", err, out)
	case strings.Contains(string(out), "--- SKIP: "+t.Name()+" "):
		t.Skipf("child process: %s", out)
	case testing.Verbose():
		t.Logf("child process:\n%s", out)
	}
	return false
}
