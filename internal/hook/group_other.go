//go:build !unix

package hook

import (
	"os"
	"os/exec"
)

// setGroup does nothing: this system has no process groups, so only the command
// itself is killed, not the processes it started.
func setGroup(*exec.Cmd) {}

// terminate kills the process: this system has no SIGTERM.
func terminate(leader *os.Process) { kill(leader) }

func kill(leader *os.Process) { _ = leader.Kill() }

func groupAlive(*os.Process) bool { return false }
