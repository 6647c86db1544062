package handler

import (
	"os"
	"os/exec"
	"testing"
)

// alone runs a test that takes something from the whole process in a process of
// its own: true says that this is it, false that it has run and passed.
func alone(t *testing.T) bool {
	t.Helper()
	const child = "RELAY_TEST_ALONE"
	if os.Getenv(child) != "" {
		return true
	}
	self, err := os.Executable()
	check(t, err)
	cmd := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), child+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}
