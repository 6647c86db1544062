package relaytest

import (
	"os"
	"os/exec"
	"testing"
)

// childVariable is set in the environment of a test's child process.
const childVariable = "RELAY_TEST_CHILD"

// InChild runs the calling test in a child process, for tests that change
// something of the whole process, such as its descriptor limit. It returns true
// in the child, which then runs the test's body. In the parent it returns false
// after the child has passed, and fails the test if the child failed. env is
// added to the child's environment, as "NAME=value".
func InChild(t *testing.T, env ...string) bool {
	t.Helper()
	if os.Getenv(childVariable) == t.Name() {
		return true
	}
	self, err := os.Executable()
	Check(t, err)
	cmd := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(append(os.Environ(), childVariable+"="+t.Name()), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("child process: %v\n%s", err, out)
	}
	return false
}
