//go:build !linux

package netio

import (
	"errors"
	"os"
	"os/exec"
)

// StartSibling fails: a process can start only children here.
func StartSibling(*exec.Cmd) error { return errors.ErrUnsupported }

// AwaitExit fails: a process can wait only for its children here.
func AwaitExit(*os.Process) error { return errors.ErrUnsupported }
