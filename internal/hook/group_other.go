//go:build !unix

package hook

import (
	"os"
	"os/exec"
)

// setGroup: there are no process groups here; a command is ended alone.
func setGroup(*exec.Cmd) {}

// terminate kills: there is no way to ask.
func terminate(leader *os.Process) { kill(leader) }

func kill(leader *os.Process) { _ = leader.Kill() }

func groupAlive(*os.Process) bool { return false }
