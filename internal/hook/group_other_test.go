//go:build !unix

package hook

import "os/exec"

// leaveGroup does nothing: this system has no process groups.
func leaveGroup(*exec.Cmd) {}
